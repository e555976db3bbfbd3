"""What every mechanism must do, checked on what really leaves: devices train, release, are summed and finished."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from fedrec.data.interactions import DeviceData
from fedrec.experiment.instantiate import instantiate
from fedrec.messages import ModelUpdate
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.clipping import group_of
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.mechanisms.user_adaptive import BIT
from fedrec.privacy.release import worth
from fedrec.testing import MechanismContract
from fedrec.testing.mechanisms import (
    PLANS,
    SENSITIVITY,
    STEP,
    MechanismCase,
    Silence,
    calibrated_for,
    flat,
    released_sum,
    vector,
)
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.local import train

CONF = Path(__file__).parents[2] / "conf" / "privacy"
ITEMS = 11
pytestmark = pytest.mark.filterwarnings("ignore")


def node(name: str, **settings: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CONF / f"{name}.yaml").read_text()), **settings}


def made(name: str, plan: TrainingPlan, **settings: Any) -> MechanismCase:
    """Return a mechanism calibrated for a plan, and the plan as it samples it; skip a pair that it refuses by name."""
    return calibrated_for(instantiate(node(name, **settings), "privacy"), plan)


def calibrated(name: str, plan: TrainingPlan, **settings: Any) -> Mechanism:
    return made(name, plan, **settings).mechanism


NAMES = [path.stem for path in sorted(CONF.glob("*.yaml"))]
SPLIT = ["user", "user_adaptive", "user_local", "user_secure", "banded"]
USER = [name for name in NAMES if name.startswith(("user", "gateway", "banded"))]


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


def expected_std(case: MechanismCase, devices: int, round_number: int) -> float:
    mechanism: Any = case.mechanism
    share = 1.0 if case.plan.shares is None else case.plan.shares[round_number - 1] * case.plan.rounds
    std = (mechanism.noise_multiplier or 0.0) * (1.0 if case.plan.trains else SENSITIVITY)
    match type(mechanism).__name__:
        case "UserLevel":
            return std / share**0.5
        case "UserAdaptive":
            return std / share**0.5 / (0.99**0.5 if case.plan.trains else 1.0)
        case "UserLocal":
            return std * devices**0.5
        case "UserSecure":
            return std / share**0.5 * (devices / mechanism.honest) ** 0.5
        case "BandedUserLevel":
            return std
        case "GatewayLevel":
            return 0.0 if case.plan.trains else std
        case "InteractionLevel":
            return 0.0 if case.plan.trains else std * devices**0.5
        case _:
            return 0.0


class TestMechanisms(MechanismContract):
    @pytest.fixture(params=[(name, plan) for name in NAMES for plan in PLANS], ids=lambda pair: " ".join(pair))
    def case(self, request: pytest.FixtureRequest) -> MechanismCase:
        name, plan = request.param
        return made(name, PLANS[plan])

    def expected_std(self, case: MechanismCase, devices: int, round_number: int) -> float:
        assert super().expected_std(case, devices, round_number) >= 0
        return expected_std(case, devices, round_number)

    def test_terms_are_those_of_the_kind(self, case: MechanismCase) -> None:
        terms, kind = case.mechanism.terms, type(case.mechanism).__name__
        relations = {"UserLocal": "replace-one", "NoPrivacy": "none"}
        assert terms.relation == relations.get(kind, "add-remove")
        trusted = {"UserLocal": "device", "InteractionLevel": "device", "GatewayLevel": "gateway", "NoPrivacy": "none"}
        trusted["UserSecure"] = "sums"
        assert terms.trust == trusted.get(kind, "server")


def test_trained_variance_is_the_calibrated_one() -> None:
    plan = PLANS["some, trained"]
    mechanism: Any = calibrated("interaction", plan, local_steps=2, sample_rate=0.5)
    draws = np.stack([flat(mechanism.privatize_update(trained(mechanism, []), mechanism.random())) for _ in range(500)])
    std = mechanism.noise_multiplier * mechanism.clip / mechanism.denominator * 2**0.5
    assert draws.std() == pytest.approx(std, rel=0.04)
    assert (draws.std(0) > 0.75 * std).all()


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
    mechanism: Any = calibrated(name, PLANS[plan])
    clip = 1.0 if PLANS[plan].trains else SENSITIVITY
    released = mechanism.privatize_update(vector(values, count=10**6), Silence())
    assert released.count == 1
    found = flat(released)
    assert np.linalg.norm(found) <= clip * (1 + 1e-6)
    assert mechanism.clip == clip
    if not np.isfinite(values).all() or not values.any():
        assert not found.any()
    elif np.linalg.norm(values) > clip:
        assert np.linalg.norm(found) == pytest.approx(clip, rel=STEP)
        np.testing.assert_allclose(found / clip, values / np.linalg.norm(values), atol=STEP)
    else:
        np.testing.assert_allclose(found, values.astype(np.float32), atol=STEP)


@settings(max_examples=60)
@given(hnp.arrays(np.float32, 6, elements=st.floats(width=32)), st.sampled_from(["whole", "split"]))
@pytest.mark.parametrize("name", ["user", "user_adaptive", "banded"])
def test_the_bound_holds_in_whole_numbers(name: str, values: np.ndarray, clipping: str) -> None:
    """Invariant M2, counted in Python's integers: no float can make a contribution longer than the grid says."""
    mechanism: Any = calibrated(name, PLANS["some, trained"], clipping=clipping)
    released = mechanism.privatize_update(vector(values), mechanism.random())
    lengths = mechanism.rule.lengths(released.grid)
    for group, length in lengths.items():
        names = [n for n in released.arrays if n != BIT and group_of(n, clipping) == group]
        assert sum(int(k) ** 2 for n in names for k in released.arrays[n].reshape(-1).tolist()) <= length**2
    assert sum(length**2 for length in lengths.values()) <= 4**released.grid.bits


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", SPLIT)
def test_split_bounds_items_and_dense_parameters_apart(name: str, values: np.ndarray) -> None:
    """M2: c1 and c2 each hold, and so does sqrt(c1^2 + c2^2), which is what the noise is made for."""
    plan, settings = PLANS["some, trained"], {"clipping": "split", "dense_share": 0.2}
    whole, split = calibrated(name, plan), calibrated(name, plan, **settings)
    assert split.event(plan, 1) == whole.event(plan, 1)
    update = vector(values)
    arrays = worth(split.privatize_update(update, Silence()))
    clipped = False
    for array, bound in (("item.a", 0.8**0.5), ("b", 0.2**0.5)):
        norm, released = (float(np.linalg.norm(a.astype(np.float64))) for a in (update.arrays[array], arrays[array]))
        assert released <= bound * (1 + 1e-6)
        clipped = clipped or not norm <= bound
        if np.isfinite(np.asarray(values, np.float32)).all():
            assert released == pytest.approx(min(norm, bound), rel=STEP, abs=STEP)
    assert BIT not in arrays or arrays[BIT][0] == (-0.5 if clipped else 0.5)


@pytest.mark.parametrize("name", SPLIT)
def test_split_noises_every_coordinate_as_whole_does(name: str) -> None:
    case = made(name, PLANS["some, trained"], clipping="split", dense_share=0.2)
    noise = np.stack([released_sum(case, [vector(np.zeros(6))]) for _ in range(800)])
    std = expected_std(case, 1, 1)
    assert noise.std(0) == pytest.approx(np.full(6, std), rel=0.2)


def test_interaction_level_bounds_one_interaction(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PLANS["all, trained"]
    mechanism: Any = calibrated("interaction", plan)
    monkeypatch.setattr(type(mechanism), "random", lambda self, *key: Silence())
    with_it, without = flat(trained(mechanism, [3, 3, 5])), flat(trained(mechanism, [3, 3]))
    assert np.linalg.norm(with_it - without) * mechanism.denominator <= mechanism.clip * (1 + 1e-6)


@pytest.mark.parametrize("plan", ["some, trained", "all, statistic"])
def test_seeded_runs_repeat_and_claim_nothing(private: str, plan: str) -> None:
    mechanism: Any = calibrated(private, PLANS[plan], randomness="seeded")
    assert not mechanism.private
    assert mechanism.terms.unit == ("interaction" if private == "interaction" else "user")
    case = MechanismCase(mechanism, mechanism.with_sampling_rate(PLANS[plan]))
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
    case = MechanismCase(mechanism, mechanism.with_sampling_rate(PLANS[plan]))
    first, second = (released_sum(case, [trained(mechanism, [1, 2], 1, 2, 3)]) for _ in range(2))
    assert (first != second).all()


def test_no_privacy_repeats_exactly() -> None:
    mechanism = calibrated("none", PLANS["all, trained"])
    history = [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(flat(trained(mechanism, history)), flat(trained(mechanism, history)))
