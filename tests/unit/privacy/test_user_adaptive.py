"""The clip finds its quantile from anywhere, and what it learns is paid for exactly once."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.messages import ModelUpdate
from fedrec.privacy.accounting.composition import epsilon_of_events
from fedrec.privacy.mechanisms.protocol import Shapes, TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.mechanisms.user_adaptive import BIT, UserAdaptive
from fedrec.privacy.release import Release, total_of

PLAN = TrainingPlan(population=2000, interactions=9, cohort_rate=0.1, rounds=120, trains=True)


def adaptive(**settings: Any) -> UserAdaptive:
    return UserAdaptive(**settings).calibrated(PLAN, math.inf)


def play(mechanism: UserAdaptive, norms: np.ndarray, rounds: int) -> list[float]:
    """Return the clip after each round on devices whose updates have these norms."""
    memory, clips, rng = mechanism.init_state({}), list[float](), np.random.default_rng(0)
    for number in range(1, rounds + 1):
        now = mechanism.with_round_params(mechanism.round_params(memory))
        drawn = norms[rng.random(len(norms)) < PLAN.cohort_rate]
        arrived = now.clip_node_sum(total_of(now.privatize_update(one(norm), now.random()) for norm in drawn))
        memory = now.privatize_aggregate(arrived, PLAN, number, now.random(), memory).mechanism_state
        clips.append(float(memory["clip"][0]))
    return clips


def nobody(mechanism: UserAdaptive, shapes: Shapes, count: int = 0) -> Release:
    """Return what nobody sent, a sum of bits beside it."""
    return Release.nothing({**shapes, BIT: (1,)}, mechanism.clip_grid(shapes), count)


def one(norm: float) -> ModelUpdate:
    return ModelUpdate({"item.a": np.array([norm, 0], np.float32)}, 1)


@pytest.mark.parametrize("start", [0.1, 0.9, 1.1, 10.0])
@pytest.mark.parametrize("target", [0.5, 0.8])
def test_the_clip_converges_to_the_quantile_from_anywhere(start: float, target: float) -> None:
    """Invariant M15; with the sign inverted (mutant adaptive-sign) it runs away."""
    norms = np.random.default_rng(1).lognormal(0.0, 0.5, PLAN.population)
    quantile = float(np.quantile(norms, target))
    clips = play(adaptive(clip=start * float(np.median(norms)), target=target), norms, PLAN.rounds)
    assert np.exp(np.mean(np.log(clips[-40:]))) == pytest.approx(quantile, rel=0.12)


def test_update_and_bit_together_cost_what_is_accounted() -> None:
    """The two Gaussians that are released, measured on their bytes, compose to the multiplier of the event.

    The update's deviation is known to 0.32 %, the bit's to 0.91 %: each tolerance is more than six standard errors.
    """
    mechanism = adaptive(epsilon=4.0, bit_share=0.2, clip=0.3)
    memory = mechanism.init_state({})
    now = mechanism.with_round_params(mechanism.round_params(memory))
    empty = nobody(now, {"item.a": (50_000,)})
    update_std = (
        np.std(now.privatize_aggregate(empty, PLAN, 1, now.random(), memory).mean()["item.a"]) * PLAN.expected_cohort
    )
    drawn = [
        now.privatize_aggregate(nobody(now, {}), PLAN, 1, now.random(), memory).mechanism_state["clip"][0]
        for _ in range(6000)
    ]
    share = 0.5 - np.log(np.array(drawn) / np.float32(now.clip)) / 0.2  # what the next clip tells of the bits
    bit_std = np.std(share) * PLAN.expected_cohort
    mu_squared = (now.clip / update_std) ** 2 + (0.5 / bit_std) ** 2
    event: Any = now.event(PLAN, 1)
    assert mu_squared**-0.5 == pytest.approx(event.event.noise_multiplier, rel=0.02)
    assert (0.5 / bit_std) ** 2 / mu_squared == pytest.approx(0.2, rel=0.1)
    plain = UserLevel(epsilon=4.0).calibrated(PLAN, math.inf)
    assert epsilon_of_events([(event, PLAN.rounds)], 1e-5) == pytest.approx(
        epsilon_of_events([(plain.event(PLAN, 1), PLAN.rounds)], 1e-5)
    )


@pytest.mark.parametrize(("norm", "bit"), [(0.0, 0.5), (0.99, 0.5), (1.01, -0.5), (1e30, -0.5), (math.nan, -0.5)])
def test_the_bit_says_unclipped_and_is_centred(norm: float, bit: float) -> None:
    released = adaptive().privatize_update(one(norm), adaptive().random())
    assert isinstance(released, Release) and released.arrays[BIT] == bit * released.grid.length
    assert np.linalg.norm(released.values()["item.a"]) <= 1


def test_a_node_cannot_claim_more_bits_than_devices() -> None:
    honest = nobody(adaptive(), {"item.a": (2,)}, 3)
    lying = replace(honest, arrays={**honest.arrays, BIT: np.array([-(10**15)])})
    assert adaptive().clip_node_sum(lying).arrays[BIT] == -1.5 * honest.grid.length


def test_a_statistic_keeps_its_own_clip_and_spends_nothing_on_bits() -> None:
    plan = TrainingPlan(2000, 9, 1.0, 1, trains=False)
    mechanism = UserAdaptive().calibrated(plan, 0.25)
    assert mechanism.clip == 0.25 and not mechanism.adapts
    assert mechanism.init_state({}) == {} and mechanism.shapes({"a": (2,)}) == {"a": (2,)}
    nothing = Release.nothing({"a": (20_000,)}, mechanism.clip_grid({"a": (20_000,)}))
    noise = mechanism.privatize_aggregate(nothing, plan, 1, mechanism.random()).arrays["a"]
    assert np.std(noise) == pytest.approx(mechanism.multiplier() * 0.25, rel=0.04)


@pytest.mark.parametrize(
    ("field", "value"), [("target", 1.0), ("bit_share", 0.0), ("clip_learning_rate", -0.1), ("clip_learning_rate", 2.0)]
)
def test_impossible_settings_are_named(field: str, value: Any) -> None:
    with pytest.raises(FedrecError, match=rf"privacy\.{field}={value}"):
        UserAdaptive(**{field: value})
    with pytest.raises(FedrecError, match=r"privacy\.clip=nan"):
        UserAdaptive().with_round_params({"clip": math.nan})
