"""Paired significance: against enumeration, against published values, and what can't be paired."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.cli.main import main
from fedrec.errors import FedrecError
from fedrec.study.compare import compare, groups_of, holm, sign_flip, to_json, to_lines
from tests.support.tiny import FREE


def test_sign_flips_agree_with_all_of_them() -> None:
    values = np.array([0.3, -0.1, 0.5, 0.2, 0.4, -0.05, 0.0])
    moved = values[values != 0]
    every = [abs(np.dot(signs, moved)) for signs in itertools.product((-1, 1), repeat=len(moved))]
    exact = np.mean(np.array(every) >= moved.sum() - 1e-12)
    assert sign_flip(values) == pytest.approx(exact, abs=0.02)
    assert sign_flip(np.zeros(5)) == 1


def test_holm_as_published() -> None:
    """Holm 1979's procedure on p = .01, .04, .03, .005."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_p_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True)) and max(adjusted) <= 1
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seeds of two models, and one run on other data."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_STATE", str(folder / "state"))
        for name, more in {
            "ease-0": ["model=ease", "seed=0"],
            "ease-1": ["model=ease", "seed=1"],
            "popular-0": ["model=popularity", "seed=0"],
            "popular-1": ["model=popularity", "seed=1"],
            "other": ["model=popularity", "dataset.users=30"],
        }.items():
            main(["simulate", *FREE, *more, f"output={folder}", f"name={name}", "evaluation.baselines=[]", "--json"])
    return {path.name: path for path in folder.iterdir()}


def test_seeds_are_put_together_and_users_are_paired(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    names = ("ease-0", "ease-1", "popular-0", "popular-1")
    groups = groups_of([str(runs[name]) for name in names])
    assert [group.said for group in groups] == ["model=Ease", "model=Popularity"]
    assert [sorted(group.rows) for group in groups] == [[0, 1], [0, 1]]
    (one,) = compare(groups, "full_ndcg@10")
    figures = [json.loads((runs[name] / "metrics.json").read_text())["test"]["full"]["ndcg@10"] for name in names]
    assert one.difference.mean == pytest.approx(np.mean(figures[:2]) - np.mean(figures[2:]))
    assert one.shared_seeds == 2 and one.seeds is not None and one.p == one.p_holm
    said = to_lines(groups, [one], "full_ndcg@10")
    assert "model=Popularity" in said[1] and "Holm" in said[1] and "over 2 seeds" in said[1]
    assert to_json(groups, [one], "full_ndcg@10")["against"][0]["seeds"] == 2
    main(["study", "compare", str(runs["ease-0"]), str(runs["popular-0"]), "--metric", "sampled_hr@10", "--json"])
    assert json.loads(capsys.readouterr().out)["metric"] == "sampled_hr@10"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("ease-0", "ease-1"), "differ in their seeds alone"),
        (("ease-0", "ease-0", "popular-0"), "two runs of one setting and one seed"),
        (("ease-0", "other"), r"dataset\.users=30, but .* has 40: only runs on the same data"),
        (("ease-0", "state"), "no run that has ended"),
    ],
)
def test_what_can_not_be_paired_is_named(runs: dict[str, Path], names: tuple[str, ...], said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        groups_of([str(runs[name]) for name in names])


def test_an_unknown_metric_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["study", "compare", "a", "b", "--metric", "ndcg"])
    assert ended.value.code == 2 and "full_ndcg@10" in capsys.readouterr().err
