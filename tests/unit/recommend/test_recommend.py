"""Titles as people write them, the command, and the closed form against a slow oracle."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.cli.main import main
from fedrec.cli.results import newest
from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.numpy_engine.solver import LogitStep, SolveWeights, solve_user
from fedrec.recommend.finished_run import FinishedRun
from fedrec.recommend.numpy_ranker import RankerFactory
from fedrec.recommend.ranker import ItemSearch, recommend
from tests.contracts.test_recommend import finished

FILMS = ["Toy Story (1995)", "Heat (1995)", "Matrix, The (1999)", "Heat (1986)", "Toys", "The Good, the Bad (1966)"]


def films() -> Catalogue:
    ids = np.array([f"m{n}" for n in range(len(FILMS))])
    return Catalogue(ids, np.array(FILMS), np.zeros((len(FILMS), 0), np.float32), (), "item file")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Toy Story, Heat", [0, 1]),
        ("toy story (1995)", [0]),
        ("Heat (1986)", [3]),
        ("The Matrix; heat", [2, 1]),
        ("Matrix, The, Toys", [2, 4]),
        ("the good, the bad, Heat", [5, 1]),
        ("m4, m4, Toys", [4]),
        ("Heat,", [1]),
    ],
)
def test_titles_are_found_as_people_write_them(text: str, rows: list[int]) -> None:
    assert ItemSearch(films()).rows(text).tolist() == rows


def test_an_unknown_title_gets_the_nearest_ones() -> None:
    with pytest.raises(FedrecError, match=r"no item is called 'Toy Stori'. Nearest: Toy Story \(1995\)"):
        ItemSearch(films()).rows("Heat, Toy Stori")
    with pytest.raises(FedrecError, match=r"'xqzw'. Nothing is like it"):
        ItemSearch(films()).rows("xqzw")
    with pytest.raises(FedrecError, match=r"'good'. Nearest: The Good, the Bad"):
        ItemSearch(films()).rows("good")
    with pytest.raises(FedrecError, match="no title given"):
        ItemSearch(films()).rows(" , ")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.floats(0, 1), st.floats(0.01, 10))
def test_the_closed_form_is_the_minimum(seed: int, used: int, dim: int, unobserved: float, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    every, targets = rng.normal(size=(9, dim)), rng.normal(size=used)
    vectors = every[rng.permutation(9)[:used]]

    def loss(user: np.ndarray) -> float:
        seen = np.sum((targets - vectors @ user) ** 2)
        return float(seen + unobserved * np.sum((every @ user) ** 2) + ridge * user @ user)

    parts = solve_user(vectors, targets, every.T @ every, SolveWeights(unobserved, ridge)).parts()
    assert parts.shape == (used, dim)
    best = loss(parts.sum(0))
    for _ in range(20):
        assert loss(parts.sum(0) + rng.normal(0, 0.1, dim)) >= best - 1e-9
    fewer = targets * ([0.5] + [1] * (used - 1))
    halved = solve_user(vectors, fewer, every.T @ every, SolveWeights(unobserved, ridge)).parts()
    np.testing.assert_allclose(halved[0], parts[0] / 2, atol=1e-12)  # linear: each target moves its own part alone
    np.testing.assert_allclose(halved[1:], parts[1:], atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.floats(0.1, 5), st.floats(0.1, 5))
def test_the_step_is_newtons_on_the_loss_that_it_states(
    seed: int, used: int, dim: int, negatives: float, ridge: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors, own = rng.normal(size=(9, dim)), rng.normal(size=9)
    rows = rng.permutation(9)[:used]
    length = np.mean(np.sum(vectors**2, axis=1))

    def loss(user: np.ndarray) -> float:
        logits = vectors @ user + own
        every = negatives * used / 9 * np.logaddexp(0, logits).sum()
        return float(np.logaddexp(0, -logits[rows]).sum() + every + ridge * length / 2 * user @ user)

    def slope(user: np.ndarray) -> np.ndarray:
        return np.array([(loss(user + e) - loss(user - e)) / 2e-5 for e in 1e-5 * np.eye(dim)])

    solved = LogitStep(vectors, own, negatives, ridge).of(rows)
    parts = solved.parts()
    np.testing.assert_allclose(solved.user, parts.sum(0), atol=1e-10)
    np.testing.assert_allclose(solved.item_contributions(vectors[0]), parts @ vectors[0], atol=1e-10)
    user, nobody = parts.sum(0), np.zeros(dim)
    curved = np.array([(slope(e) - slope(-e)) / 2e-3 for e in 1e-3 * np.eye(dim)])
    np.testing.assert_allclose(curved @ user, -slope(nobody), rtol=2e-3, atol=2e-4)
    assert loss(user) < loss(nobody)
    order = rng.permutation(used)
    again = LogitStep(vectors, own, negatives, ridge).of(rows[order])
    np.testing.assert_allclose(again.parts(), parts[order], atol=1e-10)


def test_ratings_are_met_and_repeats_count_once() -> None:
    rng = np.random.default_rng(0)
    shared = {
        "item.weight": rng.normal(size=(8, 3)).astype(np.float32),
        "item_bias.weight": np.zeros((8, 1), np.float32),
    }
    node = {
        "_target_": "fedrec.models.mf.MatrixFactorization",
        "_partial_": True,
        "dim": 3,
        "loss": "mse",
        "offset": 3.0,
    }
    personal, values = RankerFactory(node, 8, shared), np.array([5, 1], np.float32)
    taste = personal.ranker(np.array([2, 6]), values)
    scores = taste.scores()
    assert scores[2] > 3.4 > 3.0 > scores[6]
    again = personal.ranker(np.array([2, 6, 2]), np.array([5, 1, 5], np.float32))
    np.testing.assert_allclose(again.scores(), scores, atol=1e-6)


def test_refining_leaves_the_model_as_it_was_and_learns_the_history() -> None:
    rng = np.random.default_rng(0)
    node = {"_target_": "fedrec.models.neumf.NeuMF", "_partial_": True, "dim": 4, "layers": [6]}
    personal = RankerFactory(node, 30, {})
    shared = {n: rng.normal(0, 0.5, a.shape).astype(np.float32) for n, a in personal.model.shared_arrays().items()}
    personal = RankerFactory(node, 30, shared)
    before = {name: array.copy() for name, array in personal.model.arrays.items()}
    history = np.array([3, 7, 9])
    taste = personal.ranker(history)
    assert all(np.array_equal(before[name], array) for name, array in personal.model.arrays.items())
    gain = taste.scores() - personal.ranker(np.empty(0, np.int64)).scores()
    assert gain[history].mean() > gain.mean() + 0.5
    np.testing.assert_array_equal(personal.ranker(history).scores(), taste.scores())


def test_the_command_prints_titles_reasons_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished("mf", tmp_path)
    folder, titles = str(run.folder.path), run.catalogue.titles.tolist()
    user = str(run.dataset.interactions.user_ids[3])
    capsys.readouterr()
    main(["recommend", "--user", user, "-k", "4", folder])
    assert len(capsys.readouterr().out.splitlines()) == 6
    main(["recommend", "--likes", f"{titles[3]}; {titles[8]}", "-k", "4", folder])
    text = capsys.readouterr().out
    assert text.startswith(f"From {titles[3]}; {titles[8]}:") and "because you liked" in text
    main(["recommend", "--likes", titles[3], "--json", folder])
    found = json.loads(capsys.readouterr().out)
    assert [item["title"] for item in found["history"]] == [titles[3]] and len(found["recommendations"]) == 10


def test_without_a_folder_the_newest_run_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FedrecError, match="holds no finished run"):
        newest()
    made = finished("popularity", tmp_path / "made").folder.path
    for age, name in ((10, "old"), (0, "new"), (20, "older")):
        shutil.copytree(made, Path("runs") / name)
        changed = time.time() - age
        os.utime(Path("runs") / name / "model.safetensors", (changed, changed))
    capsys.readouterr()
    main(["recommend", "--user", "0", "-k", "2"])
    assert capsys.readouterr().out.startswith(f"By the newest run, {Path('runs') / 'new'}.\nFrom ")


MISTAKES = {
    "no run": (["{empty}", "--likes", "x"], "holds no run: give the folder that fedrec simulate printed"),
    "no such user": (["{run}", "--user", "nobody"], "no user is called 'nobody'"),
    "no such title": (["{run}", "--likes", "nothing at all"], "no item is called 'nothing at all'"),
    "no length": (["{run}", "--likes", "x", "-k", "0"], "-k 0: at least 1 expected"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished("popularity", tmp_path_factory.mktemp("runs")).folder.path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(folder: Path, tmp_path: Path, mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, said = MISTAKES[mistake]
    with pytest.raises(SystemExit) as status:
        main(["recommend", *(a.format(run=folder, empty=tmp_path) for a in arguments)])
    assert status.value.code == 2 and said in capsys.readouterr().err


def test_an_unfinished_run_and_a_strange_catalogue_are_named(folder: Path) -> None:
    (folder / "catalogue.parquet").write_bytes(b"nothing")
    with pytest.raises(FedrecError, match="is not the catalogue of a run"):
        _ = FinishedRun.open(folder).catalogue
    (folder / "model.safetensors").unlink()
    with pytest.raises(FedrecError, match="finish the run with fedrec simulate --resume"):
        FinishedRun.open(folder)


def test_at_least_one_item_must_be_asked_for() -> None:
    node = {"_target_": "fedrec.models.mf.MatrixFactorization", "_partial_": True, "dim": 2}
    with pytest.raises(FedrecError, match="at least 1 expected"):
        recommend(RankerFactory(node, 5, {}).ranker(np.array([1])), 0)
