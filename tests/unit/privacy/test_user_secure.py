"""A share of the noise on each device: whoever is left, the sum has what is accounted, and its law is known."""

import math
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from scipy.stats import chi2

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import ModelUpdate
from fedrec.privacy.accounting.composition import compute_epsilon
from fedrec.privacy.discrete_gaussian import gaussian_weights
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.mechanisms.user_secure import LEAST_SHARE, UserSecure
from fedrec.privacy.release import as_release, total_of

PLAN = TrainingPlan(population=100, interactions=1000, cohort_rate=1.0, rounds=2, trains=True)


def made(plan: TrainingPlan = PLAN, **settings: object) -> UserSecure:
    return UserSecure(**settings).calibrated(plan, math.inf)  # type: ignore[arg-type]


def law(variance: int) -> list[int]:
    """Return 2^320 times the weights of D(variance) from its lowest number to its highest."""
    half = gaussian_weights(Fraction(variance))
    return half[:0:-1] + half


def convolved(one: list[int], two: list[int]) -> list[int]:
    sums = [0] * (len(one) + len(two) - 1)
    for place, weight in enumerate(one):
        for other, more in enumerate(two):
            sums[place + other] += weight * more
    return sums


@pytest.mark.parametrize("devices", [2, 3, 5])
def test_shares_add_up_to_the_law_of_the_sum(devices: int) -> None:
    """Exact: the convolution of D(12)'s against D(12 devices), in whole numbers of 320 bits."""
    summed = law(LEAST_SHARE)
    for _ in range(devices - 1):
        summed = convolved(summed, law(LEAST_SHARE))
    wanted = law(LEAST_SHARE * devices)
    middle, half = len(summed) // 2, len(wanted) // 2
    total, whole = sum(summed), sum(wanted)
    inside = range(-min(half, middle), min(half, middle) + 1)
    apart = sum(abs(Fraction(summed[middle + k], total) - Fraction(wanted[half + k], whole)) for k in inside)
    assert 0 < apart < Fraction(1, 2**130)


def test_fewer_than_the_least_share_would_be_another_law() -> None:
    """At a variance of 1 the sum of two is off by more than any delta."""
    summed, wanted = convolved(law(1), law(1)), law(2)
    middle, half = len(summed) // 2, len(wanted) // 2
    apart = abs(Fraction(summed[middle], sum(summed)) - Fraction(wanted[half], sum(wanted)))
    assert apart > Fraction(1, 10**6)


@pytest.mark.parametrize("survivors", [70, 85, 100])
def test_the_sum_has_at_least_the_noise_that_is_accounted(survivors: int) -> None:
    """Without what five colluding devices know of it, at the fewest devices just so much."""
    mechanism = made(epsilon=2.0)
    assert (mechanism.least, mechanism.colluding, mechanism.honest) == (70, 5, 65)
    nothing = ModelUpdate({"a": np.zeros(4_000, np.float32)}, 1)
    sent = [as_release(mechanism.privatize_update(nothing, mechanism.random(1, i))) for i in range(survivors)]
    honest = as_release(total_of(sent[: survivors - 5]))
    wanted = sent[0].grid.variance(mechanism.multiplier())
    expected = (survivors - 5) * mechanism.device_variance(sent[0].grid)
    assert expected >= wanted and (survivors > 70 or expected < wanted + 65)
    square = float(np.square(honest.arrays["a"].astype(np.float64)).sum()) / expected
    assert chi2.ppf(1e-6, 4_000) < square < chi2.ppf(1 - 1e-6, 4_000)


def test_a_cohort_drawn_at_once_has_the_law_of_its_devices() -> None:
    """Nothing of one device is released in a simulation: what 40 devices add is drawn as one."""
    from fedrec.privacy.contributions import UpdateList

    mechanism = made()
    nothing = ModelUpdate({"a": np.zeros(4_000, np.float32)}, 1)
    at_once = as_release(mechanism.privatize_cohort(UpdateList([nothing] * 40), mechanism.random(3)))
    expected = 40 * mechanism.device_variance(at_once.grid)
    square = float(np.square(at_once.arrays["a"].astype(np.float64)).sum()) / expected
    assert at_once.count == 40 and chi2.ppf(1e-6, 4_000) < square < chi2.ppf(1 - 1e-6, 4_000)


def test_epsilon_is_that_of_the_trusted_server_where_all_take_part() -> None:
    secure, trusted = made(epsilon=3.0), UserLevel(epsilon=3.0).calibrated(PLAN, math.inf)
    assert secure.multiplier() == trusted.multiplier()
    assert [secure.event(PLAN, 1), secure.participation_limit(PLAN)] == [trusted.event(PLAN, 1), 2]


def test_sampling_amplifies_nothing() -> None:
    """The server knows who takes part: each participation is charged whole, as often as there are any."""
    sampled = TrainingPlan(population=100, interactions=1000, cohort_rate=0.2, rounds=5, trains=True)
    mechanism = made(sampled)
    limit = mechanism.participation_limit(sampled)
    assert 2 <= limit <= 5
    assert mechanism.event(sampled, 1) == GaussianDpEvent(mechanism.multiplier())
    total = frozenset({(mechanism.multiplier(), 1.0, limit)})
    assert 7.9 < compute_epsilon(total, mechanism.delta_for(sampled)) <= 8.0
    assert mechanism.multiplier() > UserLevel().calibrated(sampled, math.inf).multiplier()


def test_a_device_among_strangers_has_its_own_share_alone() -> None:
    mechanism = made()
    alone = mechanism.epsilon_among_strangers(PLAN)
    exact = compute_epsilon(frozenset({(mechanism.multiplier() / math.sqrt(65), 1.0, 2)}), mechanism.delta_for(PLAN))
    assert 100 < exact <= alone < 1.2 * exact


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_the_modulus_has_room_for_the_largest_cohort_and_no_bit_to_spare(rate: float) -> None:
    plan = TrainingPlan(population=10_000, interactions=10**6, cohort_rate=rate, rounds=3, trains=True)
    mechanism = made(plan)
    grid = mechanism.clip_grid({"a": (118_592,)})
    bits, most = mechanism.modulus_bits(plan, grid), mechanism.most_devices(plan)
    assert most == (10_000 if rate == 1 else 1_265) and most <= plan.population
    assert 2 ** (bits - 2) <= mechanism.reach(most, grid) < 2 ** (bits - 1)
    assert bits == (28 if rate == 1 else 25)


def test_a_share_is_never_finer_than_sums_of_it_allow() -> None:
    plan = TrainingPlan(population=10**6, interactions=10**8, cohort_rate=1.0, rounds=1, trains=True)
    mechanism = made(plan, epsilon=500.0)
    assert mechanism.device_variance(Grid(12, 1.0)) == LEAST_SHARE
    assert mechanism.device_std() == math.sqrt(LEAST_SHARE) / 4096


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dropped": 0.5}, "privacy.dropped=0.5"),
        ({"corrupt": -0.1}, "privacy.corrupt=-0.1"),
        ({"dropped": math.nan}, "privacy.dropped=nan"),
        ({"secure": "maybe"}, "privacy.secure=maybe: ideal or real"),
        ({"least": 0}, "privacy.least=0"),
        ({"colluding": -1}, "privacy.colluding=-1"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        UserSecure(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"least": 2}, {"least": 101}, {"least": 10, "colluding": 10}])
def test_sums_that_can_hide_nobody_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match=r"UserSecure: \d+ devices in a sum at least"):
        made(**settings)  # type: ignore[arg-type]


def test_a_mechanism_that_is_not_calibrated_has_no_share() -> None:
    with pytest.raises(FedrecError, match="no least number of devices yet"):
        _ = UserSecure().honest
