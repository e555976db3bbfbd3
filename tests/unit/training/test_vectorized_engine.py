"""The cohort engine against the reference: the same mathematics, device by device."""

from typing import Any

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.interactions import DeviceTable
from fedrec.messages import Arrays
from fedrec.models.base import TrainableRecommender
from fedrec.models.content import ContentRecommender
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.privacy.mechanisms.gateway import GatewayLevel
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.privacy.noise import SeededNoise
from fedrec.training.batches import CohortData
from fedrec.training.vectorized import engine as cohort
from fedrec.training.vectorized.engine import VectorizedEngine
from fedrec.training.vectorized.updates import Contributions
from tests.support.tiny import catalogue

ITEMS, SEED, ROUND = 60, 3, 2
SIZES = (1, 0, 7, 30, 2, 120, 5, 64)


def table(sizes: tuple[int, ...] = SIZES, items: int = ITEMS) -> DeviceTable:
    """Devices of one interaction, of none, of more than the catalogue holds; items repeat."""
    rng = np.random.default_rng(1)
    start = np.cumsum([0, *sizes])
    rated = rng.integers(1, 6, start[-1]).astype(np.float32)
    return DeviceTable(start, start[1:], start[1:], rng.integers(0, items, start[-1]).astype(np.int32), rated, items)


MODELS: dict[str, Any] = {
    "mf bce": lambda: MatrixFactorization(catalogue(ITEMS), dim=4, init_std=0.5),
    "mf bpr": lambda: MatrixFactorization(catalogue(ITEMS), dim=4, loss="bpr", init_std=0.5),
    "mf mse": lambda: MatrixFactorization(catalogue(ITEMS), dim=3, loss="mse", offset=3.5),
    "neumf bce": lambda: NeuMF(catalogue(ITEMS), dim=4, layers=(8, 4), init_std=0.5),
    "neumf bpr": lambda: NeuMF(catalogue(ITEMS), dim=4, layers=(6,), loss="bpr", init_std=0.5),
    "neumf mse": lambda: NeuMF(catalogue(ITEMS), dim=2, layers=(), loss="mse", offset=3.5),
    "pfedrec": lambda: PFedRec(catalogue(ITEMS), dim=4, init_std=0.5, item_rate=9.0),
    "content": lambda: ContentRecommender(catalogue(ITEMS)),
}
TRAININGS = {
    "minibatches": FedAvg(epochs=3, batch_size=8, learning_rate=0.05, negatives=4),
    "whole histories": FedAvg(epochs=4, batch_size=10_000, learning_rate=0.1, negatives=2),
    "a fixed denominator": FedAvg(epochs=2, batch_size=16, learning_rate=0.02, negatives=1, denominator=8.0),
}


class Quiet(SeededNoise):
    """Seeded draws without noise."""

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> np.ndarray:
        return np.zeros(shape, np.int32)


class Silent(InteractionLevel):
    """Interaction level as it is, with the noise off."""

    def random(self, *key: int) -> Quiet:  # type: ignore[override]
        return Quiet(*key)


def made(name: str, dtype: torch.dtype = torch.float64, seed: int = 5) -> TrainableRecommender:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name]()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return model.to(dtype)


def both(
    name: str, settings: FedAvg, mechanism: Mechanism, devices: DeviceTable, dtype: torch.dtype
) -> tuple[list[tuple[Arrays, Arrays, float, int]], Contributions]:
    """Return (change, private arrays, loss, examples) of each device by the reference, and the engine's."""
    users, model = np.arange(len(devices)), made(name, dtype)
    engine, sent = VectorizedEngine(model, settings), model.shared_arrays()
    like = next(iter(sent.values())).dtype
    private = {key: array.astype(like) for key, array in engine.first_private(SEED, users).items()}
    slow = []
    for user in users.tolist():
        mine = {key: array[user] for key, array in private.items()}
        one = settings.contribute(made(name, dtype), sent, devices[user], mine, RoundContext(ROUND, SEED, mechanism))
        slow.append((one.update.arrays, one.private, one.loss, one.examples))
    return slow, engine.train(sent, CohortData(devices, users), private, mechanism, (SEED, ROUND))


def check_equal(slow: list[tuple[Arrays, Arrays, float, int]], fast: Contributions, within: float) -> None:
    """What every device contributes, keeps and loses agrees `within` that many times its size."""
    assert sorted(fast.users.tolist()) == list(range(len(slow)))
    for place, user in enumerate(fast.users.tolist()):
        change, private, loss, examples = slow[user]
        mine = fast.stack.update_of(place).arrays
        assert mine.keys() == change.keys()
        size = norm(change)
        assert norm({name: mine[name] - array for name, array in change.items()}) <= within * size
        for name, array in private.items():
            np.testing.assert_allclose(fast.private[name][place], array, atol=within, rtol=within, err_msg=name)
        assert fast.loss[place] == pytest.approx(loss, rel=10 * within, abs=within) and fast.examples[place] == examples


def norm(arrays: Arrays) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays.values())))


PRECISIONS = {torch.float64: 1e-10, torch.float32: 1e-3}  # the mathematics is one; single precision rounds apart


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_each_device_alone(name: str, training: str, dtype: torch.dtype) -> None:
    slow, fast = both(name, TRAININGS[training], NoPrivacy(), table(), dtype)
    check_equal(slow, fast, PRECISIONS[dtype])
    assert max(np.abs(array).max() for array in slow[5][0].values()) > 1e-3  # there is something to compare


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("name", MODELS)
def test_with_the_noise_off_it_clips_as_opacus_does(name: str, rate: float, dtype: torch.dtype) -> None:
    mechanism = Silent(noise_multiplier=1.0, clip=0.3, sample_rate=rate, local_steps=4, denominator=8.0)
    settings = FedAvg(learning_rate=0.5, negatives=5)
    slow, fast = both(name, settings, mechanism, table(), dtype)
    check_equal(slow, fast, PRECISIONS[dtype])
    assert any(examples < 4 * size for (*_, examples), size in zip(slow, SIZES, strict=True)) == (rate < 1)


@pytest.mark.parametrize("name", ["mf bpr", "neumf bce", "content"])
def test_a_device_of_two_thousand_interactions_trains_as_it_would_alone(name: str) -> None:
    """Beside one of a single interaction: many steps of one, of which the other takes the first alone."""
    devices, settings = table((2000, 1)), FedAvg(epochs=2, batch_size=32, learning_rate=0.05, negatives=2)
    check_equal(*both(name, settings, NoPrivacy(), devices, torch.float64), 1e-10)
    rare = Silent(noise_multiplier=1.0, clip=0.3, sample_rate=0.02, local_steps=20, denominator=8.0)
    check_equal(*both(name, settings, rare, devices, torch.float64), 1e-10)


def test_empty_cohorts_and_rounds_without_examples_are_nothing() -> None:
    model = made("neumf bce", torch.float32)
    engine, users = VectorizedEngine(model, FedAvg(negatives=2)), np.arange(3)
    sent, devices = model.shared_arrays(), table((0, 0, 0))
    private = engine.first_private(SEED, users)
    got = engine.train(sent, CohortData(devices, users), private, NoPrivacy(), (0, 1))
    assert got.examples.tolist() == [0, 0, 0] and got.loss.tolist() == [0, 0, 0]
    assert all(not array.any() for array in got.stack.weighted_sum(np.ones(3)).arrays.values())
    for name, array in private.items():
        np.testing.assert_array_equal(got.private[name], array)


def test_company_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever trains beside a device, and however many fit into a tile, it contributes the same."""
    settings, devices = TRAININGS["minibatches"], table(tuple(range(1, 40)))
    model = made("neumf bpr")
    engine, sent = VectorizedEngine(model, settings), model.shared_arrays()

    def contributed(users: np.ndarray) -> dict[int, Arrays]:
        private: Any = {name: array.astype(np.float64) for name, array in engine.first_private(SEED, users).items()}
        got = engine.train(sent, CohortData(devices, users), private, NoPrivacy(), (SEED, ROUND))
        return {user: got.stack.update_of(place).arrays for place, user in enumerate(got.users.tolist())}

    everyone = contributed(np.arange(39))
    monkeypatch.setattr(cohort, "FLOATS", 1)
    for users in (np.array([38, 3, 17]), np.arange(39)[::-1]):
        for user, arrays in contributed(users).items():
            for name, array in arrays.items():
                np.testing.assert_allclose(array, everyone[user][name], rtol=1e-9, atol=1e-12)


def test_one_broken_example_counts_for_nothing() -> None:
    """An item whose vector is not finite: its examples drop out, as they do with Opacus, and the rest goes on."""
    settings = FedAvg(learning_rate=0.5, negatives=1)
    mechanism = Silent(noise_multiplier=1.0, clip=0.3, denominator=8.0)
    model, devices = made("neumf bce"), table((40, 40))
    sent = model.shared_arrays()
    sent["item_mlp.weight"][devices[0].history[0]] = np.nan
    engine, users = VectorizedEngine(model, settings), np.arange(2)
    private: Any = {name: array.astype(np.float64) for name, array in engine.first_private(SEED, users).items()}
    got = engine.train(sent, CohortData(devices, users), private, mechanism, (SEED, ROUND))
    for place, user in enumerate(got.users.tolist()):
        mine = {name: array[user] for name, array in private.items()}
        one = settings.contribute(made("neumf bce"), sent, devices[user], mine, RoundContext(ROUND, SEED, mechanism))
        for name, array in one.update.arrays.items():
            mine, there = got.stack.update_of(place).arrays[name], np.isfinite(array)
            np.testing.assert_allclose(mine[there], array[there], rtol=1e-9, atol=1e-12)


class Odd(MatrixFactorization):
    """Uses its table past the layer."""

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return super().forward(items) + self.item.weight.sum()


REASONS: dict[str, tuple[Any, FedAvg, Mechanism]] = {
    "plain gradient descent": (MODELS["mf bce"], FedAvg(optimizer="adam"), NoPrivacy()),
    "as one": (MODELS["mf bce"], FedAvg(), GatewayLevel(noise_multiplier=1.0)),
    "seeded noise": (MODELS["mf bce"], FedAvg(), InteractionLevel(noise_multiplier=1.0, randomness="seeded")),
}


@pytest.mark.parametrize("reason", REASONS)
def test_it_says_why_it_does_not_train_many_at_once(reason: str) -> None:
    model, settings, mechanism = REASONS[reason]
    assert reason in str(cohort.unsupported_reason(model(), settings, mechanism))
    assert cohort.unsupported_reason(model(), FedAvg(), NoPrivacy()) is None


class Wrong(MatrixFactorization):
    """Says that it can be stacked, and adds over the wrong dimension."""

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        logits = super().forward(items)
        return logits - logits.detach().mean(0, keepdim=True)


class Quiescent(MatrixFactorization):
    """Does not say whether it can be stacked."""

    stackable = False


class Extra(MatrixFactorization):
    """Has a parameter outside of its layers."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.shift = torch.nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Odd, "'weight'"), (Wrong, "other losses"), (Quiescent, "does not say"), (Extra, "shift is a parameter outside")],
)
def test_models_that_can_not_be_stacked_are_trained_one_by_one(kind: Any, reason: str) -> None:
    model = kind(catalogue(ITEMS), dim=2)
    torch.nn.init.normal_(model.item_bias.weight)
    assert reason in str(cohort.unsupported_reason(model, FedAvg(), NoPrivacy()))
