"""Local noise: replace-one, two clips apart, no amplification by a cohort that the server draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

from fedrec.messages import ModelUpdate
from fedrec.privacy.accounting.composition import epsilon_of_events
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user_local import UserLocal
from fedrec.privacy.release import worth

PLAN = TrainingPlan(population=1000, interactions=9, cohort_rate=1.0, rounds=9, trains=True)


def test_mu_is_twice_the_root_of_the_rounds_over_z() -> None:
    """Invariant P13: mu = 2 sqrt(T) / z."""
    mechanism = UserLocal(epsilon=4.0).calibrated(PLAN, math.inf)
    assert mechanism.event(PLAN, 3) == GaussianDpEvent(mechanism.multiplier() / 2)
    mu = 2 * math.sqrt(PLAN.rounds) / mechanism.multiplier()
    delta = mechanism.delta_for(PLAN)
    exact = get_epsilon_gaussian(1 / mu, delta)
    assert 0.99 * 4.0 <= exact <= epsilon_of_events([(mechanism.event(PLAN, 1), PLAN.rounds)], delta) <= 4.0


def test_the_farthest_two_histories_lie_two_clips_apart_in_what_is_sent() -> None:
    """Measured on released bytes: the distance of the means over the deviation is the mu of one round."""
    plan = replace(PLAN, rounds=1)
    mechanism = UserLocal(epsilon=20.0, clip=0.5).calibrated(plan, math.inf)
    up, down = (ModelUpdate({"a": np.full(1, sign, np.float32)}, 1) for sign in (1e30, -1e30))
    sent = np.array(
        [[worth(mechanism.privatize_update(u, mechanism.random()))["a"][0] for u in (up, down)] for _ in range(4000)]
    )
    mu = (sent[:, 0].mean() - sent[:, 1].mean()) / sent.std(0).mean()
    event = mechanism.event(plan, 1)
    assert isinstance(event, GaussianDpEvent)
    assert mu == pytest.approx(1 / event.noise_multiplier, rel=0.1)
    assert sent.std(0) == pytest.approx(mechanism.multiplier() * 0.5, rel=0.08)


def test_sampling_the_cohort_saves_participations_and_amplifies_nothing() -> None:
    sampled = replace(PLAN, cohort_rate=0.1, rounds=200)
    mechanism = UserLocal(epsilon=4.0).calibrated(sampled, math.inf)
    assert 20 < mechanism.participation_limit(sampled) < 40
    assert mechanism.event(sampled, 1) == GaussianDpEvent(mechanism.multiplier() / 2)
    assert UserLocal(max_participations=3).participation_limit(sampled) == 3


def test_what_is_no_number_is_sent_as_noise_alone() -> None:
    mechanism = UserLocal().calibrated(PLAN, math.inf)
    sent = mechanism.privatize_update(ModelUpdate({"a": np.full(5000, np.nan, np.float32)}, 7), mechanism.random())
    assert sent.count == 1 and np.std(worth(sent)["a"]) == pytest.approx(mechanism.multiplier(), rel=0.08)
