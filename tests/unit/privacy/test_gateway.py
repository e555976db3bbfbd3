"""Training at a gateway: a user is the example, its vector is its own, its influence at most the clip, noise on all."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.models.content import ContentRecommender
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.privacy.mechanisms.gateway import GatewayLevel
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.noise import SeededNoise
from fedrec.training import gateway
from fedrec.training.gateway import UsersAsExamples, parts, stacked, train_pooled
from fedrec.training.local import first_of, train
from tests.support.tiny import catalogue

PLAN = TrainingPlan(population=50, interactions=900, cohort_rate=1.0, rounds=4, trains=True)
HISTORIES = [[1, 4, 7, 4], [2], [], [3, 5, 6, 8, 9, 10, 11], [0, 1]]
SETTINGS = FedAvg(batch_size=10**6, learning_rate=1.0, negatives=2, denominator=3.0)
MODELS = {
    "content": lambda: ContentRecommender(catalogue()),
    "mf": lambda: MatrixFactorization(catalogue(), dim=3, loss="bpr"),
    "mf on ratings": lambda: MatrixFactorization(catalogue(), dim=3, loss="mse"),
    "neumf": lambda: NeuMF(catalogue(), dim=3, layers=(4,)),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> TrainableRecommender:
    torch.manual_seed(0)
    return MODELS[request.param]()


def device(user: int, history: list[int]) -> DeviceData:
    ids, values = np.array(history, np.int32), np.linspace(1, 5, len(history)).astype(np.float32)
    none = np.zeros(0, np.int32)
    return DeviceData(user, ids, values, validation=none, test=none, test_values=np.zeros(0, np.float32))


DEVICES = [device(user, history) for user, history in enumerate(HISTORIES)]


class Quiet(SeededNoise):
    """Seeded draws without noise."""

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> np.ndarray:
        return np.zeros(shape, np.int32)


class QuietGateway(GatewayLevel):
    """Gateway level as it is, with the noise off."""

    def random(self, *key: int) -> Quiet:  # type: ignore[override]
        return Quiet(*key)


def quiet(clip: float, **settings: Any) -> GatewayLevel:
    return QuietGateway(clip=clip, denominator=7.0, randomness="seeded", **settings).calibrated(PLAN, math.inf)


def privates(model: TrainableRecommender, devices: list[DeviceData]) -> list[Arrays]:
    return [first_of(model, 5, one.user) for one in devices]


def together(model: TrainableRecommender, mechanism: GatewayLevel, devices: list[DeviceData], settings: Any = SETTINGS):
    return train_pooled(model, devices, privates(model, devices), settings, mechanism, (5, 1))


def alone(model: TrainableRecommender, one: DeviceData, clip: float) -> tuple[Arrays, Arrays]:
    """Return one device's clipped change after its own step, and its private arrays: what privacy=user would round."""
    own = copy.deepcopy(model)
    own.load(first_of(model, 5, one.user))
    before, mechanism = own.shared_arrays(), UserLevel(clip=clip)
    train(own, one, SETTINGS, mechanism, (5, 1, one.user))
    change = {name: array - before[name] for name, array in own.shared_arrays().items()}
    from fedrec.messages import ModelUpdate

    return mechanism.rule.clipped(ModelUpdate(change, 1)).arrays, own.private_arrays()


@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_one_step_is_the_sum_of_what_users_would_send(model: TrainableRecommender, clip: float) -> None:
    """Opacus on whole users against one device at a time: the same clipped sum, and the same private vectors."""
    made, oracle = together(model, quiet(clip), DEVICES), [alone(model, one, clip) for one in DEVICES]
    for name, array in made.change.items():  # but for the grid: a step of clip / 2^12 or two a user, and 2^-9 of a clip
        within = 2e-5 + 0.006 * clip
        np.testing.assert_allclose(array, sum(change[name] for change, _ in oracle), atol=within)
    for mine, (_, theirs) in zip(made.private, oracle, strict=True):
        for name, array in mine.items():
            np.testing.assert_allclose(array, theirs[name], atol=1e-6)


def test_per_sample_norms_are_those_of_whole_users(model: TrainableRecommender) -> None:
    """Invariant P16: not one interaction's, as after a reshape before the embedding."""
    from fedrec.training.dp_sgd import ghost

    users = UsersAsExamples(model, privates(model, DEVICES), 3.0)
    one = next(gateway._passes(model, stacked(DEVICES), SETTINGS, quiet(1.0).dp_sgd(), (5, 1)))  # pyright: ignore
    (batch,) = parts(one, stacked(DEVICES), np.array([0, 3, 4]))
    hooks = ghost(users)
    hooks.start()
    users.loss(batch).sum().backward()
    found = hooks.get_norm_sample().tolist()
    hooks.disable_hooks()
    shared = [p for p in users.parameters() if p.requires_grad]
    for row, norm in enumerate(found):
        users.zero_grad()
        loss = users.loss(Batch(batch.items[row : row + 1], batch.values[row : row + 1]))
        grads = torch.autograd.grad(loss.sum(), shared, allow_unused=True)
        assert norm == pytest.approx(float(torch.stack([g.norm() for g in grads if g is not None]).norm()), rel=1e-4)


@pytest.mark.parametrize("clip", [0.02, 0.5])
def test_one_user_moves_the_sum_by_at_most_the_clip(model: TrainableRecommender, clip: float) -> None:
    """Add-remove of a user, times the learning rate: the unit is the user, however much it holds."""
    heavy = device(9, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 4)
    with_it, without = (together(model, quiet(clip), found).change for found in ([*DEVICES, heavy], DEVICES))
    gap = np.sqrt(sum(float(np.square(with_it[n] - without[n], dtype=np.float64).sum()) for n in with_it))
    assert 0 < gap <= clip * SETTINGS.learning_rate * (1 + 1e-3) + 1e-5


def test_a_user_shapes_no_other_users_vector(model: TrainableRecommender) -> None:
    """Invariant P16: in a round, a private vector depends on its own user's data only."""
    other = [device(3, [0, 2]) if one.user == 3 else one for one in DEVICES]
    first, second = (together(model, quiet(0.5), found).private for found in (DEVICES, other))
    for user in (0, 1, 2, 4):
        for name, array in first[user].items():
            np.testing.assert_array_equal(array, second[user][name])


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, model: TrainableRecommender) -> None:
    whole = together(model, quiet(0.3), DEVICES)
    monkeypatch.setattr(gateway, "LARGEST_PART", 8)
    for name, array in together(model, quiet(0.3), DEVICES).change.items():
        np.testing.assert_allclose(array, whole.change[name], atol=2e-5)


@pytest.mark.parametrize("histories", [[[]], HISTORIES])
@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_noise_falls_on_every_coordinate_whoever_was_sampled(histories: list[list[int]], rate: float) -> None:
    """The released change has the calibrated variance in every row, also of an empty sample."""
    made, model = GatewayLevel(sample_rate=rate, local_steps=2).calibrated(PLAN, math.inf), MODELS["mf"]()
    made = replace(made, clip=1e-6, noise_multiplier=2e6)  # noise of 2, users of nothing
    devices = [device(user, history) for user, history in enumerate(histories)]
    draws = np.stack([together(model, made, devices).change["item.weight"].ravel() for _ in range(120)])
    assert draws.std() == pytest.approx(2 * 2**0.5, rel=0.08)
    assert (draws.std(0) > 0.6 * 2 * 2**0.5).all()


def test_noise_never_repeats_and_in_test_mode_does() -> None:
    """Invariant I3: the same gateway, round and seed, drawn twice."""
    model = MODELS["mf"]()
    for randomness, same in (("system", False), ("seeded", True)):
        made = GatewayLevel(randomness=randomness, sample_rate=0.5).calibrated(PLAN, math.inf)
        first, second = (together(model, made, DEVICES).change["item.weight"] for _ in range(2))
        assert (first == second).all() == same and (same or (first != second).all())


def test_several_steps_train(model: TrainableRecommender) -> None:
    found = together(model, quiet(100.0, local_steps=6, sample_rate=1.0), DEVICES, replace(SETTINGS, learning_rate=0.2))
    once = together(model, quiet(100.0), DEVICES, replace(SETTINGS, learning_rate=0.2))
    assert all(np.isfinite(array).all() for array in found.change.values())
    assert found.loss / found.examples < once.loss / once.examples


def test_events_and_refusals() -> None:
    plan = replace(PLAN, cohort_rate=0.1, rounds=100)
    made = GatewayLevel(sample_rate=0.25, local_steps=3).calibrated(plan, math.inf)
    assert made.event(plan, 2) == SelfComposedDpEvent(
        PoissonSampledDpEvent(0.25, GaussianDpEvent(made.multiplier())), 3
    )
    statistic = GatewayLevel().calibrated(replace(plan, trains=False), 0.5)
    assert statistic.event(plan, 1) == GaussianDpEvent(statistic.multiplier()) and statistic.clip == 0.5
    with pytest.raises(RefusedError, match=r"privacy\.clipping=split"):
        GatewayLevel(clipping="split")
    with pytest.raises(FedrecError, match=r"privacy\.sample_rate=0"):
        GatewayLevel(sample_rate=0.0)
    with pytest.raises(FedrecError, match="UserLevel does not train at a gateway"):
        train_pooled(MODELS["mf"](), DEVICES, [], SETTINGS, UserLevel(), (5, 1))
