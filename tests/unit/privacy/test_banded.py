"""Correlated noise: the matrix, its worst participation by brute force, the law of what is released, turns, losses."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays
from fedrec.privacy.accounting.composition import epsilon_of_events
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanisms.banded import (
    BandedUserLevel,
    error_gain,
    optimal_bands,
    squared_error,
    squared_sensitivity,
)
from fedrec.privacy.mechanisms.base import cyclic_cohort
from fedrec.privacy.mechanisms.protocol import Shapes, TrainingPlan
from fedrec.privacy.release import Release
from fedrec.testing.mechanisms import Silence

PLAN = TrainingPlan(population=90, interactions=9, cohort_rate=1 / 6, rounds=25, trains=True)


def matrix(coefficients: Any, rounds: int) -> np.ndarray:
    full = np.zeros((rounds, rounds))
    for band, value in enumerate(coefficients[:rounds]):
        full += value * np.eye(rounds, k=-band)
    return full


def worst_by_brute_force(coefficients: Any, rounds: int, separation: int, at_most: int) -> float:
    """Try every set of participations; the columns' signs are the adversary's."""
    full, worst = matrix(coefficients, rounds), 0.0
    for count in range(1, at_most + 1):
        for places in itertools.combinations(range(rounds), count):
            if all(b - a >= separation for a, b in itertools.pairwise(places)):
                columns = full[:, places]
                for signs in itertools.product((-1, 1), repeat=count):
                    worst = max(worst, float(np.square(columns @ np.array(signs)).sum()))
    return worst


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_the_sensitivity_is_that_of_the_worst_pattern(data: st.DataObject) -> None:
    separation = data.draw(st.integers(1, 4))
    rounds, at_most = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    c = [1.0, *data.draw(st.lists(st.floats(-1, 1), min_size=0, max_size=separation - 1))]
    found = squared_sensitivity(np.array(c), rounds, separation, at_most)
    assert found == pytest.approx(worst_by_brute_force(c, rounds, separation, at_most))


def test_one_participation_is_the_norm_of_a_column() -> None:
    c = np.array(optimal_bands(20, 5, 5))
    assert squared_sensitivity(c, 20, 5, at_most=1) == pytest.approx(np.square(c).sum())


def test_the_error_is_that_of_the_matrix() -> None:
    c = np.array(optimal_bands(12, 4, 4))
    running = np.tril(np.ones((12, 12))) @ np.linalg.inv(matrix(c, 12))
    assert squared_error(c, 12) == pytest.approx(np.square(running).sum() / 12)


@pytest.mark.parametrize(
    ("rounds", "separation", "times"), [(200, 50, 3.71), (200, 20, 3.18), (500, 100, 5.15), (9, 1, 1.0)]
)
def test_gains_over_independent_noise(rounds: int, separation: int, times: float) -> None:
    """The reference values of the invariants' page, found with another optimizer."""
    assert error_gain(np.array(optimal_bands(rounds, separation, separation)), rounds, separation) == pytest.approx(
        times, abs=0.006
    )


@pytest.mark.parametrize("target", [1.0, 4.0])
def test_the_rounds_add_up_to_one_gaussian(target: float) -> None:
    """Whatever round it stops at, the ledger holds the exact cost of the rounds so far."""
    mechanism = BandedUserLevel(epsilon=target).calibrated(PLAN, math.inf)
    delta, c = mechanism.delta_for(PLAN), np.array(mechanism.coefficients)
    for stop in (1, 3, 6, 7, 20, PLAN.rounds):
        spent = epsilon_of_events([(mechanism.event(PLAN, number), 1) for number in range(1, stop + 1)], delta)
        exact = get_epsilon_gaussian(mechanism.multiplier() / squared_sensitivity(c, stop, 6) ** 0.5, delta)
        assert exact - 1e-9 <= spent <= exact + 2e-3
    assert 0.99 * target <= spent <= target


def effective(plan: TrainingPlan, target: float, delta: float) -> float:
    """Return the noise a round of independent noise that leaves the same error in the running sums."""
    plan = BandedUserLevel().with_sampling_rate(plan)
    mechanism = BandedUserLevel(epsilon=target, delta=delta).calibrated(plan, math.inf)
    return mechanism.multiplier() * math.sqrt(squared_error(np.array(mechanism.coefficients), plan.rounds) * 2 / 201)


@pytest.mark.parametrize(("cohort", "target", "z"), [(120, 4.0, 0.53), (120, 8.0, 0.30), (302, 4.0, 0.97)])
def test_effective_multipliers_of_the_table(cohort: int, target: float, z: float) -> None:
    """The reference values of the invariants' page: separations 50 and 20, 200 rounds of 6,040 users."""
    plan = TrainingPlan(6040, 10**6, cohort / 6040, 200, trains=True)
    assert effective(plan, target, 6.9e-5) == pytest.approx(z, abs=0.011)


def nothing(mechanism: BandedUserLevel, shapes: Shapes, count: int = 0) -> Release:
    return Release.nothing(shapes, mechanism.clip_grid(shapes), count)


def play(mechanism: BandedUserLevel, rounds: int, size: int, lost: tuple[int, ...] = ()) -> np.ndarray:
    """Return the noise of each round [rounds, size] through `privatize_aggregate`; NaN where a round was lost."""
    memory, drawn = mechanism.init_state({"item.a": (size,)}), np.full((rounds, size), np.nan)
    for number in range(1, rounds + 1):
        if number in lost:
            memory = mechanism.state_after_lost_round(memory)
            continue
        total = nothing(mechanism, {"item.a": (size,)})
        aggregate = mechanism.privatize_aggregate(total, PLAN, number, mechanism.random(number), memory)
        drawn[number - 1], memory = aggregate.mean()["item.a"] * PLAN.expected_cohort, aggregate.mechanism_state
    return drawn


def whitened(noise: np.ndarray, mechanism: BandedUserLevel) -> np.ndarray:
    return matrix(mechanism.coefficients, len(noise)) @ noise / (mechanism.multiplier() * mechanism.clip)


def test_what_is_released_is_white_noise_behind_the_matrix() -> None:
    """Invariant M3, for correlated noise: C times the noise is white, unit and independent over rounds."""
    mechanism = BandedUserLevel(epsilon=4.0, clip=0.5).calibrated(PLAN, math.inf)
    noise = play(mechanism, 12, 4000)
    white = whitened(noise, mechanism)
    covariance = white @ white.T / 4000
    np.testing.assert_allclose(covariance, np.eye(12), atol=10 / 4000**0.5)
    running = np.cumsum(noise, 0)
    assert running[-1].std() < 0.7 * np.linalg.norm(noise.std(1))  # it cancels: independent noise would not


def test_after_a_loss_the_noise_starts_afresh_and_no_draw_comes_twice() -> None:
    """Invariant P21: before and behind the loss lie two independent blocks of the same matrix."""
    mechanism = BandedUserLevel(epsilon=4.0).calibrated(PLAN, math.inf)
    noise = play(mechanism, 9, 4000, lost=(4,))
    blocks = [whitened(noise[:3], mechanism), whitened(noise[4:], mechanism)]
    white = np.concatenate(blocks)
    np.testing.assert_allclose(white @ white.T / 4000, np.eye(8), atol=10 / 4000**0.5)


def test_two_rounds_of_a_device_lie_the_separation_apart() -> None:
    """Mutant 24: a Poisson cohort would bring devices back early."""
    mechanism = BandedUserLevel().calibrated(PLAN, math.inf)
    last = np.full(PLAN.population, -100)
    for number in range(1, PLAN.rounds + 1):
        drawn = mechanism.sample_cohort(PLAN, number, mechanism.random())
        assert len(drawn) == PLAN.expected_cohort and (np.diff(drawn) > 0).all()
        assert (number - last[drawn] >= 6).all()
        assert np.array_equal(drawn, mechanism.sample_cohort(PLAN, number, mechanism.random()))
        last[drawn] = number
    assert (last > 0).all()
    assert mechanism.participation_limit(PLAN) == 5


@pytest.mark.parametrize(("population", "separation"), [(7, 3), (100, 1), (5, 9)])
def test_groups_are_a_partition(population: int, separation: int) -> None:
    plan = replace(PLAN, population=population)
    groups = [cyclic_cohort(plan, number, separation) for number in range(1, separation + 1)]
    assert sorted(np.concatenate(groups)) == list(range(population))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_the_plan_takes_the_rate_that_turns_have() -> None:
    planned = BandedUserLevel().with_sampling_rate(replace(PLAN, cohort_rate=0.3))
    assert planned.cohort_rate == 1 / 3 and planned.expected_cohort == 30
    assert BandedUserLevel().with_sampling_rate(replace(PLAN, cohort_rate=1.0)).cohort_rate == 1.0


def test_memory_is_kept_for_every_array_and_never_released() -> None:
    mechanism = BandedUserLevel(bands=3).calibrated(PLAN, math.inf)
    shapes = {"a": (2, 4), "b": (5,)}
    memory: Arrays = mechanism.init_state(shapes)
    expected = {"sum/a": (2, 2, 4), "estimate/a": (2, 2, 4), "sum/b": (2, 5), "estimate/b": (2, 5)}
    assert {name: array.shape for name, array in memory.items()} == expected
    assert mechanism.round_params(memory) == {}
    total = replace(nothing(mechanism, shapes, 3), arrays={"a": np.arange(8).reshape(2, 4), "b": np.ones(5, np.int64)})
    for number in (1, 2, 3):
        aggregate = mechanism.privatize_aggregate(total, PLAN, number, mechanism.random(), memory)
        assert aggregate.arrays.keys() == total.arrays.keys()
        for kind, newest in (("sum/", total.arrays), ("estimate/", aggregate.arrays)):
            np.testing.assert_array_equal(aggregate.mechanism_state[f"{kind}a"][1], memory[f"{kind}a"][0])
            np.testing.assert_array_equal(aggregate.mechanism_state[f"{kind}a"][0], newest["a"])
        memory = aggregate.mechanism_state


def test_without_noise_the_estimates_are_the_sums_and_the_release_is_whole() -> None:
    """C^-1 takes back exactly what C did, and C x is on the grid: coefficients are whole 256ths."""
    mechanism = BandedUserLevel(bands=4).calibrated(PLAN, math.inf)
    assert all((256 * c).is_integer() for c in mechanism.coefficients or ())
    shapes, rng = {"a": (50,)}, np.random.default_rng(3)
    memory = mechanism.init_state(shapes)
    for number in range(1, 12):
        total = replace(nothing(mechanism, shapes, 9), arrays={"a": rng.integers(-(2**15), 2**15, 50)})
        found = mechanism.privatize_aggregate(total, PLAN, number, Silence(), memory)
        memory = found.mechanism_state
        np.testing.assert_allclose(found.arrays["a"], total.values()["a"], atol=1e-5)


def test_what_a_round_releases_is_c_times_the_sums() -> None:
    """By hand: 256 x_2 + n_1 x_1, on a grid 256 times as fine."""
    grid = Grid(12, 1.0)
    released = Release({"a": np.array([3, -1])}, 1, grid).correlated([100], {"a": [np.array([5, 7])]}, 8)
    assert released.arrays["a"].tolist() == [256 * 3 + 500, -256 + 700] and released.grid == Grid(20, 1.0)


def test_what_has_no_argument_is_refused() -> None:
    with pytest.raises(RefusedError, match="different statistics"):
        BandedUserLevel().calibrated(replace(PLAN, trains=False, rounds=2), 1.0)
    with pytest.raises(RefusedError, match=r"privacy\.bands=9: at most 6"):
        BandedUserLevel(bands=9).calibrated(PLAN, math.inf)
    with pytest.raises(FedrecError, match="calibrated"):
        BandedUserLevel().event(PLAN, 1)
    with pytest.raises(FedrecError, match=r"privacy\.bands=0"):
        BandedUserLevel(bands=0)
    assert BandedUserLevel().calibrated(replace(PLAN, trains=False, rounds=1), 0.5).clip == 0.5
