"""The kernel engine against the reference; that it keeps nothing, hangs on no company, and who may have it."""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.interactions import DeviceTable
from fedrec.errors import RefusedError
from fedrec.messages import Arrays
from fedrec.models.base import TrainableRecommender, linear_over_parts
from fedrec.models.closed_forms import DotProduct, NeuralCF
from fedrec.models.content import ContentRecommender
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.models.pfedrec import PFedRec
from fedrec.privacy.mechanisms.gateway import GatewayLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.testing.engines import (
    EDGES,
    ROUND,
    SEED,
    TRAININGS,
    WITHIN,
    QuietInteraction,
    devices,
    differences,
)
from fedrec.training.batches import CohortData, Histories, NegativeSampler, epochs, open_draws
from fedrec.training.kernels import engine as kernels
from fedrec.training.kernels.engine import KernelEngine
from fedrec.training.kernels.forms import kernel_reason
from fedrec.training.kernels.places import epoch_places
from fedrec.training.vectorized.engine import VectorizedEngine
from fedrec.training.vectorized.updates import Contributions, StackedUpdates
from tests.support.tiny import catalogue

ITEMS = 60
PLAIN = [name for name, (_, mechanism) in TRAININGS.items() if mechanism.dp_sgd() is None]
MODELS: dict[str, Any] = {
    "bce": lambda: MatrixFactorization(catalogue(ITEMS), dim=4, init_std=0.5),
    "bpr": lambda: MatrixFactorization(catalogue(ITEMS), dim=5, loss="bpr", init_std=0.5),
    "mse": lambda: MatrixFactorization(catalogue(ITEMS), dim=33, loss="mse", offset=3.5),
    "content": lambda: ContentRecommender(catalogue(ITEMS)),
    "neumf": lambda: NeuMF(catalogue(ITEMS), dim=16),
    "neumf bpr": lambda: NeuMF(catalogue(ITEMS), dim=5, layers=(7,), loss="bpr"),
    "neumf mse": lambda: NeuMF(catalogue(ITEMS), dim=3, layers=(8, 6, 4), loss="mse", offset=3.5),
    "perceptron": lambda: Perceptron(catalogue(ITEMS), dim=6, layers=(3,)),
}


class Perceptron(NeuMF):
    """Has no product; one layer so narrow that examples' gradients are laid out."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        del self.user_gmf, self.item_gmf
        self.output = torch.nn.Linear(self.output.in_features - self.item_mlp.embedding_dim, 1)
        self.shared -= {"item_gmf.weight"}

    @property
    def closed_form(self) -> NeuralCF:
        return NeuralCF("user_mlp.weight", "item_mlp.weight", ("layers.0",), "output")

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        item = self.item_mlp(items)
        hidden = linear_over_parts(
            self.layers[0], self.user_mlp(self.user_rows(items)).unsqueeze(-2).expand_as(item), item
        )
        return self.output(torch.relu(hidden)).squeeze(-1)


def made(name: str) -> TrainableRecommender:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = MODELS[name]()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return model


def trained(
    model: TrainableRecommender,
    settings: FedAvg,
    mechanism: Mechanism,
    table: DeviceTable,
    users: Any,
    kind: Any = None,
) -> Contributions:
    engine = (kind or KernelEngine)(model, settings)
    private = engine.first_private(SEED, np.asarray(users))
    return engine.train(model.shared_arrays(), CohortData(table, np.asarray(users)), private, mechanism, (SEED, ROUND))


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_each_device_alone(name: str, training: str) -> None:
    found = differences("kernel", made(name), *TRAININGS[training], devices(ITEMS))
    assert found.size > 1e-4 and found.update < WITHIN and found.private < WITHIN and found.loss < WITHIN
    assert found.edges <= EDGES * found.numbers


@pytest.mark.parametrize("name", ["bce", "content", "neumf"])
def test_a_device_of_two_thousand_interactions_trains_as_it_would_alone(name: str) -> None:
    """Its history holds all of the catalogue, so that negatives come from all items; and many steps of few examples."""
    table, settings = devices(ITEMS, (2000, 1)), FedAvg(epochs=2, batch_size=32, learning_rate=0.02, negatives=2)
    assert differences("kernel", made(name), settings, NoPrivacy(), table).update < 2 * WITHIN
    rare = QuietInteraction(noise_multiplier=1.0, clip=0.3, sample_rate=0.02, local_steps=20, denominator=8.0)
    assert differences("kernel", made(name), settings, rare, table).update < 1e-3  # rounded examples, a few apart


def test_places_are_those_of_the_draws_word_for_word() -> None:
    """Orders, negatives and values of every pass: with retries, with most of a catalogue used, with all of it."""
    table, users = devices(ITEMS, (3, 0, 25, 45, 400)), np.arange(5)
    own, settings = Histories.at(table, users), FedAvg(epochs=3, batch_size=8, negatives=3)
    places = epoch_places(own, open_draws(SEED, ROUND), settings, 3, np.zeros(ITEMS, np.int32))
    drawn = list(epochs(own, settings, 3, NegativeSampler(ITEMS), open_draws(SEED, ROUND)))
    for device, size in enumerate(own.sizes.tolist()):
        first = int(places.first[device])
        assert len(set(places.item[first : places.first[device + 1]].tolist())) == places.first[device + 1] - first
        for number, one in enumerate(drawn):
            at = int(places.passes[device * 3 + number])
            read = places.item[first + places.rows[at : at + size]]
            order = one.order[device, :size]
            np.testing.assert_array_equal(read[:, 0], own.items[device, order])
            np.testing.assert_array_equal(read[:, 1:], one.negatives[device, :size])
            np.testing.assert_array_equal(places.values[at : at + size], own.values[device, order])


@pytest.mark.parametrize("name", ["bpr", "neumf"])
@pytest.mark.parametrize("training", ["minibatches", "DP-SGD"])
def test_no_bit_hangs_on_company_tiles_or_what_was_trained_before(
    training: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, (settings, mechanism) = devices(ITEMS, tuple(range(40))), TRAININGS[training]

    def contributed(users: Any) -> dict[int, Arrays]:
        got = trained(made(name), settings, mechanism, table, users)
        return {user: got.stack.update_of(place).arrays for place, user in enumerate(got.users.tolist())}

    everyone = contributed(np.arange(40))
    monkeypatch.setattr(kernels, "TILE_NUMBERS", 1)
    for users in ([38, 3, 17], np.arange(40)[::-1]):
        for user, arrays in contributed(users).items():
            for array_name, array in arrays.items():
                np.testing.assert_array_equal(array, everyone[user][array_name])


@pytest.mark.parametrize("model", ["bce", "neumf"])
@pytest.mark.parametrize("training", PLAIN)
def test_sums_bounds_and_whole_numbers_are_those_of_the_cohort_engine(training: str, model: str) -> None:
    """What a mechanism asks of many devices' updates, by name, with factors of 0 among them."""
    table, (settings, mechanism), users = devices(ITEMS), TRAININGS[training], np.arange(8)
    both = [trained(made(model), settings, mechanism, table, users, kind) for kind in (KernelEngine, VectorizedEngine)]
    stacks: list[StackedUpdates] = [one.stack for one in both]
    assert both[0].users.tolist() == both[1].users.tolist() and stacks[0].shapes() == stacks[1].shapes()
    factors = {name: np.linspace(0, 1, 8) for name in stacks[0].shapes()}
    scales = {name: 4096 * factor for name, factor in factors.items()}
    for name in factors:
        for found in (
            [one.squared_norms()[name] for one in stacks],
            [one.whole_squares(scales)[name] for one in stacks],
        ):
            np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-12)
        summed = [one.weighted_sum(factors).arrays[name] for one in stacks]
        np.testing.assert_allclose(summed[0], summed[1], atol=1e-6)
        whole = [one.whole_sum(scales)[name] for one in stacks]
        assert whole[0].dtype == np.int64 and np.abs(whole[0] - whole[1]).sum() <= EDGES * whole[0].size


@pytest.mark.parametrize("name", MODELS)
def test_one_broken_example_counts_for_nothing(name: str) -> None:
    """An item that is no number: its examples drop out of DP-SGD, and the rest is what it would be without them."""
    table, model = devices(ITEMS, (20, 20)), made(name)
    mechanism = QuietInteraction(noise_multiplier=1.0, clip=0.3, denominator=8.0)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        array = sorted(model.by_item & model.shared)[-1]
        broken.get_parameter(array)[int(table[0].history[0])] = np.nan
    got = trained(broken, FedAvg(negatives=1), mechanism, table, [0, 1])
    assert all(np.isfinite(array).all() for array in got.stack.weighted_sum(np.ones(2)).arrays.values())
    assert all(np.isfinite(array).all() for array in got.private.values()) and np.isfinite(got.loss).all()
    plain = trained(broken, FedAvg(negatives=1), NoPrivacy(), table, [0, 1])
    assert not np.isfinite(plain.stack.squared_norms()[array][plain.users.tolist().index(0)])


@pytest.mark.parametrize("name", MODELS)
def test_an_interaction_more_adds_one_example_and_moves_no_other(name: str) -> None:
    """Whole numbers of a device with and without its last one differ by one that is at most a clip long."""
    full, (settings, mechanism) = devices(ITEMS, (70,)), TRAININGS["DP-SGD"]
    mechanism = QuietInteraction(noise_multiplier=1.0, clip=0.3, denominator=8.0)
    grid = mechanism.dp_sgd().grid()  # pyright: ignore[reportOptionalMemberAccess]
    for size in (1, 33, 64, 70):  # on both sides of where examples are taken together
        sums = list[dict[str, Any]]()
        for some in (size, size - 1):
            table = DeviceTable(full.start, full.start[:1] + some, full.start[1:], full.item, full.value, ITEMS)
            stack = trained(made(name), settings, mechanism, table, [0]).stack
            found = stack.update_of(0).arrays
            sums.append({n: np.rint(array / stack.units[n]).astype(int) for n, array in found.items()})
        length, finest = 0, min(stack.units.values())
        for array, whole in sums[0].items():
            steps = round(stack.units[array] / finest) if len(set(stack.units.values())) > 1 else grid.finer
            length += int(np.square((whole - sums[1][array]) * steps).sum())
        assert 0 < length <= grid.longest


def test_empty_cohorts_and_rounds_without_examples_are_nothing() -> None:
    for settings, mechanism in TRAININGS.values():
        for users in ([0, 1], []):
            got = trained(made("bce"), settings, mechanism, devices(ITEMS, (0, 0)), np.array(users, np.int64))
            assert got.examples.tolist() == [0] * len(users) and not got.loss.any()
            assert all(not a.any() for a in got.stack.weighted_sum(np.ones(len(users))).arrays.values())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says what a process holds")
@pytest.mark.parametrize("training", ["minibatches", "DP-SGD"])
@pytest.mark.parametrize("name", ["bce", "neumf"])
def test_ten_thousand_rounds_hold_no_more_memory_than_a_thousand(name: str, training: str) -> None:
    model, (settings, mechanism), table = made(name), TRAININGS[training], devices(ITEMS)
    engine, users, held = KernelEngine(model, settings), np.arange(8), list[int]()
    private, sent = engine.first_private(SEED, users), model.shared_arrays()
    for number in range(1, 10_001):
        stack = engine.train(sent, CohortData(table, users), private, mechanism, (SEED, number)).stack
        stack.weighted_sum(np.ones(8))
        if number in (1_000, 10_000):
            held.append(int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]))
    assert held[1] - held[0] < 1024  # KiB


class Odd(MatrixFactorization):
    """Says what its parent says, and computes something else."""

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return super().forward(items) * 2


class Doubled(MatrixFactorization):
    """Says what it computes."""

    @property
    def closed_form(self) -> DotProduct:
        return DotProduct("user.weight", "item.weight", "item_bias.weight", scale=2.0)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return super().forward(items) + (self.item(items) @ self.user(self.user_rows(items)).unsqueeze(-1)).squeeze(-1)


class Biased(MatrixFactorization):
    """Learns more than its parent says."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.own_bias = torch.nn.Parameter(torch.zeros(1))


class Unbiased(Perceptron):
    """Has a layer without a bias."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, layers=(8,), **more)
        self.layers[0].register_parameter("bias", None)
        self.shared -= {"layers.0.bias"}


REFUSED: dict[str, tuple[Any, FedAvg, Mechanism]] = {
    "has no kernel": (PFedRec, FedAvg(), NoPrivacy()),
    "does not fit its arrays": (Unbiased, FedAvg(), NoPrivacy()),
    "other logits": (Odd, FedAvg(), NoPrivacy()),
    "learns other arrays": (Biased, FedAvg(), NoPrivacy()),
    "not plain gradient descent": (MatrixFactorization, FedAvg(optimizer="adam"), NoPrivacy()),
    "trains the users of a node as one": (MatrixFactorization, FedAvg(), GatewayLevel(noise_multiplier=1.0)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_who_has_no_kernel_is_told_why(why: str) -> None:
    kind, settings, mechanism = REFUSED[why]
    assert why in str(kernel_reason(kind(catalogue(ITEMS)), settings, mechanism))


def test_a_model_of_ones_own_has_a_kernel_where_it_says_what_it_computes() -> None:
    model = Doubled(catalogue(ITEMS), dim=4, init_std=0.5)
    assert kernel_reason(model, FedAvg(), NoPrivacy()) is None
    assert differences("kernel", model, *TRAININGS["minibatches"], devices(ITEMS)).update < WITHIN
    with pytest.raises(RefusedError, match="other logits"):
        KernelEngine(Odd(catalogue(ITEMS), dim=4), FedAvg())
