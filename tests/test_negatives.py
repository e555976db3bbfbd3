"""Negatives, and the leak gate of notes/evaluation.md section 1.3: nothing may be learned from what is never drawn."""

import numpy as np
import pytest

from fedrec.data.devices import DeviceData
from fedrec.evaluation.device import evaluate_device
from fedrec.evaluation.options import Evaluation
from fedrec.evaluation.table import table
from fedrec.privacy.noise import SystemRandom
from fedrec.training.negatives import draw_outside, draw_uniform

ITEMS, USERS, ROUNDS = 400, 300, 20


def test_outside_means_outside_and_uniform() -> None:
    used = np.zeros(50, bool)
    used[:20] = True
    drawn = draw_outside(np.random.default_rng(0), used, (4000, 3))
    assert drawn.min() == 20
    counts = np.bincount(drawn.ravel(), minlength=50)[20:]
    assert ((counts - 400) ** 2 / 400).sum() < 60  # chi-squared with 29 degrees of freedom


def test_a_user_of_everything_still_gets_negatives() -> None:
    assert draw_outside(np.random.default_rng(0), np.ones(5, bool), (10, 2)).shape == (10, 2)


def test_uniform_looks_at_nothing() -> None:
    assert set(draw_uniform(SystemRandom(), 5, (200, 2)).ravel()) == set(range(5))


def counter(leaky: bool) -> float:
    """Return HR@10 of the model that only counts how often an item was drawn as a negative."""
    rng = np.random.default_rng(3)
    rows = []
    for user in range(USERS):
        items = rng.choice(ITEMS, 22, replace=False).astype(np.int32)
        none = np.empty(0, np.float32)
        device = DeviceData(user, items[:20], np.ones(20, np.float32), items[20:21], items[21:], none)
        used = np.zeros(ITEMS, bool)
        used[items if leaky else device.history] = True
        drawn = np.zeros(ITEMS)
        for _ in range(ROUNDS):
            np.add.at(drawn, draw_outside(rng, used, (20, 4)).ravel(), 1)
        rows.append(evaluate_device(-drawn, device, "test", Evaluation()))
    return float(table([row for row in rows if row], (5, 10, 20))["sampled_hr@10"].mean())


def test_the_counter_of_negatives_stays_at_chance() -> None:
    assert abs(counter(leaky=False) - 0.1) <= 3 * np.sqrt(0.09 / USERS)


def test_the_gate_goes_red_with_a_sampler_that_avoids_the_test_item() -> None:
    assert counter(leaky=True) > 0.35


class Sealed:
    """A device whose held-out items raise when they are looked at."""

    def __init__(self) -> None:
        self.user, self.history = 1, np.array([1, 2, 3], np.int32)
        self.values = np.ones(3, np.float32)

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"training looked at {name}")


@pytest.mark.parametrize(
    "overrides", [["model=mf"], ["model=neumf"], ["model=popularity"], ["model=ease"], ["model=content"]]
)
def test_training_never_looks_at_what_is_held_out(overrides: list[str]) -> None:
    from fedrec.algorithms.base import RoundContext
    from fedrec.config import load
    from fedrec.privacy.none import NoPrivacy
    from tests.tiny import FREE, catalogue

    experiment = load([*FREE, *overrides]).experiment
    model, algorithm = experiment.model(catalogue()), experiment.algorithm
    state = algorithm.init(model, catalogue())
    algorithm.contribute(model, algorithm.broadcast(state), Sealed(), {}, RoundContext(1, 0, NoPrivacy()))  # type: ignore[arg-type]
