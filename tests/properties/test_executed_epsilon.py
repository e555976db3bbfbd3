"""Invariant M18: what a run really drew costs at most what its card says, by an accountant that shares nothing with it.

The noise is read where it is drawn, contributions where they are summed, cohorts where they are drawn. No number is
taken from a mechanism, from its event or from the ledger, but for the epsilon and the delta that are claimed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.state import init_algorithm_state, load_released_state
from fedrec.privacy import noise
from fedrec.privacy.contributions import OneUpdate
from fedrec.privacy.mechanisms.user_adaptive import BIT
from fedrec.privacy.release import Release
from fedrec.report.privacy_card import card_of
from fedrec.training.vectorized.updates import StackedUpdates
from tests.support.own_accountant import discrete_delta, epsilon_at, gaussian_delta, moved_by
from tests.support.tiny import SMALL, session, small

pytestmark = pytest.mark.filterwarnings("ignore")
TRAINED = [*SMALL, "model=mf", "model.dim=2", "rounds=3", "privacy.epsilon=3"]
COUNTED = [*SMALL, "model=popularity", "privacy.epsilon=3"]
SATURATED = ["privacy.clip=0.001"]  # so that every device contributes as much as it may
ENGINES = ("auto", "reference")
CLOSE = 0.99  # of the claim that what was executed must come to at least


@dataclass
class Noised:
    """One call that noises a release: of how many devices, and the variance that was drawn for each array."""

    count: int
    variances: dict[str, int]


@dataclass
class Executed:
    """What one round executed."""

    longest: float = 0.0  # the largest contribution of a device, in steps
    length: int = 0  # and the largest that the grid of the release allows
    noised: list[Noised] = field(default_factory=list[Noised])
    cohort: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    weights: tuple[int, ...] = ()  # of earlier sums that were released again
    clipped: bool = True


class Instruments:
    """Reads what a run executes, round by round."""

    def __init__(self, patch: pytest.MonkeyPatch, mechanism: type[Any]) -> None:
        self.now, self._drawn = Executed(), list[tuple[int, int]]()
        self._wrap(patch, noise, "draw_discrete_gaussian", self._draws)
        for kind in (OneUpdate, StackedUpdates):
            self._wrap(patch, kind, "whole_sum", self._sums)
        self._wrap(patch, Release, "noised", self._noises)
        self._wrap(patch, Release, "correlated", self._correlates)
        self._wrap(patch, mechanism, "sample_cohort", self._samples)

    def _wrap(self, patch: pytest.MonkeyPatch, place: Any, name: str, around: Callable[..., Any]) -> None:
        real = getattr(place, name)
        patch.setattr(place, name, lambda *given: around(real, *given))

    def _draws(self, real: Any, size: int, variance: int, stream: Any) -> Any:
        self._drawn.append((size, variance))
        return real(size, variance, stream)

    def _sums(self, real: Any, changes: Any, scales: Any) -> Any:
        squares = np.sum(list(changes.whole_squares(scales).values()), axis=0)
        self.now.longest = max(self.now.longest, math.sqrt(float(np.max(squares, initial=0))))
        return real(changes, scales)

    def _noises(self, real: Any, release: Release, variances: Any, random: Any) -> Release:
        before = len(self._drawn)
        found = real(release, variances, random)
        drawn = self._drawn[before:]
        assert [size for size, _ in drawn] == [array.size for array in release.arrays.values()]
        said = dict(zip(release.arrays, (variance for _, variance in drawn), strict=True))
        self.now.noised.append(Noised(release.count, said))
        self.now.length = release.grid.length
        return found

    def _correlates(self, real: Any, release: Release, weights: Any, past: Any, bits: int) -> Release:
        used = sum(bool(np.any(earlier)) for earlier in next(iter(past.values())))
        self.now.weights = (1 << bits, *weights[:used])
        return real(release, weights, past, bits)

    def _samples(self, real: Any, mechanism: Any, plan: Any, number: int, random: Any) -> np.ndarray:
        self.now.cohort = real(mechanism, plan, number, random)
        return self.now.cohort

    def rounds(self, played: Iterator[Any]) -> list[Executed]:
        """Play a run and return what each round executed."""
        found = list[Executed]()
        for _ in played:
            found.append(self.now)
            self.now = Executed()
        return found


def execute(overrides: list[str], folder: Path, parts: int = 1) -> tuple[list[Executed], float, float, Any]:
    """Return what each round executed, the epsilon and delta of the card, and the session."""
    experiment, dataset = small(base=overrides)
    with pytest.MonkeyPatch.context() as patch:
        instruments = Instruments(patch, type(experiment.mechanism))
        with session(experiment, dataset, folder, LocalTransport(parts)) as opened:
            executed = instruments.rounds(run(opened))
            claimed = card_of(opened)["privacy"]
    return executed, claimed["epsilon"], claimed["delta"], opened


def check(executed: float, claimed: float) -> None:
    assert CLOSE * claimed <= executed <= claimed * (1 + 1e-4)


def one_variance(round_: Executed) -> int:
    """Return the variance of the noise on every number of a round's one release."""
    (noised,) = round_.noised
    (variance,) = set(noised.variances.values())
    return variance


@pytest.mark.parametrize("engine", ENGINES)
def test_user(engine: str, tmp_path: Path) -> None:
    rounds, claimed, delta, _ = execute([*TRAINED, *SATURATED, "privacy=user", f"engine={engine}"], tmp_path)
    assert [len(done.cohort) for done in rounds] == [40, 40, 40]
    check(epsilon_at(delta, [(moved_by(done.longest, one_variance(done)), 1.0) for done in rounds]), claimed)


@pytest.mark.parametrize("engine", ENGINES)
def test_user_on_poisson_samples(engine: str, tmp_path: Path) -> None:
    overrides = [*TRAINED, *SATURATED, "privacy=user", "cohort.size=12", f"engine={engine}"]
    rounds, claimed, delta, opened = execute(overrides, tmp_path)
    moved = [moved_by(done.longest, one_variance(done)) for done in rounds]
    rate = measured_rate(opened)
    check(epsilon_at(delta, [(mu, 0.3) for mu in moved]), claimed)
    assert abs(rate - 0.3) < 0.005


def measured_rate(opened: Any) -> float:
    """Return how often a device was drawn, by the sampler of the run, in many more rounds."""
    mechanism, plan = opened.experiment.mechanism, opened.plan
    drawn = [len(mechanism.sample_cohort(plan, 1, mechanism.random(0, n))) for n in range(4000)]
    return float(np.mean(drawn)) / 40


@pytest.mark.parametrize("engine", ENGINES)
def test_user_adaptive(engine: str, tmp_path: Path) -> None:
    """The bits are moved by half of the clip's steps, whatever clip the round has."""
    overrides = [*TRAINED, *SATURATED, "privacy=user_adaptive", f"engine={engine}"]
    rounds, claimed, delta, opened = execute(overrides, tmp_path)
    length, releases = (
        opened.experiment.mechanism.clip_grid({"item.weight": (60, 2)}).length,
        list[tuple[float, float]](),
    )
    for done in rounds:
        drawn = {name: variance for noised in done.noised for name, variance in noised.variances.items()}
        releases.append((moved_by(length / 2, drawn.pop(BIT)), 1.0))
        (variance,) = set(drawn.values())
        releases.append((moved_by(done.longest, variance), 1.0))
    check(epsilon_at(delta, releases), claimed)


@pytest.mark.parametrize("engine", ENGINES)
def test_user_local(engine: str, tmp_path: Path) -> None:
    """Each device's own noise is its part of what was drawn for many; replaced, it moves twice as far."""
    rounds, claimed, delta, _ = execute([*TRAINED, *SATURATED, "privacy=user_local", f"engine={engine}"], tmp_path)
    releases = list[tuple[float, float]]()
    for done in rounds:
        each = {variance // noised.count for noised in done.noised for variance in noised.variances.values()}
        assert sum(noised.count for noised in done.noised) == 40
        releases.append((moved_by(2 * done.longest, each.pop()), 1.0))
        assert not each
    check(epsilon_at(delta, releases), claimed)


@pytest.mark.parametrize("engine", ENGINES)
def test_user_secure(engine: str, tmp_path: Path) -> None:
    """Everybody is left and nobody colludes: what all add is the noise that is accounted, and hardly more."""
    fewest = ["privacy.dropped=0", "privacy.corrupt=0"]
    overrides = [*TRAINED, *SATURATED, "privacy=user_secure", *fewest, f"engine={engine}"]
    rounds, claimed, delta, _ = execute(overrides, tmp_path)
    releases = list[tuple[float, float]]()
    for done in rounds:
        added = sum(variance for noised in done.noised for variance in {*noised.variances.values()})
        assert sum(noised.count for noised in done.noised) == 40
        releases.append((moved_by(done.longest, added), 1.0))
    check(epsilon_at(delta, releases), claimed)


def test_uneven_rounds_of_a_secure_statistic(tmp_path: Path) -> None:
    """Counts and pairs get other parts of the budget, and devices another share of the noise in each."""
    fewest = ["privacy.dropped=0", "privacy.corrupt=0", "privacy.epsilon=3"]
    rounds, claimed, delta, _ = execute([*SMALL, "model=ease", "privacy=user_secure", *fewest], tmp_path)
    releases, added = list[tuple[float, float]](), list[int]()
    for done in rounds:
        added.append(sum(variance for noised in done.noised for variance in {*noised.variances.values()}))
        releases.append((moved_by(done.length, added[-1]), 1.0))
    assert len(added) == 2 and added[0] != added[1]
    check(epsilon_at(delta, releases), claimed)


@pytest.mark.parametrize("engine", ENGINES)
def test_banded(engine: str, tmp_path: Path) -> None:
    """The run is one Gaussian mechanism: what a device adds to all releases, with what of it is released again."""
    overrides = [*TRAINED, *SATURATED, "privacy=banded", "cohort.size=20", "rounds=5", f"engine={engine}"]
    rounds, claimed, delta, _ = execute(overrides, tmp_path)
    strategy = np.zeros((len(rounds), len(rounds)))
    for number, done in enumerate(rounds):
        for back, weight in enumerate(done.weights):
            strategy[number, number - back] = weight
    turns = [np.array([device in done.cohort for done in rounds], float) for device in range(40)]
    moved = max(float(np.linalg.norm(strategy @ (turn * [r.longest for r in rounds]))) for turn in turns)
    (variance,) = {one_variance(done) for done in rounds}
    check(epsilon_at(delta, [(moved_by(moved, variance), 1.0)]), claimed)
    assert sum(len(done.weights) > 1 for done in rounds) == 4, "noise is taken back"


@pytest.mark.parametrize("privacy", ["user", "gateway", "user_local"])
def test_counts_of_users(privacy: str, tmp_path: Path) -> None:
    (done,), claimed, delta, _ = execute([*COUNTED, f"privacy={privacy}"], tmp_path, 2 if privacy == "gateway" else 1)
    local = privacy == "user_local"
    assert len(done.noised) == {"user": 1, "gateway": 2, "user_local": len(done.noised)}[privacy]
    each = {v // (n.count if local else 1) for n in done.noised for v in n.variances.values()}
    check(epsilon_at(delta, [(moved_by(done.longest * (2 if local else 1), each.pop()), 1.0)]), claimed)
    assert not each


def test_uneven_rounds_of_a_statistic(tmp_path: Path) -> None:
    """Counts and pairs get other parts of the budget, and each its own noise: by as much as a user may say."""
    overrides = [*SMALL, "model=ease", "privacy=user", "privacy.epsilon=3"]
    rounds, claimed, delta, opened = execute(overrides, tmp_path)
    variances, releases = [one_variance(done) for done in rounds], list[tuple[float, float]]()
    for done in rounds:
        assert done.longest <= done.length
        releases.append((moved_by(done.length, one_variance(done)), 1.0))
    check(epsilon_at(delta, releases), claimed)
    assert len(rounds) == 2 and max(variances) > 2 * min(variances) and opened.plan.shares is not None


def test_counts_of_interactions(tmp_path: Path) -> None:
    """How far one interaction moves what a device sends is found by leaving each of a device's out."""
    (done,), claimed, delta, opened = execute([*COUNTED, "privacy=interaction"], tmp_path)
    algorithm, mechanism, devices = opened.experiment.algorithm, opened.experiment.mechanism, opened.dataset.devices
    broadcast = algorithm.broadcast(init_algorithm_state(opened))
    grid, furthest = mechanism.grid({"counts": (60,)}), 0.0
    for device in list(devices)[:5]:
        counts = [algorithm.statistic(broadcast, one, "interaction")["counts"] for one in without(device)]
        whole = [np.rint(count / grid.step) for count in counts]
        furthest = max(furthest, *(float(np.linalg.norm(one - whole[0])) for one in whole[1:]))
    (variance,) = {v for noised in done.noised for v in noised.variances.values()}
    assert all(noised.count == 1 for noised in done.noised) and len(done.noised) == 40
    check(epsilon_at(delta, [(moved_by(furthest, variance), 1.0)]), claimed)


def without(device: Any) -> Iterator[Any]:
    """Yield a device, and then the device without each of its interactions."""
    yield device
    for place in range(len(device.history)):
        left = np.delete(np.arange(len(device.history)), place)
        yield replace(device, history=device.history[left], values=device.values[left])


ONE = ["dataset=synthetic", "dataset.users=1", "dataset.interactions=3", "dataset.items=20000"]  # one to train on
STEPS = 4


def moved_model(folder: Path, overrides: list[str], silent: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """Return how far one round of one device moves the 20,000 item biases, without noise if silent; and the claim."""
    experiment, dataset = small(*overrides, "model=content", "rounds=1", base=ONE)
    with pytest.MonkeyPatch.context() as patch:
        if silent:
            patch.setattr(noise, "draw_discrete_gaussian", lambda size, *_: np.zeros(size, np.int32))
            patch.setattr(noise.NoiseBase, "gaussian", lambda self, shape, std: np.zeros(shape, np.float32))
        with session(experiment, dataset, folder, LocalTransport(1), folder.name) as opened:
            before = init_algorithm_state(opened)["item_bias.weight"]
            list(run(opened))
            moved = load_released_state(opened)[1]["item_bias.weight"] - before
            return moved.ravel().astype(np.float64), card_of(opened)["privacy"]


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("privacy", ["interaction", "interaction engine=reference", "gateway"])
def test_dp_sgd(privacy: str, rate: float, tmp_path: Path) -> None:
    """From what leaves: how far one example moves a model in one step, and the noise of several where nobody moved."""
    common = [*f"privacy={privacy}".split(), "privacy.clip=0.001", "privacy.epsilon=3"]
    noisy = [*common, f"privacy.local_steps={STEPS}", f"privacy.sample_rate={rate}"]
    alone, _ = moved_model(tmp_path / "alone", [*common, "privacy.local_steps=1"], silent=True)
    moved, claimed = moved_model(tmp_path / "noisy", noisy, silent=False)
    step = float(np.linalg.norm(alone)) / (float(moved[alone == 0].std()) / math.sqrt(STEPS))
    executed = epsilon_at(claimed["delta"], [(step, rate)] * STEPS)
    # The spread of 20,000 numbers is known to half a percent. A part of an example's length is in its user's vector.
    assert 0 < np.count_nonzero(alone) <= 2 and 0.92 * claimed["epsilon"] < executed < 1.02 * claimed["epsilon"]


def test_the_own_accountant_agrees_with_known_figures() -> None:
    """Of "Reference values" on the page of invariants, computed elsewhere."""
    assert epsilon_at(1e-5, [(0.1, 1.0)] * 100) == pytest.approx(4.377178, abs=1e-5)
    assert epsilon_at(1e-5, [(1.0, 1 / 3)] * 3) == pytest.approx(4.572089, abs=1e-3)


@pytest.mark.parametrize(("variance", "steps"), [(70, 3), (70, 8), (262, 16), (1030, 40), (4102, 64)])
def test_discrete_noise_hides_what_the_smaller_gaussian_does(variance: int, steps: int) -> None:
    """D(v) is never easier to see through than N(0, v - 6), at any epsilon."""
    for epsilon in np.linspace(0, 6, 25):
        exact, bound = discrete_delta(steps, variance, epsilon), gaussian_delta(moved_by(steps, variance), epsilon)
        assert exact <= bound * (1 + 1e-9) + 1e-15
