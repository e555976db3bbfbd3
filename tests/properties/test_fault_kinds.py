"""Kinds of faults that go unnoticed in one mechanism, as invariants over all of them: `tests/mutants/kinds.json`.

A draw that follows from the seed; one draw for several arrays, rounds, devices or nodes; a sample that is drawn once
for many steps or rounds; what the first round had, used in later ones; a secret in a file that others read.
"""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from fedrec.audit.threat_model import Canaries
from fedrec.federated.loop import run
from fedrec.messages import ModelUpdate
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanisms.protocol import DPSGDConfig
from fedrec.privacy.mechanisms.user_adaptive import BIT
from fedrec.privacy.noise import SystemNoise
from fedrec.privacy.release import as_release, total_of
from fedrec.rng import Stream
from fedrec.storage.run_folder import RunFolder
from fedrec.testing.mechanisms import PLANS
from fedrec.training.batches import Histories, samples
from tests.contracts.test_mechanisms import made
from tests.support.tiny import SMALL, session, small

pytestmark = pytest.mark.filterwarnings("ignore")
ON_GRID = {
    "user": "some, trained",
    "user_adaptive": "some, trained",
    "user_local": "some, trained",
    "user_secure": "some, trained",
    "banded": "some, trained",
    "gateway": "all, statistic",
    "interaction": "all, statistic",
}
NUMBERS = 400
DEPENDENT = 0.3  # correlation of so many independent draws beyond six deviations


def nothing() -> ModelUpdate:
    """Return an update of zeros in two arrays of one size."""
    return ModelUpdate({name: np.zeros((NUMBERS, 1), np.float32) for name in ("item.a", "item.b")}, 1)


def noise_of_rounds(name: str) -> list[np.ndarray]:
    """Return the noise in what two devices, two nodes and two rounds release, array by array."""
    case = made(name, PLANS[ON_GRID[name]])
    mechanism: Any = case.mechanism
    shapes = {key: array.shape for key, array in nothing().arrays.items()}
    memory, found = mechanism.init_state(shapes), list[np.ndarray]()
    for number in (1, 2):
        now = mechanism.with_round_params(mechanism.round_params(memory))
        sent = [now.privatize_update(nothing(), now.random(7, number, device)) for device in (0, 1)]
        nodes = [now.privatize_node_sum(one, now.random(7, number, node, 9)) for node, one in enumerate(sent)]
        if now.terms.trust == "server":
            done = now.privatize_aggregate(total_of(nodes), case.plan, number, now.random(7, number, 5), memory)
            memory, heard = done.mechanism_state, [as_release(done.release)]
        else:
            heard = [as_release(node) for node in nodes]
        found += [array.ravel() for one in heard for key, array in one.arrays.items() if key != BIT]
    return found


@pytest.mark.parametrize("name", ON_GRID)
def test_noise_of_arrays_rounds_devices_and_nodes_is_not_shared(name: str) -> None:
    noise = noise_of_rounds(name)
    assert len(noise) == (4 if name.startswith(("user_a", "banded")) or name == "user" else 8)
    for one, other in combinations(noise, 2):
        assert one.std() > 10 and abs(np.corrcoef(one, other)[0, 1]) < DEPENDENT


@pytest.mark.parametrize("name", ON_GRID)
def test_no_draw_that_protects_follows_from_the_seed(name: str) -> None:
    """The same key twice, as everybody who knows the seed would make it."""
    mechanism = made(name, PLANS[ON_GRID[name]]).mechanism
    one, other = (mechanism.random(7, 1, Stream.RELEASE) for _ in range(2))
    draws = (
        lambda source: source.discrete_gaussian((64,), 1 << 24),
        lambda source: source.gaussian((64,), 1.0),
        lambda source: source.uniform(64),
        lambda source: source.keyed(np.arange(8), np.arange(8)[None]),
    )
    for draw in draws:
        assert (draw(one) != draw(other)).mean() > 0.9


@pytest.mark.parametrize("name", [name for name in ON_GRID if name != "banded"])
def test_each_round_draws_its_own_cohort_and_none_follows_from_the_seed(name: str) -> None:
    case = made(name, PLANS["some, trained"])
    mechanism, drawn = case.mechanism, set[tuple[int, ...]]()
    for number in (1, 2, 3, 1, 2, 3):
        cohort = mechanism.sample_cohort(case.plan, number, mechanism.random(7, number, Stream.COHORT))
        drawn.add(tuple(cohort.tolist()))
    assert len(drawn) == 6


def test_each_step_of_dp_sgd_draws_its_own_sample_and_negatives() -> None:
    histories = Histories.of(Canaries(1, 200, each=200).load().devices[0])
    public = DPSGDConfig(1.0, 1.0, 0.3, 6, 64.0)
    steps = list(samples(histories, public, 1, 200, SystemNoise()))
    samples_drawn = {tuple(step.order[0, : step.count[0]].tolist()) for step in steps}
    assert len(steps) == len(samples_drawn) == 6
    assert len({np.asarray(step.negatives).tobytes() for step in steps}) == 6


def test_the_clip_of_a_round_is_that_which_was_announced_for_it() -> None:
    mechanism: Any = made("user_adaptive", PLANS["some, trained"]).mechanism
    now = mechanism.with_round_params({"clip": mechanism.clip / 8})
    grid = as_release(now.privatize_update(nothing(), now.random(1))).grid
    assert grid == Grid(grid.bits, mechanism.clip / 8) and now.rule.norm == mechanism.clip / 8


@pytest.mark.parametrize("name", [*ON_GRID])
def test_what_others_may_read_of_a_run_is_the_same_whoever_was_drawn(name: str, tmp_path: Path) -> None:
    """Two runs draw other cohorts; their public lines and what is said of their releases are one and the same."""
    told, trains = list[tuple[Any, ...]](), name in ("banded", "user_adaptive")
    model = ["model=mf", "model.dim=2"] if trains else ["model=popularity"]
    for number in range(2):
        folder = tmp_path / str(number)
        experiment, dataset = small("cohort.size=12", "rounds=2", *model, base=[*SMALL, f"privacy={name}"])
        with session(experiment, dataset, folder, run=f"run-{number}") as opened:
            list(run(opened))
        lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("seconds")
        told.append((lines, [said(path) for path in RunFolder(folder).kept_releases()]))
        rooms = [folder / room for room in ("exact", "checkpoint", "private", "releases")]
        secret = [path for room in rooms for path in room.rglob("*") if path.is_file()]
        assert secret and all(path.stat().st_mode & 0o077 == 0 for path in secret)
    assert told[0] == told[1]


def said(path: Path) -> dict[str, Any]:
    """Return what a kept release says beside its numbers, their sizes left out: those follow from the noise."""
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["release"])
    for array in about["arrays"].values():
        array.pop("largest")
    if "clip" in about:
        about.pop("clip")  # an adaptive one follows from the noised releases before
    return about
