"""The accountant's reference values (docs/development/invariants.md), and calibration as its inverse."""

import math
import warnings

import pytest
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import FedrecError
from fedrec.privacy.accounting.composition import (
    COARSE,
    TOLERANCE,
    checked_delta,
    compose,
    compose_events,
    composition,
    compute_epsilon,
    default_delta,
    epsilon_of_events,
    noise_multiplier,
    running_epsilon,
)

DELTA = 1e-5
VECTORS = [  # q, z, T, PLD, PLD optimistic (1e-5), Opacus PRV upper, Opacus RDP
    (0.01, 1.0, 1000, 1.828244, 1.823237, 1.838372, 2.101365),
    (0.05, 2.0, 300, 1.928570, 1.927068, 1.938696, 2.118283),
    (1.0, 10.0, 100, 4.377178, 4.376678, 4.387413, 4.728507),
    (1 / 3, 1.0, 3, 4.572089, 4.572074, 4.582444, 5.204671),
    (1 / 3, 1.0, 90, 23.749793, 23.749343, 23.760884, 25.826780),
]
IDS = [f"q={q:.2f} z={z} T={t}" for q, z, t, *_ in VECTORS]


def sampled(q: float, z: float) -> DpEvent:
    return PoissonSampledDpEvent(q, GaussianDpEvent(z)) if q < 1 else GaussianDpEvent(z)


@pytest.mark.parametrize("vector", VECTORS, ids=IDS)
def test_vectors(vector: tuple[float, float, int, float, float, float, float]) -> None:
    q, z, steps, pld, optimistic, prv, rdp = vector
    found = epsilon_of_events([(sampled(q, z), steps)], DELTA)
    assert found == pytest.approx(pld, abs=1e-4)
    coarse = compute_epsilon(compose_events([(sampled(q, z), steps)]), DELTA, COARSE)
    assert found <= coarse + 1e-6 <= found * 1.001 + 1e-6
    assert optimistic <= found <= prv <= rdp


@pytest.mark.parametrize(("q", "z", "steps"), [vector[:3] for vector in VECTORS[1:4]], ids=IDS[1:4])
def test_between_the_optimistic_pld_and_opacus_upper_bounds(q: float, z: float, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import create_accountant

        upper = []
        for name in ("prv", "rdp"):
            accountant = create_accountant(name)
            accountant.history = [(z, q, steps)]
            upper.append(accountant.get_epsilon(DELTA))
    optimistic = from_gaussian_mechanism(
        z, sampling_prob=q, value_discretization_interval=1e-4, pessimistic_estimate=False, use_connect_dots=False
    )
    low = optimistic.self_compose(steps).get_epsilon_for_delta(DELTA)
    found = epsilon_of_events([(sampled(q, z), steps)], DELTA)
    assert low <= found <= upper[0] <= upper[1]
    assert upper[0] == pytest.approx(found + 0.01, abs=2e-3)


def test_a_gaussian_composition_has_its_closed_form() -> None:
    events: list[tuple[DpEvent, int]] = [(GaussianDpEvent(3.0), 5), (GaussianDpEvent(10.0), 40)]
    exact = get_epsilon_gaussian((5 / 9 + 40 / 100) ** -0.5, DELTA)
    assert exact <= epsilon_of_events(events, DELTA) <= exact + 1e-3
    assert epsilon_of_events([(GaussianDpEvent(10.0), 100)], DELTA) == pytest.approx(4.377178, abs=1e-5)


def test_events_are_taken_apart() -> None:
    nested = ComposedDpEvent([SelfComposedDpEvent(sampled(0.1, 2.0), 3), GaussianDpEvent(5.0), NoOpDpEvent()])
    assert compose_events([(nested, 2)]) == {(2.0, 0.1, 6), (5.0, 1.0, 2)}
    assert compose([(compose_events([(nested, 1)]), 2), (compose_events([(GaussianDpEvent(5.0), 1)]), 3)]) == {
        (2.0, 0.1, 6),
        (5.0, 1.0, 5),
    }
    assert epsilon_of_events([], DELTA) == 0
    assert epsilon_of_events([(GaussianDpEvent(1.0), 0)], DELTA) == 0


@pytest.mark.parametrize("z", [0.0, -1.0, math.nan, math.inf])
def test_impossible_multipliers_are_errors(z: float) -> None:
    with pytest.raises(FedrecError, match="noise multiplier"):
        epsilon_of_events([(GaussianDpEvent(z), 1)], DELTA)


@pytest.mark.parametrize(
    "event", [LaplaceDpEvent(1.0), PoissonSampledDpEvent(0.1, SelfComposedDpEvent(GaussianDpEvent(1.0), 2))]
)
def test_what_the_accountant_does_not_know_is_an_error(event: DpEvent) -> None:
    with pytest.raises(FedrecError, match="no argument"):
        epsilon_of_events([(event, 1)], DELTA)


def test_non_private_is_infinite() -> None:
    assert epsilon_of_events([(NonPrivateDpEvent(), 1), (GaussianDpEvent(1.0), 1)], DELTA) == math.inf


def test_delta_must_be_below_one_over_the_units() -> None:
    assert default_delta(100_004) == pytest.approx(3.16e-6, rel=1e-2)
    assert default_delta(6040) == 1e-5
    assert checked_delta(1e-5, 943) == 1e-5
    for delta in (1 / 943, 0.0, -1.0, math.nan):
        with pytest.raises(FedrecError, match=r"privacy\.delta="):
            checked_delta(delta, 943)
    with pytest.raises(FedrecError, match="delta"):
        epsilon_of_events([(GaussianDpEvent(1.0), 1)], 0.0)


def test_composition_is_monotone() -> None:
    values = [epsilon_of_events([(sampled(0.1, 2.0), count)], DELTA) for count in (1, 2, 10, 100)]
    assert values == sorted(values)
    assert epsilon_of_events([(sampled(0.1, 2.0), 10)], DELTA) <= epsilon_of_events([(sampled(0.2, 2.0), 10)], DELTA)


def test_the_running_epsilon_grows_and_stays_an_upper_bound() -> None:
    running = [
        running_epsilon(compose_events([(sampled(100 / 6040, 0.84), count)]), 6.9e-5, 2.0) for count in range(1, 61)
    ]
    assert running == sorted(running)
    exact = epsilon_of_events([(sampled(100 / 6040, 0.84), 60)], 6.9e-5)
    assert exact <= running[-1] <= exact * 1.001


def test_large_losses_fit_into_memory() -> None:
    assert epsilon_of_events([(GaussianDpEvent(0.02), 1)], DELTA) == pytest.approx(
        get_epsilon_gaussian(0.02, DELTA), rel=1e-3
    )
    assert epsilon_of_events([(GaussianDpEvent(1e4), 200)], DELTA) < 0.01


TABLE = [  # population, cohort, rounds, delta, epsilon, z of table 4.1
    (943, 50, 200, 5.3e-4, 1.0, 2.26),
    (943, 50, 200, 5.3e-4, 8.0, 0.70),
    (6040, 100, 200, 6.9e-5, 1.0, 1.12),
    (6040, 100, 200, 6.9e-5, 2.0, 0.84),
    (6040, 300, 200, 6.9e-5, 4.0, 1.01),
]


@pytest.mark.parametrize(("population", "cohort", "rounds", "delta", "target", "z"), TABLE)
def test_calibration_table(population: int, cohort: int, rounds: int, delta: float, target: float, z: float) -> None:
    uses = ((cohort / population, 1.0, rounds),)
    found = noise_multiplier(target, delta, uses)
    assert found == pytest.approx(z, abs=0.02)
    assert (1 - TOLERANCE) * target <= compute_epsilon(composition(found, uses), delta) <= target


@pytest.mark.parametrize(
    ("target", "delta", "uses"),
    [
        (8.0, 3.2e-6, ((1.0, 1.0, 60),)),
        (0.01, 1e-6, ((1.0, 1.0, 10_000),)),
        (0.1, 1e-5, ((0.1, 1.0, 1000),)),
        (50.0, 1e-6, ((0.5, 1.0, 200),)),
        (2.0, 1e-5, ((1.0, 0.8, 1), (1.0, 1.5, 3))),
        (2.0, 1e-5, ((0.1, 0.7, 2), (0.1, 1.5, 2))),
        (1000.0, 1e-5, ((1.0, 1.0, 1),)),
    ],
)
def test_calibrate_then_account(target: float, delta: float, uses: tuple[tuple[float, float, int], ...]) -> None:
    z = noise_multiplier(target, delta, uses)
    assert 0.99 * target <= compute_epsilon(composition(z, uses), delta) <= target


@settings(max_examples=8, deadline=None)
@given(
    target=st.floats(0.2, 10),
    rate=st.sampled_from([0.02, 0.1, 0.5, 1.0]),
    count=st.integers(1, 300),
    delta=st.sampled_from([1e-7, 1e-5, 1e-3]),
)
def test_round_trip(target: float, rate: float, count: int, delta: float) -> None:
    uses = ((rate, 1.0, count),)
    z = noise_multiplier(target, delta, uses)
    assert 0.99 * target <= compute_epsilon(composition(z, uses), delta) <= target


def test_unreachable_epsilon_is_an_error() -> None:
    with pytest.raises(FedrecError, match=r"privacy\.epsilon"):
        noise_multiplier(1e-9, 1e-12, ((1.0, 1.0, 1_000_000),))
