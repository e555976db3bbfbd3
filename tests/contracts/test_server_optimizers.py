"""What every server optimiser promises, for each algorithm of conf/ that trains, and against torch's own."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.algorithms.fedavg import FedAdagrad, FedAdam, FedAvg
from fedrec.messages import Arrays
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.testing import ServerOptimizerContract
from fedrec.testing.algorithms import PUBLIC
from fedrec.testing.optimizers import OptimizerCase
from tests.contracts.test_algorithms import NAMES, PAIRS, case_of

TRAINING = [pair for pair in PAIRS if case_of(*pair).algorithm.trains]


class TestServerOptimizers(ServerOptimizerContract):
    @pytest.fixture(params=TRAINING, ids=lambda pair: " on ".join(pair))
    def case(self, request: pytest.FixtureRequest) -> OptimizerCase:
        found = case_of(*request.param)
        algorithm: Any = found.algorithm
        return OptimizerCase(lambda: replace(algorithm), found.first(), found.fresh().shared)


def test_every_algorithm_that_trains_is_among_them() -> None:
    trained = {name for name, _ in TRAINING}
    assert trained <= set(NAMES) and {"fedavg", "fedadam", "fedadagrad", "fedsgd", "sequences"} <= trained


CHANGES = [np.array(values, np.float32) for values in ([0.5, -2.0, 0.0], [0.25, 1.0, -3.0], [-1.0, 0.125, 0.5])]


def followed(optimizer: FedAdam) -> np.ndarray:
    """Return where three changes lead from the origin."""
    state: Arrays = {name: np.zeros(3, np.float32) for name in ("w", "first/w", "second/w")}
    for change in CHANGES:
        state = optimizer.step(state, Aggregate({"w": change * 7}, 7.0))
    return state["w"]


def test_fedadagrad_is_torchs_adagrad() -> None:
    weight = torch.zeros(3, requires_grad=True)
    adagrad = torch.optim.Adagrad([weight], lr=0.3, eps=0.01)
    for change in CHANGES:
        weight.grad = -torch.from_numpy(change)
        adagrad.step()
    found = followed(FedAdagrad(server_learning_rate=0.3, tau=0.01))
    np.testing.assert_allclose(found, weight.detach().numpy(), rtol=1e-5)


def test_fedadam_is_torchs_rmsprop_where_it_keeps_no_first_moment() -> None:
    """Reddi et al. correct no bias: without a first moment that is RMSprop."""
    weight = torch.zeros(3, requires_grad=True)
    rmsprop = torch.optim.RMSprop([weight], lr=0.3, alpha=0.9, eps=0.01)
    for change in CHANGES:
        weight.grad = -torch.from_numpy(change)
        rmsprop.step()
    found = followed(FedAdam(server_learning_rate=0.3, beta1=0.0, beta2=0.9, tau=0.01))
    np.testing.assert_allclose(found, weight.detach().numpy(), rtol=1e-5)


def test_fedadams_first_moment_forgets_at_its_rate() -> None:
    state: Arrays = {name: np.zeros(1, np.float32) for name in ("w", "first/w", "second/w")}
    optimizer = FedAdam(beta1=0.75)
    state = optimizer.step(state, Aggregate({"w": np.ones(1, np.float32)}, 1.0))
    for _ in range(3):
        state = optimizer.step(state, Aggregate({"w": np.zeros(1, np.float32)}, 1.0))
    np.testing.assert_allclose(state["first/w"], 0.25 * 0.75**3, rtol=1e-6)
    np.testing.assert_allclose(state["second/w"], 0.01 * 0.99**3, rtol=1e-5)


@dataclass(frozen=True)
class Against(FedAvg):
    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        return {**state, **{name: state[name] - change for name, change in total.mean().items()}}


@dataclass(frozen=True)
class Remembering(FedAvg):
    """Keeps its last step in itself, where no checkpoint finds it."""

    last: dict[str, Any] = field(default_factory=dict[str, Any], compare=False)

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        after = {name: state[name] + change + self.last.get(name, 0) for name, change in total.mean().items()}
        self.last.update(total.mean())
        return after


@dataclass(frozen=True)
class Counting(FedAvg):
    """Steps by the sum, and so by who came."""

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        return {**state, **{name: state[name] + change for name, change in total.arrays.items()}}


@dataclass(frozen=True)
class Drifting(FedAvg):
    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        return {name: array + np.float32(1e-3) for name, array in FedAvg.step(self, state, total).items()}


@dataclass(frozen=True)
class Telling(FedAdam):
    def broadcast(self, state: Arrays) -> Arrays:
        return state


@dataclass(frozen=True)
class Overflowing(FedAdam):
    def second(self, previous: np.ndarray, change: np.ndarray) -> np.ndarray:
        return previous + np.exp(np.square(change, dtype=np.float32))


def at_a_time(fault: Callable[[], FedAvg]) -> OptimizerCase:
    mf = case_of("fedavg", "mf")
    make: Any = fault
    return OptimizerCase(make, fault().init(mf.fresh(), PUBLIC), mf.fresh().shared)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        (Against, "it_goes_where_the_devices_point"),
        (Remembering, "all_it_remembers_is_in_the_state"),
        (Counting, "only_the_mean_counts"),
        (Drifting, "what_nobody_changed_stays"),
        (Telling, "devices_receive_the_model_and_no_memory_of_the_server"),
        (Overflowing, "noise_however_large_leaves_numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_the_suite_finds_a_planted_fault(fault: Callable[[], FedAvg], law: str) -> None:
    check = getattr(ServerOptimizerContract(), f"test_{law}")
    check(at_a_time(FedAvg))
    with pytest.raises(AssertionError):
        check(at_a_time(fault))
