"""Every refusal comes before the charge: each model and mechanism is played whole on its data, or refused untouched."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment import rehearsal
from fedrec.experiment.settings import load, validate
from fedrec.paths import populations
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
MECHANISMS = sorted(path.stem for path in (CONF / "privacy").glob("*.yaml"))
SMALL = {
    "mf": ["model.dim=4"],
    "sasrec": ["model.dim=4", "model.window=4", "model.blocks=1"],
    "text_sasrec": ["model.shape.dim=4", "model.shape.window=4", "model.shape.blocks=1", "model.encoder=words"],
    "two_tower": ["model.encoder=words", "model.dim=4", "model.rank=2"],
}
USERS, ITEMS = 12, 14
pytestmark = pytest.mark.filterwarnings("ignore")


def chosen(each: int) -> list[tuple[int, int]]:
    chance = np.random.default_rng(random.getrandbits(64))
    return [(user, int(item)) for user in range(1, USERS + 1) for item in chance.choice(ITEMS, each, replace=False)]


def with_features(folder: Path) -> list[str]:
    return ["dataset=synthetic", f"dataset.users={USERS}", "dataset.items=20", "dataset.interactions=150"]


def without_features(folder: Path) -> list[str]:
    (folder / "ratings.txt").write_text("".join(f"{user} {item} 3\n" for user, item in chosen(6)))
    return ["dataset=filmtrust", f"dataset.path={folder}"]


def without_tests(folder: Path) -> list[str]:
    rows = "".join(f"u{user},i{item},1\n" for user, item in chosen(1))
    (folder / "log.csv").write_text(f"user,item,time\n{rows}")
    return ["dataset=csv", f"dataset.path={folder / 'log.csv'}"]


def settings_of(folder: Path, data: Callable[[Path], list[str]], model: str, privacy: str) -> list[str]:
    own = [f"model={model}", f"privacy={privacy}", *SMALL.get(model, []), f"output={folder}", "name=run"]
    return [*data(folder), *own, "rounds=1", f"cohort.size={USERS}", "evaluation.baselines=[]"]


def check_untouched_or_whole(folder: Path, settings: list[str]) -> str:
    """Return why a run is refused, with nothing charged and nothing left behind; "" where it was played whole.

    A refusal has its own words: that something broke in a rehearsal is a fault of ours.
    """
    try:
        checked = validate(load(settings))
    except FedrecError as reason:
        assert populations() == [] and not (folder / "run").exists()
        assert "can't be played on" not in str(reason)
        return str(reason)
    named, run = new_run(checked)
    Simulation(named, run, progress=Progress(io.StringIO())).simulate()
    assert (run.path / "metrics.json").exists() and populations()
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("privacy", MECHANISMS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", [with_features, without_features], ids=["features", "no features"])
def test_each_model_and_mechanism_is_played_whole_or_refused_untouched(
    tmp_path: Path, data: Callable[[Path], list[str]], model: str, privacy: str
) -> None:
    check_untouched_or_whole(tmp_path, settings_of(tmp_path, data, model, privacy))


@pytest.mark.parametrize("model", ["content", "hybrid", "order", "popularity"])
def test_a_model_that_needs_features_is_refused_where_there_are_none(tmp_path: Path, model: str) -> None:
    said = check_untouched_or_whole(tmp_path, settings_of(tmp_path, without_features, model, "user"))
    assert ("has no public item features" in said) == (model != "popularity")


@pytest.mark.parametrize("privacy", MECHANISMS)
@pytest.mark.parametrize("model", ["mf", "popularity"])
def test_data_without_test_items_are_refused(tmp_path: Path, model: str, privacy: str) -> None:
    said = check_untouched_or_whole(tmp_path, settings_of(tmp_path, without_tests, model, privacy))
    assert f"none of the {USERS} users to evaluate has an item held out" in said


def test_what_fails_in_a_rehearsal_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.algorithms.item_counts import ItemCounts

    def broken(self: ItemCounts, *anything: object) -> None:
        raise ValueError("three is no crowd")

    monkeypatch.setattr(ItemCounts, "step", broken)
    monkeypatch.setattr(rehearsal, "_tried", set[str]())
    with pytest.raises(RefusedError, match=r"model=popularity, .*can't be played on synthetic .*three is no crowd"):
        validate(load(settings_of(tmp_path, with_features, "popularity", "user")))
    assert populations() == []
