"""DP-SGD: clipped sums are those of Opacus' hooks mode and of autograd, on the grid; noise on everything."""

import copy
import warnings

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedrec.errors import RefusedError
from fedrec.models.base import Batch, TrainableRecommender, bce, bpr
from fedrec.privacy.noise import SeededNoise, SystemNoise
from fedrec.testing.mechanisms import Silence
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.dp_sgd import DPSGDConfig, DPSGDStep

ITEMS, RATE = 23, 0.7
STEP = LocalTrainingConfig(learning_rate=RATE)
pytestmark = pytest.mark.filterwarnings("ignore")


class Base(TrainableRecommender):
    shared = frozenset({"item.weight"})
    items = ITEMS

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(1, 4), nn.Embedding(ITEMS, 4)

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.user(torch.zeros(len(batch.items), dtype=torch.long)).unsqueeze(1), self.item(batch.items)

    def loss(self, batch: Batch) -> Tensor:
        user, item = self.vectors(batch)
        return bpr((user * item).sum(-1), batch.values)

    def scores(self, history: Tensor) -> Tensor:
        return self.item.weight @ self.user.weight[0]


class Factors(Base):
    """Matrix factorisation with biases, public features as a buffer, and a layer that no loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.idle = nn.Embedding(ITEMS, 1), nn.Linear(4, 2)
        self.features: Tensor
        self.register_buffer("features", torch.randn(ITEMS, 4), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        user, item = self.vectors(batch)
        return bce((user * (item + self.features[batch.items])).sum(-1) + self.bias(batch.items)[..., 0], batch.values)


class Perceptron(Base):
    """A small NeuMF: layers on [B, 1+k, d]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 1))

    def loss(self, batch: Batch) -> Tensor:
        user, item = self.vectors(batch)
        return bce(self.layers(torch.cat([user.expand_as(item), item], -1))[..., 0], batch.values)


class Padded(Base):
    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(ITEMS, 4, padding_idx=0)


MODELS = [Base, Factors, Perceptron]


def make(kind: type[Base], seed: int = 0) -> Base:
    torch.manual_seed(seed)
    return kind()


def batch_of(size: int, negatives: int = 3, seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, ITEMS, (size, 1 + negatives))
    ids[: size // 2, 1] = ids[: size // 2, 0]  # the positive drawn as its own negative
    ids[: size // 3, -1] = ids[: size // 3, 1]  # and a third time
    return Batch(torch.from_numpy(ids), torch.from_numpy(generator.uniform(1, 5, size).astype(np.float32)))


def constants(clip: float, z: float = 1.0, denominator: float = 5.0, rate: float = 1.0, steps: int = 1) -> DPSGDConfig:
    return DPSGDConfig(clip, z, rate, steps, denominator)


def changes(model: Base, before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() - before[name] for name, value in model.named_parameters()}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def by_autograd(model: Base, batch: Batch, clip: float) -> dict[str, Tensor]:
    """Clip one example at a time; return the change that one step of SGD makes."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    sums = [torch.zeros_like(p) for p in parameters]
    for row in range(len(batch.items)):
        loss = model.loss(Batch(batch.items[row : row + 1], batch.values[row : row + 1]))[0]
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        norm = torch.stack([g.norm() for g in grads if g is not None]).norm()
        factor = min(1.0, clip / (float(norm) + 1e-6))
        for total, grad in zip(sums, grads, strict=True):
            total += 0 if grad is None else factor * grad
    return {name: -RATE * total / 5.0 for name, total in zip(names, sums, strict=True)}


class Wrapped(nn.Module):
    """Opacus' hooks mode wants a forward that gives the losses."""

    def __init__(self, model: Base) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, values: Tensor) -> Tensor:
        return self.model.loss(Batch(items, values))


def by_opacus_hooks(model: Base, batch: Batch, clip: float) -> dict[str, Tensor]:
    model = copy.deepcopy(model)
    before = state(model)
    for parameter in getattr(model, "idle", nn.Identity()).parameters():
        parameter.requires_grad_(False)  # hooks mode can't leave a parameter out
    module = GradSampleModule(Wrapped(model), loss_reduction="sum", strict=False)
    inner = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE)
    optimizer = DPOptimizer(inner, noise_multiplier=0, max_grad_norm=clip, expected_batch_size=5, loss_reduction="mean")
    module(batch.items, batch.values).sum().backward()
    optimizer.step()
    return changes(model, before)


def close(found: dict[str, Tensor], expected: dict[str, Tensor], clip: float = 0.0, size: int = 1) -> bool:
    """Say that two changes are equal, but for what rounding `size` examples to the grid of a clip may do."""
    gap = torch.cat([(found[name] - expected[name]).ravel() for name in expected])
    return float(gap.norm()) <= 1e-5 + 0.012 * clip * size * RATE / 5.0


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("clip", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("size", [1, 7])
def test_clipped_sums_equal_both_oracles(kind: type[Base], clip: float, size: int) -> None:
    model, batch = make(kind), batch_of(size)
    hooks, autograd = by_opacus_hooks(model, batch, clip), by_autograd(model, batch, clip)
    before = state(model)
    loss = DPSGDStep(model, STEP, constants(clip), Silence()).step(batch)
    found = changes(model, before)
    assert close(found, autograd, clip, size)
    assert close(found, hooks, clip, size)
    assert loss == pytest.approx(float(sum(plain_losses(make(kind), batch))), rel=1e-5)


def plain_losses(model: Base, batch: Batch) -> list[float]:
    return model.loss(batch).tolist()


def test_several_steps_on_one_model_with_an_empty_one_between() -> None:
    model, reference = make(Perceptron), make(Perceptron)
    step = DPSGDStep(model, STEP, constants(0.3), Silence())
    for seed, size in enumerate([4, 0, 6, 1]):
        batch = batch_of(size, seed=seed)
        step.step(batch)
        change = by_autograd(reference, batch, 0.3)
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                parameter += change[name]
    assert close(state(model), state(reference), 0.3, 11)


def test_the_padding_row_counts_for_nothing() -> None:
    model, batch = make(Padded), batch_of(6)
    batch.items[:, 2] = 0
    expected, before = by_autograd(model, batch, 0.1), state(model)
    DPSGDStep(model, STEP, constants(0.1), Silence()).step(batch)
    assert close(changes(model, before), expected, 0.1, 6)
    assert not changes(model, before)["item.weight"][0].any()


@pytest.mark.parametrize("size", [0, 6])
def test_noise_reaches_every_coordinate_with_the_calibrated_deviation(size: int) -> None:
    z, clip, denominator = 2.0, 0.5, 5.0
    draws: list[np.ndarray] = []
    model, batch = make(Factors), batch_of(size)
    first = state(model)
    DPSGDStep(model, STEP, constants(clip, z, denominator), Silence()).step(batch)
    clean = changes(model, first)
    step = DPSGDStep(model, STEP, constants(clip, z, denominator), SystemNoise())
    for _ in range(600):
        model.load_state_dict({**model.state_dict(), **first})
        step.step(batch)
        moved = changes(model, first)
        draws.append(np.concatenate([(moved[n] - clean[n]).numpy().ravel() for n in first]))
    noise = np.stack(draws) * denominator / RATE
    assert noise.shape[1] == sum(p.numel() for p in model.parameters())
    assert (noise.std(0) > 0.8 * z * clip).all()
    assert noise.std() == pytest.approx(z * clip, rel=0.02)
    assert abs(noise.mean()) < 6 * z * clip / noise.size**0.5
    off = np.asarray(np.corrcoef(noise.T))[np.triu_indices(noise.shape[1], 1)]
    assert np.abs(off).max() < 8 / 600**0.5


def test_noise_is_ours_and_never_torchs() -> None:
    moved = []
    for random in (SystemNoise(), SystemNoise(), SeededNoise(1), SeededNoise(1)):
        model = make(Base)
        torch.manual_seed(7)
        DPSGDStep(model, STEP, constants(0.5, 1.0), random).step(batch_of(3))
        moved.append(model.item.weight.detach().numpy().copy())
    assert not np.array_equal(moved[0], moved[1])
    np.testing.assert_array_equal(moved[2], moved[3])


def test_one_example_moves_the_sum_by_at_most_the_clip() -> None:
    clip, whole = 0.4, batch_of(8)
    parts = []
    for rows in (slice(0, 8), slice(1, 8)):
        model = make(Perceptron)
        before = state(model)
        DPSGDStep(model, STEP, constants(clip), Silence()).step(Batch(whole.items[rows], whole.values[rows]))
        parts.append(changes(model, before))
    moved = torch.cat([(parts[0][n] - parts[1][n]).ravel() for n in parts[0]]) * 5.0 / RATE
    assert float(moved.norm()) <= clip * (1 + 1e-5)


def test_a_non_finite_example_counts_for_nothing() -> None:
    class Rated(Base):
        def loss(self, batch: Batch) -> Tensor:
            user, item = self.vectors(batch)
            return ((user * item).sum(-1)[:, 0] - batch.values) ** 2

    whole = batch_of(5)
    spoiled = Batch(whole.items, whole.values.clone())
    spoiled.values[2] = float("nan")
    rest = torch.tensor([0, 1, 3, 4])
    moved = []
    for batch in (spoiled, Batch(whole.items[rest], whole.values[rest])):
        model = make(Rated)
        DPSGDStep(model, STEP, constants(0.4), Silence()).step(batch)
        moved.append(state(model))
    assert close(*moved)


def test_wrapping_leaves_no_trace_and_is_done_once() -> None:
    model, plain = make(Factors), make(Factors)
    step = DPSGDStep(model, STEP, constants(1.0, 1.0), SystemNoise())
    step.step(batch_of(4))
    assert list(model.state_dict()) == list(plain.state_dict())
    again = DPSGDStep(model, STEP, constants(2.0, 1.0), SystemNoise())
    assert again._ghost is step._ghost  # pyright: ignore[reportPrivateUsage]
    batch = batch_of(4)
    model.load_state_dict(plain.state_dict())
    grads = []
    for each in (model, plain):
        each.zero_grad()
        each.loss(batch).sum().backward()
        grads.append([p.grad for p in each.parameters()])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*grads, strict=True))  # type: ignore[arg-type]


def test_a_copy_of_a_wrapped_model_works() -> None:
    model = make(Base)
    DPSGDStep(model, STEP, constants(1.0), Silence()).step(batch_of(4))
    twin = copy.deepcopy(model)
    expected, before = by_autograd(twin, batch_of(5), 0.2), state(twin)
    untouched = state(model)
    DPSGDStep(twin, STEP, constants(0.2), Silence()).step(batch_of(5))
    assert close(changes(twin, before), expected, 0.2, 5)
    assert close(state(model), untouched)


def test_adam_follows_the_noised_sum() -> None:
    model = make(Base)
    before = state(model)
    DPSGDStep(
        model, LocalTrainingConfig(optimizer="adam", learning_rate=0.01), constants(1.0, 1.0), SystemNoise()
    ).step(batch_of(4))
    for change in changes(model, before).values():
        assert torch.allclose(change.abs(), torch.full_like(change, 0.01), rtol=1e-2)


class Twice(Base):
    def loss(self, batch: Batch) -> Tensor:
        user = self.user(torch.zeros(len(batch.items), dtype=torch.long))
        return -(user * (self.item(batch.items[:, 0]) - self.item(batch.items[:, 1]))).sum(-1)


class Sideways(Base):
    def loss(self, batch: Batch) -> Tensor:
        user = self.user(torch.zeros(len(batch.items), dtype=torch.long))
        return (user * self.item.weight[batch.items[:, 0]]).sum(-1)


class Mixing(Base):
    def loss(self, batch: Batch) -> Tensor:
        losses = super().loss(batch)
        return losses.flip(0) if len(losses) > 1 else losses * 10


class Normalised(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)


class Scalar(Base):
    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch).mean()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Twice, "calls a layer twice"),
        (Sideways, r"Sideways\.item\.weight is used past its layer"),
        (Mixing, "doesn't split into examples"),
        (Normalised, r"Normalised\.norm normalises over the batch"),
        (Scalar, "not one value an interaction"),
    ],
)
def test_models_that_can_not_be_clipped_are_refused(kind: type[Base], words: str) -> None:
    with pytest.raises(RefusedError, match=words), warnings.catch_warnings():
        DPSGDStep(make(kind), STEP, constants(1.0), SystemNoise()).step(batch_of(5))
