"""What every mechanism must do, checked on what really leaves: devices train, release, are summed and finished."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from fedrec.data.devices import DeviceData
from fedrec.errors import RefusedError
from fedrec.experiment.instantiate import instantiate
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.accounting.composition import epsilon_of_events
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.mechanisms.user_adaptive import BIT
from fedrec.training.config import LocalTrainingConfig
from fedrec.training.local import train
from fedrec.update import ModelUpdate, total

CONF = Path(__file__).parents[2] / "conf" / "privacy"
PLANS = {
    "all, trained": TrainingPlan(population=60, interactions=900, cohort_rate=1.0, rounds=3, trains=True),
    "some, trained": TrainingPlan(population=60, interactions=900, cohort_rate=0.3, rounds=5, trains=True),
    "all, statistic": TrainingPlan(population=60, interactions=900, cohort_rate=1.0, rounds=3, trains=False),
    "some, statistic": TrainingPlan(population=60, interactions=900, cohort_rate=0.3, rounds=5, trains=False),
    "statistic in parts": TrainingPlan(60, 900, 1.0, rounds=2, trains=False, shares=(0.7, 0.3)),
}
SENSITIVITY = 0.7  # of the statistic, at either unit
ITEMS = 11
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass
class Case:
    mechanism: Mechanism
    plan: TrainingPlan

    @property
    def finite(self) -> bool:
        return self.mechanism.terms.unit != "none"


def node(name: str, **settings: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CONF / f"{name}.yaml").read_text()), **settings}


def made(name: str, plan: TrainingPlan, **settings: Any) -> Case:
    """Return a mechanism calibrated for a plan, and the plan as it samples it; skip a pair that it refuses by name."""
    mechanism: Mechanism = instantiate(node(name, **settings), "privacy")
    planned = mechanism.with_sampling_rate(plan)
    try:
        return Case(mechanism.calibrated(planned, math.inf if plan.trains else SENSITIVITY), planned)
    except RefusedError as reason:
        assert type(mechanism).__name__ in str(reason)
        pytest.skip(f"refused: {reason}")


def calibrated(name: str, plan: TrainingPlan, **settings: Any) -> Mechanism:
    return made(name, plan, **settings).mechanism


NAMES = [path.stem for path in sorted(CONF.glob("*.yaml"))]
SPLIT = ["user", "user_adaptive", "user_local", "banded"]
USER = [name for name in NAMES if name.startswith(("user", "gateway", "banded"))]


@pytest.fixture(params=[(name, plan) for name in NAMES for plan in PLANS], ids=lambda pair: " ".join(pair))
def case(request: pytest.FixtureRequest) -> Case:
    name, plan = request.param
    return made(name, PLANS[plan])


@pytest.fixture(params=[name for name in NAMES if name != "none"])
def private(request: pytest.FixtureRequest) -> str:
    return request.param


class Model(TrainableRecommender):
    shared = frozenset({"item.weight"})
    items = ITEMS

    def __init__(self) -> None:
        super().__init__()
        self.items, self.user, self.item = ITEMS, nn.Embedding(1, 3), nn.Embedding(ITEMS, 3)
        for table in (self.user, self.item):
            nn.init.constant_(table.weight, 0.5)

    def loss(self, batch: Batch) -> Tensor:
        user = self.user(torch.zeros(len(batch.items), dtype=torch.long)).unsqueeze(1)
        return (self.item(batch.items) * user).sum((-1, -2))

    def scores(self, history: Tensor) -> Tensor:
        return self.item.weight @ self.user.weight[0]


def trained(mechanism: Mechanism, history: list[int], *key: int) -> ModelUpdate:
    """Return what one device would release of its shared change."""
    model, settings = Model(), LocalTrainingConfig(learning_rate=1.0, batch_size=4, denominator=8.0, negatives=0)
    before = model.shared_arrays()
    none, ones = np.empty(0, np.int32), np.ones(len(history), np.float32)
    device = DeviceData(7, np.array(history, np.int32), ones, none, none, np.empty(0, np.float32))
    first, second, third, *_ = (*key, 0, 0, 0)
    train(model, device, settings, mechanism, (first, second, third))
    return ModelUpdate({n: a - before[n] for n, a in model.shared_arrays().items()}, 1)


def vector(values: Any, count: int = 1) -> ModelUpdate:
    array = np.asarray(values, np.float32)
    return ModelUpdate({"item.a": array[: len(array) // 2], "b": array[len(array) // 2 :].reshape(1, -1)}, count)


def flat(update: ModelUpdate) -> np.ndarray:
    """Return the algorithm's arrays as one vector, without what a mechanism adds of its own."""
    return np.concatenate([a.ravel() for n, a in update.arrays.items() if n != BIT]).astype(np.float64)


def released_sum(case: Case, updates: list[ModelUpdate], round_number: int = 1) -> np.ndarray:
    """Return the released sum of devices' contributions, the denominator taken out again."""
    mechanism = case.mechanism
    released = [mechanism.privatize_update(u, mechanism.random(7, i)) for i, u in enumerate(updates)]
    node_sum = mechanism.clip_node_sum(
        mechanism.privatize_node_sum(total(released, released[0].arrays), mechanism.random(8))
    )
    aggregate = mechanism.privatize_aggregate(node_sum, case.plan, round_number, mechanism.random(9))
    assert aggregate.arrays.keys() == updates[0].arrays.keys()
    return flat(ModelUpdate({n: a * np.float32(aggregate.denominator) for n, a in aggregate.mean().items()}, 1))


def test_calibrate_then_account(case: Case) -> None:
    mechanism, plan = case.mechanism, case.plan
    per_device = mechanism.terms.trust in ("device", "gateway")
    events = [(mechanism.event(plan, r), 1) for r in range(1, plan.rounds + 1)]
    if per_device:
        events = [(mechanism.event(plan, 1), mechanism.participation_limit(plan))]
    spent = epsilon_of_events(events, mechanism.delta_for(plan))
    target = getattr(mechanism, "epsilon")  # noqa: B009
    assert spent == target if not case.finite else 0.99 * target <= spent <= target


def test_fields_travel_as_json_and_build_the_same(case: Case) -> None:
    fields = json.loads(json.dumps(asdict(case.mechanism), allow_nan=False))  # type: ignore[call-overload]
    target = f"{type(case.mechanism).__module__}.{type(case.mechanism).__qualname__}"
    assert instantiate({"_target_": target, **fields}, "privacy") == case.mechanism
    assert case.mechanism.calibrated(case.plan, math.inf if case.plan.trains else SENSITIVITY) == case.mechanism


def expected_std(case: Case, devices: int, round_number: int) -> float:
    mechanism: Any = case.mechanism
    share = 1.0 if case.plan.shares is None else case.plan.shares[round_number - 1] * case.plan.rounds
    std = getattr(mechanism, "noise_multiplier", 0.0) * (1.0 if case.plan.trains else SENSITIVITY)
    match type(mechanism).__name__:
        case "UserLevel":
            return std / share**0.5
        case "UserAdaptive":
            return std / share**0.5 / (0.99**0.5 if case.plan.trains else 1.0)
        case "UserLocal":
            return std * devices**0.5
        case "BandedUserLevel":
            return std
        case "GatewayLevel":
            return 0.0 if case.plan.trains else std
        case "InteractionLevel":
            return 0.0 if case.plan.trains else std * devices**0.5
        case _:
            return 0.0


def test_released_variance_is_the_calibrated_one(case: Case) -> None:
    updates = [vector(np.linspace(-0.1, 0.1, 6)), vector(np.linspace(0.2, 0, 6)), vector(np.zeros(6))]
    clean = sum(flat(u) for u in updates)
    for round_number in range(1, case.plan.rounds + 1):
        std = expected_std(case, 3, round_number)
        noise = np.stack([released_sum(case, updates, round_number) for _ in range(800)]) - clean
        if not std:
            np.testing.assert_allclose(noise, 0, atol=1e-6)
            continue
        assert noise.std() == pytest.approx(std, rel=0.06)
        assert np.abs(noise.mean(0)).max() < 7 * std / 800**0.5
        assert (noise.std(0) > 0.8 * std).all()


def test_trained_variance_is_the_calibrated_one() -> None:
    plan = PLANS["some, trained"]
    mechanism: Any = calibrated("interaction", plan, local_steps=2, sample_rate=0.5)
    draws = np.stack([flat(mechanism.privatize_update(trained(mechanism, []), mechanism.random())) for _ in range(500)])
    std = mechanism.noise_multiplier * mechanism.clip / mechanism.denominator * 2**0.5
    assert draws.std() == pytest.approx(std, rel=0.04)
    assert (draws.std(0) > 0.75 * std).all()


def test_without_noise_the_sum_is_linear_in_the_devices(case: Case) -> None:
    quiet = case.mechanism
    if case.finite:
        quiet = replace(quiet, noise_multiplier=1e-12)  # type: ignore[type-var]
    quiet_case = Case(quiet, case.plan)
    one, two = vector(np.linspace(0, 0.2, 6)), vector(np.linspace(0.1, -0.2, 6))
    both = released_sum(quiet_case, [one, two])
    np.testing.assert_allclose(both, released_sum(quiet_case, [one]) + released_sum(quiet_case, [two]), atol=1e-6)
    np.testing.assert_allclose(both, flat(one) + flat(two), atol=1e-6)


HOSTILE = {
    "huge": np.full(6, 1e30),
    "largest": np.full(6, np.finfo(np.float32).max),
    "one large": np.array([0, 0, 3e38, 0, 0, 0]),
    "nan": np.array([np.nan, 1, 1, 1, 1, 1]),
    "infinite": np.array([np.inf, -np.inf, 0, 0, 0, 0]),
    "zero": np.zeros(6),
    "denormal": np.full(6, 1e-45),
    "just above": np.full(6, 1.001 / 6**0.5),
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("plan", ["some, trained", "all, statistic"])
@pytest.mark.parametrize("name", USER)
def test_user_level_bounds_any_device(name: str, values: np.ndarray, plan: str) -> None:
    """Invariants M2, I5: a device's influence is at most the clip, whatever it sends and whatever it weighs."""
    values = np.asarray(values, np.float64)
    mechanism: Any = replace(calibrated(name, PLANS[plan]), noise_multiplier=1e-12)  # type: ignore[type-var]
    clip = 1.0 if PLANS[plan].trains else SENSITIVITY
    released = mechanism.privatize_update(vector(values, count=10**6), mechanism.random())
    assert released.count == 1
    assert released.finite()
    released = ModelUpdate({n: a for n, a in released.arrays.items() if n != BIT}, 1)
    assert released.norm() <= clip * (1 + 1e-6)
    assert mechanism.clip == clip
    if not np.isfinite(values).all() or not values.any():
        assert released.norm() <= 1e-10
    elif np.linalg.norm(values) > clip:
        assert released.norm() == pytest.approx(clip, rel=1e-5)
        np.testing.assert_allclose(flat(released) / clip, values / np.linalg.norm(values), atol=1e-6)
    else:
        np.testing.assert_allclose(flat(released), values.astype(np.float32), atol=1e-10)


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", SPLIT)
def test_split_bounds_items_and_dense_parameters_apart(name: str, values: np.ndarray) -> None:
    """M2: c1 and c2 each hold, and so does sqrt(c1^2 + c2^2), which is what the noise is made for."""
    plan, settings = PLANS["some, trained"], {"clipping": "split", "dense_share": 0.2}
    whole, split = calibrated(name, plan), calibrated(name, plan, **settings)
    assert split.event(plan, 1) == whole.event(plan, 1)
    mechanism: Any = replace(split, noise_multiplier=1e-12)  # type: ignore[type-var]
    update = vector(values)
    arrays = mechanism.privatize_update(update, mechanism.random()).arrays
    clipped = False
    for array, bound in (("item.a", 0.8**0.5), ("b", 0.2**0.5)):
        norm, released = (float(np.linalg.norm(a.astype(np.float64))) for a in (update.arrays[array], arrays[array]))
        assert released <= bound * (1 + 1e-6)
        clipped = clipped or not norm <= bound
        if np.isfinite(np.asarray(values, np.float32)).all():
            assert released == pytest.approx(min(norm, bound), rel=1e-5, abs=1e-9)
    assert BIT not in arrays or arrays[BIT][0] == (-0.5 if clipped else 0.5)


@pytest.mark.parametrize("name", SPLIT)
def test_split_noises_every_coordinate_as_whole_does(name: str) -> None:
    case = made(name, PLANS["some, trained"], clipping="split", dense_share=0.2)
    noise = np.stack([released_sum(case, [vector(np.zeros(6))]) for _ in range(800)])
    std = expected_std(case, 1, 1)
    assert noise.std(0) == pytest.approx(np.full(6, std), rel=0.2)


def test_interaction_level_bounds_one_interaction() -> None:
    plan = PLANS["all, trained"]
    mechanism: Any = replace(calibrated("interaction", plan), noise_multiplier=1e-12)  # type: ignore[type-var]
    with_it, without = flat(trained(mechanism, [3, 3, 5])), flat(trained(mechanism, [3, 3]))
    assert np.linalg.norm(with_it - without) * mechanism.denominator <= mechanism.clip * (1 + 1e-6)


def test_the_denominator_does_not_depend_on_who_arrived(case: Case) -> None:
    mechanism, denominators = case.mechanism, set()
    for count in (0, 1, 17, 60):
        arrived = replace(mechanism.privatize_update(vector(np.zeros(6)), mechanism.random(2)), count=count)
        aggregate = mechanism.privatize_aggregate(arrived, case.plan, 1, mechanism.random(1))
        denominators.add(aggregate.denominator)
    expected = {case.plan.expected_cohort} if case.finite else {1.0, 17.0, 60.0}
    assert denominators == expected


@pytest.mark.parametrize("plan", ["some, trained", "all, statistic"])
def test_seeded_runs_repeat_and_claim_nothing(private: str, plan: str) -> None:
    mechanism: Any = calibrated(private, PLANS[plan], randomness="seeded")
    assert not mechanism.private
    assert mechanism.terms.unit == ("interaction" if private == "interaction" else "user")
    case = Case(mechanism, mechanism.with_sampling_rate(PLANS[plan]))
    updates = [trained(mechanism, [1, 2], 1, 2, 3), trained(mechanism, [1], 1, 2, 4)]
    again = [trained(mechanism, [1, 2], 1, 2, 3), trained(mechanism, [1], 1, 2, 4)]
    np.testing.assert_array_equal(released_sum(case, updates), released_sum(case, again))


@pytest.mark.system_noise
@pytest.mark.parametrize("plan", ["some, trained", "all, statistic"])
def test_system_noise_never_repeats(private: str, plan: str) -> None:
    mechanism: Any = calibrated(private, PLANS[plan])
    assert mechanism.private
    if mechanism.pools_users and PLANS[plan].trains:
        pytest.skip("its noise falls inside the training of a gateway: tests/unit/privacy/test_gateway.py")
    case = Case(mechanism, mechanism.with_sampling_rate(PLANS[plan]))
    first, second = (released_sum(case, [trained(mechanism, [1, 2], 1, 2, 3)]) for _ in range(2))
    assert (first != second).all()


def test_no_privacy_repeats_exactly() -> None:
    mechanism = calibrated("none", PLANS["all, trained"])
    history = [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(flat(trained(mechanism, history)), flat(trained(mechanism, history)))


def test_events_come_from_the_public_plan_alone(case: Case) -> None:
    before = case.mechanism.event(case.plan, 1)
    released_sum(case, [vector(np.ones(6))])
    assert case.mechanism.event(case.plan, 1) == before


def test_terms_are_complete(case: Case) -> None:
    terms = case.mechanism.terms
    assert terms.unit in {"none", "interaction", "user"}
    relations = {"UserLocal": "replace-one", "NoPrivacy": "none"}
    assert terms.relation == relations.get(type(case.mechanism).__name__, "add-remove")
    trusted = {"UserLocal": "device", "InteractionLevel": "device", "GatewayLevel": "gateway", "NoPrivacy": "none"}
    assert terms.trust == trusted.get(type(case.mechanism).__name__, "server")
    assert terms.adversary
    assert terms.release_set
    assert 0 < case.mechanism.delta_for(case.plan) < 1 / case.plan.population
