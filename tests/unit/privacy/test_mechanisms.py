"""What each mechanism promises by itself: events, participations, refusals by name, ordinary local training."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, NonPrivateDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from scipy.stats import binom
from torch import Tensor, nn

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import ModelUpdate
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.accounting.composition import epsilon_of_events
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.base import check_compatible
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.release import worth
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.sgd import SGDStep

PLAN = TrainingPlan(population=943, interactions=100_000, cohort_rate=50 / 943, rounds=200, trains=True)
SHORT = TrainingPlan(population=943, interactions=100_000, cohort_rate=1.0, rounds=4, trains=True)


def multiplier(mechanism: UserLevel | InteractionLevel) -> float:
    assert mechanism.noise_multiplier is not None
    return mechanism.noise_multiplier


def test_user_level_matches_the_table() -> None:
    mechanism = UserLevel(epsilon=8.0, delta=5.3e-4).calibrated(PLAN, math.inf)
    assert mechanism.noise_multiplier == pytest.approx(0.70, abs=0.02)
    assert mechanism.clip == 1.0
    event = mechanism.event(PLAN, 1)
    assert event == PoissonSampledDpEvent(50 / 943, GaussianDpEvent(multiplier(mechanism)))
    assert mechanism.event(SHORT, 1) == GaussianDpEvent(multiplier(mechanism))
    assert mechanism.participation_limit(PLAN) == 200


def test_user_level_takes_the_clip_of_a_statistic() -> None:
    statistic = replace(SHORT, trains=False)
    assert UserLevel(clip=5.0).calibrated(statistic, 0.25).clip == 0.25
    assert UserLevel(clip=5.0).calibrated(statistic, math.inf).clip == 5.0


def test_user_level_spends_shares() -> None:
    plan = replace(SHORT, rounds=3, shares=(0.5, 0.25, 0.25), trains=False)
    mechanism = UserLevel(epsilon=2.0).calibrated(plan, 1.0)
    events: list[Any] = [mechanism.event(plan, r) for r in (1, 2, 3)]
    z = [event.noise_multiplier for event in events]
    assert z[1] == z[2] == pytest.approx(z[0] * 2**0.5)
    assert mechanism.noise_multiplier == pytest.approx(
        UserLevel(epsilon=2.0).calibrated(replace(plan, shares=None), 1.0).noise_multiplier, rel=1e-3
    )
    with pytest.raises(FedrecError, match="shares"):
        UserLevel().calibrated(replace(plan, rounds=2), 1.0)


def test_interaction_level_accounts_local_steps_and_no_cohort_sampling() -> None:
    mechanism = InteractionLevel(epsilon=4.0, sample_rate=0.25, local_steps=3).calibrated(PLAN, math.inf)
    z, times = multiplier(mechanism), mechanism.participation_limit(PLAN)
    assert times == binom.ppf(0.999, 200, 50 / 943)
    assert mechanism.event(PLAN, 5) == SelfComposedDpEvent(PoissonSampledDpEvent(0.25, GaussianDpEvent(z)), 3)
    spent = epsilon_of_events([(PoissonSampledDpEvent(0.25, GaussianDpEvent(z)), 3 * times)], mechanism.delta_for(PLAN))
    assert 3.96 <= spent <= 4.0
    assert mechanism.delta_for(PLAN) == pytest.approx(100_000**-1.1)
    assert mechanism.sensitivity is None


def test_interaction_level_participations() -> None:
    assert InteractionLevel().participation_limit(SHORT) == 4
    assert InteractionLevel(max_participations=3).participation_limit(SHORT) == 3
    assert InteractionLevel(max_participations=9).participation_limit(SHORT) == 4
    assert InteractionLevel().participation_limit(replace(PLAN, cohort_rate=1e-9)) == 1


def test_interaction_level_statistic() -> None:
    plan = replace(SHORT, trains=False)
    mechanism = InteractionLevel(epsilon=4.0, sample_rate=0.1, local_steps=7).calibrated(plan, 0.5)
    assert mechanism.event(plan, 1) == GaussianDpEvent(multiplier(mechanism))
    update = ModelUpdate({"a": np.full(2000, 50.0, np.float32)}, 1)
    released = worth(mechanism.privatize_update(update, mechanism.random()))["a"] - 50
    assert mechanism.noise_multiplier is not None
    assert released.std() == pytest.approx(mechanism.noise_multiplier * 0.5, rel=0.1)
    update = ModelUpdate({"a": np.full(5, np.nan, np.float32)}, 1)
    spoiled = worth(mechanism.privatize_update(update, mechanism.random()))["a"]
    assert np.abs(spoiled).max() < 14 * multiplier(mechanism)
    assert np.count_nonzero(spoiled) == 5
    with pytest.raises(RefusedError, match="InteractionLevel"):
        InteractionLevel().calibrated(plan, math.inf)


@pytest.mark.parametrize("mechanism", [UserLevel(), InteractionLevel()])
def test_without_an_argument_or_a_calibration_nothing_goes_out(mechanism: Any) -> None:
    with pytest.raises(RefusedError, match=type(mechanism).__name__):
        mechanism.calibrated(PLAN, None)
    with pytest.raises(FedrecError, match="calibrated"):
        mechanism.event(PLAN, 1)


def test_pairs_are_refused_by_name() -> None:
    with pytest.raises(
        RefusedError, match=r"Ease and InteractionLevel have no argument together.*privacy=user or privacy=none"
    ):
        check_compatible("Ease", InteractionLevel(), None, Unit.INTERACTION)
    with pytest.raises(RefusedError, match="Odd and UserLevel"):
        check_compatible("Odd", UserLevel(), None, Unit.USER)
    check_compatible("Ease", UserLevel(), 1.0, Unit.USER)
    check_compatible("FedAvg", InteractionLevel(), math.inf, Unit.INTERACTION)
    check_compatible("Ease", NoPrivacy(), None, Unit.NONE)


def test_a_given_multiplier_must_keep_the_epsilon() -> None:
    assert UserLevel(epsilon=2.0, noise_multiplier=50.0).calibrated(SHORT, math.inf).noise_multiplier == 50.0
    with pytest.raises(
        RefusedError, match=r"privacy\.noise_multiplier=0\.5 costs epsilon .*privacy\.epsilon=2\.0.*is enough"
    ):
        UserLevel(epsilon=2.0, noise_multiplier=0.5).calibrated(SHORT, math.inf)


@pytest.mark.parametrize("kind", [UserLevel, InteractionLevel])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", -1.0),
        ("epsilon", 0.0),
        ("epsilon", math.nan),
        ("epsilon", math.inf),
        ("delta", 0.0),
        ("delta", 1.0),
        ("clip", 0.0),
        ("clip", math.inf),
        ("noise_multiplier", -1.0),
        ("randomness", "sytem"),
    ],
)
def test_impossible_settings_are_named(kind: Any, field: str, value: object) -> None:
    with pytest.raises(FedrecError, match=rf"privacy\.{field}={value}"):
        kind(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("sample_rate", 0.0), ("sample_rate", 1.1), ("local_steps", 0), ("denominator", -2.0), ("max_participations", 0)],
)
def test_impossible_local_settings_are_named(field: str, value: Any) -> None:
    with pytest.raises(FedrecError, match=rf"privacy\.{field}={value}"):
        InteractionLevel(**{field: value})


def test_delta_is_refused_from_one_over_the_units() -> None:
    with pytest.raises(FedrecError, match=r"privacy\.delta=0\.0015.*1/943"):
        UserLevel(delta=0.0015).calibrated(PLAN, math.inf)
    with pytest.raises(FedrecError, match=r"privacy\.delta=1e-05.*1/100,000"):
        InteractionLevel(delta=1e-5).calibrated(PLAN, math.inf)
    InteractionLevel(delta=9e-6).delta_for(PLAN)


def test_no_privacy_divides_by_who_arrived_and_refuses_nan() -> None:
    mechanism = NoPrivacy()
    update = ModelUpdate({"a": np.ones(3, np.float32)}, 1)
    assert mechanism.privatize_update(update, mechanism.random(1)) is update
    with pytest.raises(FedrecError, match="diverged"):
        mechanism.privatize_update(ModelUpdate({"a": np.array([np.nan], np.float32)}, 1), mechanism.random(1))
    assert mechanism.privatize_aggregate(ModelUpdate({}, 5), PLAN, 1, mechanism.random(1)).denominator == 5
    assert mechanism.privatize_aggregate(ModelUpdate({}, 0), PLAN, 1, mechanism.random(1)).denominator == 1
    assert isinstance(mechanism.event(PLAN, 1), NonPrivateDpEvent)
    assert mechanism.epsilon == math.inf
    assert not mechanism.private


class Line(TrainableRecommender):
    """loss = w0 * item, so that the gradient is the item's number."""

    shared = frozenset({"w.weight"})
    items = 10

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.w.weight)

    def loss(self, batch: Batch) -> Tensor:
        return self.w(batch.items[:, :1].float())[:, 0]

    def scores(self, history: Tensor) -> Tensor:
        return self.w.weight[0]


def batch(*items: int) -> Batch:
    return Batch(torch.tensor(items, dtype=torch.long).reshape(-1, 1), torch.ones(len(items)))


@pytest.mark.parametrize(("denominator", "change"), [(None, -0.1 * 3), (8.0, -0.1 * 6 / 8)])
def test_an_ordinary_step_follows_the_mean_or_a_fixed_denominator(denominator: float | None, change: float) -> None:
    model = Line()
    step = SGDStep(model, LocalTrainingConfig(denominator=denominator, learning_rate=0.1))
    assert step.step(batch(2, 4)) == 0.0
    assert float(model.w.weight.detach()) == pytest.approx(change)
    assert step.step(batch()) == 0.0
    assert step.step(batch(1)) == pytest.approx(change)


class Curve(TrainableRecommender):
    """loss = w0 * item^2 + w1 * item over a deeper path, with a frozen parameter and, if `idle`, one without a use."""

    shared = frozenset({"w.weight"})
    items = 10

    def __init__(self, idle: bool) -> None:
        super().__init__()
        self.w, self.idle, self.fixed = nn.Linear(1, 3), nn.Linear(1, 1), nn.Linear(3, 1)
        self.fixed.requires_grad_(False)
        self.use_idle = not idle

    def loss(self, batch: Batch) -> Tensor:
        found = self.fixed(torch.tanh(self.w(batch.items[:, :1].float())))[:, 0]
        return found + self.idle(found[:, None])[:, 0] if self.use_idle else found

    def scores(self, history: Tensor) -> Tensor:
        return self.w.weight[0]


@pytest.mark.parametrize("idle", [False, True])
def test_plain_descent_is_that_of_torch_to_the_bit(idle: bool) -> None:
    ours, theirs = Curve(idle), Curve(idle)
    theirs.load_state_dict(ours.state_dict())
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    step = SGDStep(ours, LocalTrainingConfig(learning_rate=0.3))
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.3)
    for items in ((2, 4), (7,), (1, 1, 9)):
        step.step(batch(*items))
        sgd.zero_grad()
        (theirs.loss(batch(*items)).sum() / len(items)).backward()
        sgd.step()
    after = ours.state_dict()
    assert all(torch.equal(after[name], value) for name, value in theirs.state_dict().items())
    assert not torch.equal(before["w.weight"], after["w.weight"])
    assert torch.equal(before["fixed.weight"], after["fixed.weight"])
    assert torch.equal(before["idle.weight"], after["idle.weight"]) == idle


def test_optimisers_by_name() -> None:
    model = Line()
    SGDStep(model, LocalTrainingConfig(optimizer="adam", learning_rate=0.01)).step(batch(7))
    assert float(model.w.weight.detach()) == pytest.approx(-0.01, rel=1e-3)
    with pytest.raises(FedrecError, match=r"algorithm\.optimizer=sdg does not exist\. Did you mean 'sgd'"):
        SGDStep(Line(), LocalTrainingConfig(optimizer="sdg"))
