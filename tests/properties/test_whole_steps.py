"""Every step of DP-SGD adds whole numbers: no example longer than the clip, sums equal in any order, noise on the grid.

Nothing that leaves is impossible under a neighbour: it is whole before floats begin, on either side.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.interactions import DeviceTable
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.models.content import ContentRecommender
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.protocol import DPSGDConfig
from fedrec.privacy.noise import SeededNoise, SystemNoise
from fedrec.testing.mechanisms import Silence
from fedrec.training.batches import CohortData, LocalTrainingConfig
from fedrec.training.dp_sgd import DPSGDStep
from fedrec.training.kernels.engine import KernelEngine
from fedrec.training.vectorized import engine as cohort
from fedrec.training.vectorized.engine import VectorizedEngine
from fedrec.training.vectorized.updates import StackedUpdates
from tests.support.tiny import catalogue

ITEMS, CLIP = 20, 0.4
PUBLIC = DPSGDConfig(CLIP, 1.0, 1.0, 1, 4.0)
GRID = PUBLIC.grid()
SETTINGS = FedAvg(learning_rate=0.5, negatives=3)
pytestmark = pytest.mark.filterwarnings("ignore")


class Normed(TrainableRecommender):
    """Layers of every kind that can be stacked: tables, linear layers of few places and of many, a layer norm."""

    shared = frozenset({"item.weight"})
    by_item = frozenset({"item.weight"})
    stackable, private_std = True, 0.5

    def __init__(self) -> None:
        super().__init__()
        self.items, self.item, self.user = ITEMS, nn.Embedding(ITEMS, 3), nn.Embedding(1, 3)
        self.wide, self.norm, self.last = nn.Linear(3, 9), nn.LayerNorm(9), nn.Linear(9, 1)
        self.criterion = lambda logits, values: nn.functional.softplus(-logits).sum(-1)

    def forward(self, items: Tensor) -> Tensor:
        hidden = torch.relu(self.wide(self.item(items) + self.user(self.user_rows(items)).unsqueeze(-2)))
        return self.last(self.norm(hidden)).squeeze(-1)

    def scores(self, history: Tensor) -> Tensor:
        return self.item.weight.sum(1)


MODELS: dict[str, Any] = {
    "mf": lambda: MatrixFactorization(catalogue(ITEMS), dim=4),
    "neumf": lambda: NeuMF(catalogue(ITEMS), dim=4, layers=(8, 4)),
    "pfedrec": lambda: PFedRec(catalogue(ITEMS), dim=4),
    "content": lambda: ContentRecommender(catalogue(ITEMS)),
    "normed": Normed,
}


class Quiet(SeededNoise):
    """Seeded draws without noise."""

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> np.ndarray:
        return np.zeros(shape, np.int32)


class Silent(InteractionLevel):
    """Interaction level as it is, with the noise off."""

    def random(self, *key: int) -> Quiet:  # type: ignore[override]
        return Quiet(*key)


class Seen(DPSGDStep):
    """Keeps the whole sums of its last step, noise included."""

    def noised(self, sums: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        self.seen = super().noised(sums)
        return self.seen

    def length(self) -> int:
        """Return the squared length of all sums together in steps of the finer grid, in Python's whole numbers."""
        found = 0
        for parameter, whole in self.seen.items():
            finer = 1 if parameter in self._products else GRID.finer
            assert bool((whole == whole.round()).all())
            found += finer**2 * sum(int(number) ** 2 for number in whole.reshape(-1).tolist())
        return found


def made(name: str, std: float = 0.5, seed: int = 3, dtype: torch.dtype = torch.float32) -> TrainableRecommender:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name]()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=std)
        return model.to(dtype)


def batch_of(size: int, seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    ids = torch.from_numpy(generator.integers(0, ITEMS, (size, 4)))
    return Batch(ids, torch.from_numpy(generator.uniform(1, 5, size).astype(np.float32)))


def stepped(model: TrainableRecommender, batch: Batch, random: Any = None) -> Seen:
    step = Seen(model, LocalTrainingConfig(learning_rate=0.5), PUBLIC, random or Silence())
    step.step(batch)
    return step


def table(sizes: tuple[int, ...], seed: int = 1) -> DeviceTable:
    rng, start = np.random.default_rng(seed), np.cumsum([0, *sizes])
    items = rng.integers(0, ITEMS, start[-1]).astype(np.int32)
    return DeviceTable(start, start[1:], start[1:], items, np.ones(len(items), np.float32), ITEMS)


def trained(
    model: TrainableRecommender,
    devices: DeviceTable,
    users: np.ndarray,
    steps: int = 1,
    private: Any = None,
    kind: Any = VectorizedEngine,
) -> StackedUpdates:
    mechanism = (private or Silent)(clip=CLIP, noise_multiplier=1.0, denominator=4.0, local_steps=steps)
    engine = kind(model, SETTINGS)
    own = {n: a.astype(np.float32) for n, a in engine.first_private(0, users).items()}
    return engine.train(model.shared_arrays(), CohortData(devices, users), own, mechanism, (0, 1)).stack


@pytest.mark.parametrize("name", MODELS)
@given(st.floats(-6, 12), st.integers(0, 2**31))
def test_an_example_is_never_longer_than_the_clip(name: str, power: float, seed: int) -> None:
    """Counted in Python's whole numbers, in both engines, for parameters from tiny to huge; noise is off."""
    model, batch = made(name, std=10.0**power, seed=seed), batch_of(1, seed)
    assert stepped(model, batch).length() <= 4**GRID.products.bits


@pytest.mark.parametrize("name", MODELS)
@given(st.floats(-3, 3), st.integers(0, 2**20))
def test_an_example_of_the_cohort_engine_is_never_longer_than_the_clip(name: str, power: float, seed: int) -> None:
    model = made(name, std=10.0**power, seed=seed)
    found = trained(model, table((1, 1, 1), seed), np.arange(3))
    products = VectorizedEngine(model, SETTINGS)._stacked.on_products  # pyright: ignore[reportPrivateUsage]
    for device in range(3):
        length = 0
        for name_, array in found.update_of(device).arrays.items():
            whole = array.astype(np.float64) / found.units[name_]
            assert np.abs(whole - whole.round()).max() < 1e-3
            finer = 1 if products(name_) else GRID.finer
            length += finer**2 * sum(round(number) ** 2 for number in whole.reshape(-1).tolist())
        assert length <= 4**GRID.products.bits


@pytest.mark.parametrize("name", ["mf", "neumf"])
@given(st.floats(-3, 12), st.integers(0, 2**20))
def test_an_example_of_a_kernel_is_never_longer_than_the_clip(name: str, power: float, seed: int) -> None:
    """Counted in Python's whole numbers; parameters from tiny to so large that no gradient of them is finite."""
    model = made(name, std=10.0**power, seed=seed)
    found = trained(model, table((1, 1, 1), seed), np.arange(3), kind=KernelEngine)
    products = VectorizedEngine(model, SETTINGS)._stacked.on_products  # pyright: ignore[reportPrivateUsage]
    for device in range(3):
        length = 0
        for array_name, array in found.update_of(device).arrays.items():
            whole = array.astype(np.float64) / found.units[array_name]
            assert np.abs(whole - whole.round()).max() < 1e-3
            finer = 1 if products(array_name) else GRID.finer
            length += finer**2 * sum(round(number) ** 2 for number in whole.reshape(-1).tolist())
        assert length <= 4**GRID.products.bits


@pytest.mark.parametrize("name", MODELS)
def test_an_example_that_is_left_out_takes_its_own_whole_vector_with_it(name: str) -> None:
    """So a neighbour's sum is whole too, and any released number is possible under it: noise reaches all of them."""
    batch = batch_of(9)
    everyone = list(stepped(made(name, dtype=torch.float64), batch).seen.values())
    for row in (0, 4, 8):
        rest = [place for place in range(9) if place != row]
        without = stepped(made(name, dtype=torch.float64), Batch(batch.items[rest], batch.values[rest]))
        alone = stepped(made(name, dtype=torch.float64), Batch(batch.items[row : row + 1], batch.values[row : row + 1]))
        assert 0 < alone.length() <= 4**GRID.products.bits
        for whole, less, own in zip(everyone, without.seen.values(), alone.seen.values(), strict=True):
            assert torch.equal(whole - less, own)


def test_the_cohort_engine_adds_what_the_reference_does() -> None:
    """Whole number by whole number, on layers of every kind; tests/unit/training has fedrec's own models."""
    devices, users = table((6, 1, 0, 11)), np.arange(4)
    mechanism = Silent(clip=CLIP, noise_multiplier=1.0, denominator=4.0, local_steps=3)
    model = made("normed", dtype=torch.float64)
    sent, engine = model.shared_arrays(), VectorizedEngine(model, SETTINGS)
    private = {name: array.astype(np.float64) for name, array in engine.first_private(0, users).items()}
    fast = engine.train(sent, CohortData(devices, users), private, mechanism, (0, 1))  # pyright: ignore[reportArgumentType]
    for place, user in enumerate(fast.users.tolist()):
        own: Any = {name: array[user] for name, array in private.items()}
        slow = SETTINGS.contribute(
            made("normed", dtype=torch.float64), sent, devices[user], own, RoundContext(1, 0, mechanism)
        )
        unit = fast.stack.units["item.weight"]
        change = slow.update.arrays["item.weight"] / unit
        assert np.abs(change + fast.stack.update_of(place).arrays["item.weight"] / -unit).max() < 1e-6


def test_a_broken_example_keeps_its_slot() -> None:
    """The others are computed beside it as before: their sums are what they were, bit for bit, in single precision."""

    class Rated(MatrixFactorization):
        def loss(self, batch: Batch) -> Tensor:
            return super().loss(batch) * batch.values

    model, batch = Rated(catalogue(ITEMS), dim=4), batch_of(9)
    first = [part.detach().clone() for part in model.parameters()]
    sums = list[list[Tensor]]()
    for value in (float("nan"), 0.0):
        batch.values[4] = value
        with torch.no_grad():
            for parameter, before in zip(model.parameters(), first, strict=True):
                parameter.copy_(before)
        sums.append(list(stepped(model, batch).seen.values()))
    assert all(torch.equal(broken, absent) for broken, absent in zip(*sums, strict=True))
    assert any(bool(whole.any()) for whole in sums[0])


@pytest.mark.parametrize("name", ["mf", "neumf", "normed"])
def test_sums_are_equal_for_every_number_of_shards_tiles_and_threads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number by number, in single precision: 1, 3 and 7 shards, in any order, 1 and 2 threads, small tiles."""
    model, devices = made(name), table(tuple(range(1, 22)))
    everyone, found = np.arange(21), list[dict[str, np.ndarray]]()
    for shards, threads, floats in ((1, 1, 1 << 19), (3, 1, 1 << 19), (7, 2, 1 << 19), (1, 2, 1 << 19), (1, 1, 1)):
        monkeypatch.setattr(cohort, "FLOATS", floats)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            order = np.random.default_rng(shards).permutation(everyone)
            parts = [trained(model, devices, order[shard::shards], steps=2) for shard in range(shards)]
        finally:
            torch.set_num_threads(before)
        tiles = StackedUpdates(tuple(tile for part in parts for tile in part.tiles), units=parts[0].units)
        found.append(tiles.weighted_sum(np.ones(21)).arrays)
    for other in found[1:]:
        for array, same in zip(found[0].values(), other.values(), strict=True):
            np.testing.assert_array_equal(array, same)
    assert all(array.any() for array in found[0].values())


class Loud(Silent):
    """Interaction level with the operating system's noise, through sources that note what they gave."""

    def random(self, *key: int) -> SystemNoise:  # type: ignore[override]
        return SystemNoise()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_noised_is_whole_in_both_engines(name: str) -> None:
    """A float that leaks into a step, or noise that is none of the grid's, would leave a number that is not whole."""
    step = stepped(made(name), batch_of(5), SystemNoise())
    assert all(bool((whole == whole.round()).all() and (whole != 0).all()) for whole in step.seen.values())
    found = trained(made(name), table((4, 0, 9)), np.arange(3), steps=3, private=Loud)
    for tile in found.tiles:
        for sums in (*tile.rows.values(), *tile.dense.values()):
            assert bool((sums == sums.round()).all())
    for late in found.late.values():
        assert bool((late == late.round()).all()) and float((late != 0).double().mean()) > 0.9


@pytest.mark.parametrize("name", ["mf", "neumf"])
def test_the_noise_of_a_step_has_the_variance_of_its_grid(name: str) -> None:
    """ceil((z 2^bits)^2) + 6 in steps squared, on the grid of vectors and on the finer one, asked of the sampler."""
    asked = set[tuple[tuple[int, ...], int]]()

    class Asked(Silence):
        def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> np.ndarray:
            asked.add((shape, variance))
            return super().discrete_gaussian(shape, variance)

    model = made(name)
    step = stepped(model, batch_of(3), Asked())
    for parameter in model.parameters():
        grid = GRID.products if parameter in step._products else GRID.vectors  # pyright: ignore[reportPrivateUsage]
        assert (tuple(parameter.shape), math.ceil(4**grid.bits) + 6) in asked

    class Listening(Silent):
        def random(self, *key: int) -> Any:
            source = Quiet(*key)
            source.discrete_gaussian = Asked().discrete_gaussian  # type: ignore[method-assign]
            return source

    asked.clear()
    trained(model, table((4, 5)), np.arange(2), private=Listening)
    engine = VectorizedEngine(model, SETTINGS)._stacked  # pyright: ignore[reportPrivateUsage]
    for each in model.shared:
        grid = GRID.products if engine.on_products(each) else GRID.vectors
        of_one_step = grid.variance(1.0)
        assert any(variance % of_one_step == 0 for _, variance in asked)
    of_vectors = {variance for _, variance in asked if variance % GRID.vectors.variance(1.0) == 0}
    assert {2 * GRID.vectors.variance(1.0), GRID.vectors.variance(1.0)} >= of_vectors


def test_a_step_by_hand() -> None:
    """Golden: matrix factorisation of one dimension, one positive and one negative, counted on paper.

    user 1, items 2 and 0, biases 0: logits 2 and 0, slopes by the BPR loss -s and +s with s = 1 / (1 + e^2) = .11920.
    The gradient has the user's 2 * -s, items' -s and s, biases' -s and s: its length is s sqrt(8) = .33716, below the
    clip of .4, so that it is only rounded: s 2^10 / .4 = 305.2 steps. At .1 the scale is 2^10 (1 - 2^-9) / length.
    """
    for clip, whole, double in ((0.4, 305, 610), (0.1, 361, 723)):
        model = MatrixFactorization(catalogue(ITEMS), dim=1, loss="bpr")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.user.weight[0, 0], model.item.weight[3, 0] = 1.0, 2.0
        step = Seen(model, LocalTrainingConfig(learning_rate=1.0), DPSGDConfig(clip, 1.0, 1.0, 1, 1.0), Silence())
        step.step(Batch(torch.tensor([[3, 7]]), torch.ones(1)))
        seen = {name: step.seen[parameter].flatten().tolist() for name, parameter in model.named_parameters()}
        assert seen["user.weight"] == [-double]
        for name in ("item.weight", "item_bias.weight"):
            assert {place: value for place, value in enumerate(seen[name]) if value} == {3: -whole, 7: whole}
        assert float(model.item_bias.weight[7, 0]) == pytest.approx(-whole * clip / 2**10, rel=1e-6)
