"""What an epsilon means: both relations by the test vectors, the attacker's gain by the exact Gaussian curve."""

import math
import warnings

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedrec.privacy.accounting.composition import Composition, compose_events, compute_epsilon
from fedrec.privacy.accounting.interpretation import (
    epsilons,
    interpretation,
    over_devices,
    trade_off,
)
from fedrec.privacy.accounting.rdp import largest_tpr
from fedrec.privacy.guarantee import Relation
from fedrec.privacy.ledger.account import Account
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.mechanisms.user_local import UserLocal

DELTA = 1e-5
REPLACE_ONE = [  # q, z, T, epsilon: docs/development/invariants.md, reference values
    (0.01, 1.0, 1000, 2.843446),
    (0.05, 2.0, 300, 3.710879),
    (1.0, 10.0, 100, 9.997256),
    (1 / 3, 1.0, 3, 5.690270),
    (1 / 3, 1.0, 90, 41.832216),
]


def composition(q: float, z: float, steps: int) -> Composition:
    gaussian = GaussianDpEvent(z)
    return compose_events([(PoissonSampledDpEvent(q, gaussian) if q < 1 else gaussian, steps)])


@pytest.mark.parametrize(("q", "z", "steps", "known"), REPLACE_ONE)
def test_replace_one_vectors(q: float, z: float, steps: int, known: float) -> None:
    total = composition(q, z, steps)
    assert compute_epsilon(total, DELTA, relation=Relation.REPLACE_ONE) == pytest.approx(known, abs=1e-4)
    found = epsilons(total, Relation.ADD_REMOVE, DELTA)
    assert known - 1e-4 <= found["replace-one"] <= known * 1.002
    assert found["add-remove"] < found["replace-one"]


def test_without_sampling_replacing_is_halving_the_noise() -> None:
    found = epsilons(composition(1.0, 8.0, 9), Relation.ADD_REMOVE, DELTA)
    assert found["replace-one"] == pytest.approx(get_epsilon_gaussian(8 / 3 / 2, DELTA), rel=1e-3)


def test_what_is_accounted_under_replace_one_is_worth_less_against_nothing() -> None:
    plan = TrainingPlan(1000, 9, 1.0, 4, trains=True)
    mechanism = UserLocal(epsilon=4.0).calibrated(plan, math.inf)
    found = epsilons(compose_events([(mechanism.event(plan, 1), 4)]), Relation.REPLACE_ONE, mechanism.delta_for(plan))
    assert found["replace-one"] == pytest.approx(4.0, rel=5e-3)
    assert found["add-remove"] == pytest.approx(get_epsilon_gaussian(mechanism.multiplier() / 2, 1e-5), rel=2e-3)


@pytest.mark.parametrize(("epsilon", "caught"), [(1.0, 0.0197), (2.0, 0.0340), (4.0, 0.0807), (8.0, 0.2546)])
def test_an_attackers_gain_is_that_of_the_curve(epsilon: float, caught: float) -> None:
    """Invariant P23: .255 at epsilon 8, where one point (epsilon, delta) alone would allow 1."""
    plan = TrainingPlan(6040, 10**6, 1.0, 10, trains=True)
    mechanism = UserLevel(epsilon=epsilon, delta=DELTA).calibrated(plan, math.inf)
    total = compose_events([(mechanism.event(plan, 1), 10)])
    found = interpretation(total, Account.of(mechanism, plan, 6040), np.zeros(6040, np.uint32))["attacker"]
    exact = norm.cdf(norm.ppf(0.01) + math.sqrt(10) / mechanism.multiplier())
    assert exact <= found["finds_at_most"] <= exact * 1.01
    assert found["finds_at_most"] == pytest.approx(caught, abs=2e-3)
    assert found["finds_at_most"] <= min(1, math.exp(epsilon) * 0.01 + DELTA)


@settings(max_examples=8, deadline=None)
@given(q=st.sampled_from([0.05, 0.3, 1.0]), z=st.floats(0.6, 8), steps=st.integers(1, 40), fpr=st.floats(1e-3, 0.5))
def test_no_attacker_beats_the_bound(q: float, z: float, steps: int, fpr: float) -> None:
    """The sum of the noisy counts is one attack; the bound is above it, and more steps never lower it."""
    mu = q * math.sqrt(steps) / z  # at most what the sum tells
    bound = float(trade_off(composition(q, z, steps)).largest_tpr(fpr)[0])
    more = float(trade_off(composition(q, z, steps + 5)).largest_tpr(fpr)[0])
    assert fpr <= bound <= more + 1e-9 <= 1 + 1e-9
    if q == 1:
        assert bound >= norm.cdf(norm.ppf(fpr) + mu) - 1e-6


@settings(max_examples=12, deadline=None)
@given(q=st.sampled_from([0.05, 0.3, 1.0]), z=st.floats(0.6, 8), steps=st.integers(1, 40), fpr=st.floats(1e-3, 0.5))
def test_what_a_device_says_of_an_attacker_is_never_less(q: float, z: float, steps: int, fpr: float) -> None:
    """Without the accountant's library a device has a looser bound, but where all take part: there it is exact."""
    loose = largest_tpr([(z, q, steps)], fpr)
    assert float(trade_off(composition(q, z, steps)).largest_tpr(fpr)[0]) <= loose + 1e-3 <= 1 + 2e-3
    if q == 1:
        assert loose == pytest.approx(norm.cdf(norm.ppf(fpr) + math.sqrt(steps) / z), rel=1e-9)


def test_no_noise_hides_nothing_and_nothing_spent_hides_all() -> None:
    assert largest_tpr([(0.0, 1.0, 1)], 0.01) == 1 and largest_tpr([], 0.01) == pytest.approx(0.01)


def test_over_devices_composes_each_devices_own_rounds() -> None:
    """Interaction level: the distribution over devices and the largest, from how often each took part."""
    plan = TrainingPlan(100, 5000, 0.1, 60, trains=True)
    mechanism = InteractionLevel(epsilon=4.0).calibrated(plan, math.inf)
    account = Account.of(mechanism, plan, 100)
    counts = np.random.default_rng(0).binomial(60, 0.1, 100).astype(np.uint32)
    found = over_devices(account, counts)
    values = [found[name] for name in ("least", "median", "ninth_decile", "largest")]
    assert values == sorted(values) and values[0] < values[-1]
    once = compose_events([(mechanism.event(plan, 1), int(counts.max()))])
    assert found["largest"] == pytest.approx(compute_epsilon(once, account.delta), rel=2e-3)
    assert over_devices(account, np.zeros(3, np.uint32))["largest"] == 0


@settings(max_examples=4, deadline=None)
@given(
    q=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    z=st.sampled_from([0.7, 1.0, 2.0, 5.0]),
    steps=st.sampled_from([1, 20, 150]),
)
def test_pld_lies_below_prv_and_prv_below_rdp(q: float, z: float, steps: int) -> None:
    """Invariant P22: from epsilon .3 up, three accountants of two libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import create_accountant

        pld = compute_epsilon(composition(q, z, steps), DELTA)
        if not 0.3 <= pld <= 40:
            return
        upper = []
        for name in ("prv", "rdp"):
            accountant = create_accountant(name)
            accountant.history = [(z, q, steps)]
            upper.append(accountant.get_epsilon(DELTA))
    assert pld <= upper[0] <= upper[1]
    assert upper[0] - pld < 0.02
