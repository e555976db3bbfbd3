"""Invariants I1 to I3: kill -9 at any moment; the ledger never knows too little, noise is drawn once a charge.

The default suite kills at every named point once; `-m slow` and `simulations.crash_tests.runs` a thousand times.
"""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.federated.state import RunContext
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.mechanisms import base, gateway
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.noise import SeededNoise
from fedrec.storage.run_folder import Checkpoint
from simulations.crash_tests import runs
from simulations.crash_tests.points import points
from simulations.crash_tests.witness import Verdict, Witness, judge
from tests.support.tiny import SMALL, session, small

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


def check(found: Verdict, kills: int) -> None:
    assert found.broken == [] and found.kills == kills
    assert found.released > 0 and found.over_counted <= kills
    assert found.charged == found.released + found.over_counted


def test_a_kill_at_every_named_point_leaves_the_ledger_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point once, in the first or second round that passes it."""
    mechanism = small("model=mf", base=[*SMALL, "privacy=user"])[0].mechanism
    count = len(points(mechanism))
    named = runs.arms
    monkeypatch.setattr(runs, "arms", lambda scene, number, chance: named(scene, 3 * number, chance))
    check(runs.killed("user", count, seed=1), count)


def test_kills_at_random_lines_and_moments_leave_it_true_where_devices_add_the_noise() -> None:
    check(runs.killed("user_local", 6, seed=2), 6)


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["user", "user_adaptive", "user_local", "interaction", "gateway", "banded"])
def test_a_thousand_kills(privacy: str) -> None:
    kills = 1000 if privacy == "user" else 200
    check(runs.killed(privacy, kills, seed=0), kills)


# Positive controls: the judge, told of a broken promise, names it.


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[tuple[RunContext, Witness]]:
    """A run of two rounds, both charged and released, honestly witnessed."""
    experiment, dataset = small("model=mf", "model.dim=2", base=[*SMALL, "privacy=user"])
    with session(experiment, dataset, tmp_path / "run") as opened:
        witness = Witness(tmp_path / "witness.jsonl")
        for number in (1, 2):
            opened.ledger.reserve(number)
            witness.note("draw", charge=opened.ledger.head)
            witness.note("noise", charge=opened.ledger.head, bytes=f"noise {number}")
            state = {"a": np.full(2, number, np.float32)}
            witness.released(Checkpoint(number, state, {"ledger": opened.ledger.head}))
            opened.ledger.commit(number, np.array([1]))
        yield opened, witness


def test_an_honest_run_breaks_nothing(scene: tuple[RunContext, Witness]) -> None:
    found = judge(*scene, kills=0, most=0, errors=0)
    assert found.broken == [] and (found.charged, found.released, found.over_counted) == (2, 2, 0)


BROKEN = {
    "drawn before it was charged": ({"what": "draw", "process": 1, "charge": "0" * 64}, "drawn_without_a_charge"),
    "released without a charge": (
        {"what": "release", "process": 1, "charge": "0" * 64, "round": 3, "bytes": "x"},
        "released_without_a_charge",
    ),
    "noise drawn before": ({"what": "noise", "process": 1, "charge": "", "bytes": "noise 1"}, "noise_repeated"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_judge_finds_a_broken_promise(scene: tuple[RunContext, Witness], case: str) -> None:
    line, said = BROKEN[case]
    with scene[1].path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert said in judge(*scene, kills=1, most=0, errors=0).broken


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        ("draw", {"process": -1}, "drawn_again_for_a_charge"),
        ("release", {"bytes": "other"}, "released_twice"),
        ("release", {"round": 9}, "released_twice"),
    ],
)
def test_the_judge_finds_a_second_time(scene: tuple[RunContext, Witness], what: str, change: dict, said: str) -> None:
    again = next(line for line in scene[1].lines() if line["what"] == what)
    with scene[1].path.open("a") as file:
        file.write(json.dumps({**again, **change}) + "\n")
    found = judge(*scene, kills=1, most=0, errors=0)
    assert (said in found.broken) or (change == {"round": 9} and found.released == 3)


def test_the_judge_counts_what_is_charged_too_much(scene: tuple[RunContext, Witness]) -> None:
    scene[0].ledger.reserve(3)
    assert judge(*scene, kills=1, most=1, errors=0).broken == []
    assert "over_counted" in judge(*scene, kills=0, most=1, errors=0).broken
    assert "over_counted" in judge(*scene, kills=9, most=2, errors=0).broken
    assert "errors" in judge(*scene, kills=9, most=1, errors=1).broken


@pytest.mark.parametrize("privacy", ["user", "user_local", "gateway"])
def test_noise_that_comes_back_after_a_kill_is_caught(privacy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3, its fault planted wherever noise is drawn: it follows from seed and round, so a resumed round repeats it."""
    for module in (base, gateway):
        monkeypatch.setattr(module, "make_noise_source", lambda randomness, key: SeededNoise(*key), raising=False)
    number = list(points(UserLevel())).index("checkpoint not yet written")
    named = runs.arms
    monkeypatch.setattr(runs, "arms", lambda scene, at, chance: named(scene, 3 * number, Always()))
    assert "noise_repeated" in runs.killed(privacy, 3, seed=0).broken


class Always(random.Random):
    """Chooses the first of everything: a point is deadly the first time."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


def test_a_ledger_that_charges_late_is_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noise before the reservation breaks invariant I1. The kills must find it, by themselves."""
    reserve, commit = Ledger.reserve, Ledger.commit

    def late(self: Ledger, round_number: int, cohort: np.ndarray) -> None:
        reserve(self, round_number)
        commit(self, round_number, cohort)

    monkeypatch.setattr(Ledger, "reserve", lambda self, round_number: None)
    monkeypatch.setattr(Ledger, "commit", late)
    numbers = [list(points(UserLevel())).index(name) for name in ("after the server's noise", "checkpoint durable")]
    named = runs.arms
    monkeypatch.setattr(runs, "arms", lambda scene, number, chance: named(scene, 3 * numbers[number % 2], chance))
    found = runs.killed("user", 4, seed=0)
    assert "drawn_without_a_charge" in found.broken or "drawn_again_for_a_charge" in found.broken
    assert math.isfinite(found.charged)
