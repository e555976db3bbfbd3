"""Tables and layer norms of many devices against autograd, one device and one example at a time."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fedrec.errors import RefusedError
from fedrec.training.vectorized.layers import Layer, Norm, StackedEmbedding, UserEmbedding, coalesced

C, B, WIDE, ROWS = 3, 4, 5, 6
SEEDS = st.integers(0, 2**31)
few = settings(max_examples=20)


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def with_arrays(layer: Layer, **arrays: Tensor) -> Layer:
    layer.arrays = {f"{layer.name}.{name}": array for name, array in arrays.items()}
    layer.reset(each=True)
    return layer


def each_gradient(value: Callable[[int, int], tuple[Tensor, list[Tensor]]], slopes: Tensor) -> list[list[list[Tensor]]]:
    """Return the gradients [C][B] of an example's value times its slopes by some parameters, by autograd."""
    found = list[list[list[Tensor]]]()
    for c in range(C):
        found.append([])
        for b in range(B):
            made, parameters = value(c, b)
            found[-1].append(list(torch.autograd.grad((made * slopes[c, b]).sum(), parameters)))
    return found


def norms(gradients: list[list[list[Tensor]]]) -> Tensor:
    return torch.stack(
        [torch.stack([torch.stack([g.square().sum() for g in one]).sum() for one in d]) for d in gradients]
    )


@few
@given(seed=SEEDS, places=st.lists(st.integers(1, 3), max_size=2), clipped=st.booleans())
def test_a_layer_norm_learns_what_torchs_does_of_each_example(seed: int, places: list[int], clipped: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = nn.LayerNorm(WIDE, eps=1e-3)
    weight, bias = drawn(generator, C, WIDE), drawn(generator, C, WIDE)
    layer = with_arrays(Norm("norm", module), weight=weight.clone(), bias=bias.clone())
    inputs, slopes = drawn(generator, C, B, *places, WIDE), drawn(generator, C, B, *places, WIDE)
    given_inputs = inputs.clone().requires_grad_()
    out = layer(given_inputs)
    out.backward(slopes)

    def alone(c: int, b: int) -> tuple[Tensor, list[Tensor]]:
        own = [weight[c].clone().requires_grad_(), bias[c].clone().requires_grad_()]
        return functional.layer_norm(inputs[c, b], (WIDE,), *own, eps=1e-3), own

    for c in range(C):
        for b in range(B):
            torch.testing.assert_close(out[c, b], alone(c, b)[0])
    gradients = each_gradient(alone, slopes)
    torch.testing.assert_close(layer.squared_grad_norms(), norms(gradients))
    factors = torch.rand(C, B, generator=generator, dtype=torch.float64) if clipped else None
    layer.apply_step(factors)
    weights = torch.ones(C, B, dtype=torch.float64) if factors is None else factors
    for name, before, place in (("weight", weight, 0), ("bias", bias, 1)):
        for c in range(C):
            step = sum(gradients[c][b][place] * weights[c, b] for b in range(B))
            torch.testing.assert_close(layer.arrays[f"norm.{name}"][c], before[c] + step)


@few
@given(seed=SEEDS, places=st.integers(1, 4), per_device=st.booleans())
def test_a_table_learns_what_an_embedding_does_of_each_example_repeats_included(
    seed: int, places: int, per_device: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = drawn(generator, C * ROWS, WIDE)
    layer = with_arrays(StackedEmbedding("items", nn.Embedding(ROWS, WIDE), ROWS if per_device else None))
    layer.arrays = {"items.weight": table.clone()}
    ids = torch.randint(0, 3, (C, B, places), generator=generator)  # few rows, so that an example reads one twice
    own = ids + torch.arange(C).view(C, 1, 1) * ROWS
    slopes = drawn(generator, C, B, places, WIDE)
    out = layer(ids if per_device else own)
    torch.testing.assert_close(out, table[own])
    out.backward(slopes)

    def alone(c: int, b: int) -> tuple[Tensor, list[Tensor]]:
        rows = table.clone().requires_grad_()
        return functional.embedding(own[c, b], rows), [rows]

    gradients = each_gradient(alone, slopes)
    torch.testing.assert_close(layer.squared_grad_norms(), norms(gradients))
    layer.apply_step(None)
    moved = sum(one[0] for device in gradients for one in device)
    torch.testing.assert_close(layer.arrays["items.weight"], table + moved)


@few
@given(seed=SEEDS, places=st.integers(0, 3))
def test_a_users_row_is_learned_by_all_of_its_examples(seed: int, places: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table, shape = drawn(generator, C, WIDE), (C, B, *((places,) if places else ()))
    layer = with_arrays(UserEmbedding("user", nn.Embedding(1, WIDE), 1), weight=table.clone())
    slopes = drawn(generator, *shape, WIDE)
    layer(torch.zeros(shape, dtype=torch.long)).backward(slopes)
    own = slopes.reshape(C, B, -1, WIDE).sum(2)
    torch.testing.assert_close(layer.squared_grad_norms(), own.square().sum(-1))
    factors = torch.rand(C, B, generator=generator, dtype=torch.float64)
    layer.apply_step(factors)
    torch.testing.assert_close(layer.arrays["user.weight"], table + (own * factors.unsqueeze(-1)).sum(1))


@few
@given(seed=SEEDS)
def test_noise_reaches_every_parameter_of_every_device_at_its_scale(seed: int) -> None:
    layer = with_arrays(Norm("norm", nn.LayerNorm(WIDE)), weight=torch.ones(C, WIDE), bias=torch.zeros(C, WIDE))
    asked = list[tuple[tuple[int, ...], float]]()

    def sampler(shape: tuple[int, ...], std: float) -> Tensor:
        asked.append((shape, std))
        return torch.full(shape, std)

    layer.add_noise(0.25, sampler)
    assert asked == [((C, WIDE), 0.25)] * 2
    assert (layer.arrays["norm.weight"] == 1.25).all() and (layer.arrays["norm.bias"] == 0.25).all()


def test_a_broken_example_leaves_no_trace() -> None:
    """A factor of zero would not do: zero times what is no number is no number."""
    layer = with_arrays(Norm("norm", nn.LayerNorm(WIDE)), weight=torch.ones(C, WIDE), bias=torch.zeros(C, WIDE))
    inputs = torch.randn(C, B, WIDE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    slopes = torch.ones(C, B, WIDE)
    slopes[1, 2] = torch.nan
    layer(inputs).backward(slopes)
    broken = torch.zeros(C, B, dtype=torch.bool)
    broken[1, 2] = True
    layer.mask_examples(broken)
    assert layer.squared_grad_norms()[1, 2] == 0
    layer.apply_step(torch.ones(C, B))
    assert all(bool(torch.isfinite(array).all()) for array in layer.arrays.values())


def test_slopes_at_one_place_are_summed_before_they_are_squared() -> None:
    slopes = torch.tensor([[[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    assert coalesced(torch.tensor([[5, 5, 7]]), slopes).tolist() == [16.0 + 4.0]
    assert coalesced(torch.tensor([[5, 6, 7]]), slopes).tolist() == [9.0 + 1.0 + 4.0]


IDS = torch.zeros(C, B, dtype=torch.long)
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a norm over two dimensions": (lambda: Norm("n", nn.LayerNorm([2, 3])), "more than one dimension"),
    "a norm without parameters": (lambda: Norm("n", nn.LayerNorm(3, elementwise_affine=False)), "without weight"),
    "a norm without bias": (lambda: Norm("n", nn.LayerNorm(3, bias=False)), "without weight and bias"),
    "a norm of no examples": (lambda: Norm("n", nn.LayerNorm(3))(torch.zeros(2, 3)), r"shape \(2, 3\)"),
    "a table that renormalises": (lambda: StackedEmbedding("t", nn.Embedding(3, 2, max_norm=1.0), None), "max_norm"),
    "a table that pads": (lambda: StackedEmbedding("t", nn.Embedding(3, 2, padding_idx=0), None), "padding_idx"),
    "ids of one dimension": (lambda: StackedEmbedding("t", nn.Embedding(3, 2), 3)(IDS[0]), r"ids of shape \(4,\)"),
    "a user's ids of one": (lambda: UserEmbedding("u", nn.Embedding(1, 2), 1)(IDS[0]), r"ids of shape \(4,\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_engine_lacks_is_refused_by_the_layers_name(kind: str) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(RefusedError, match=said):
        make()


def test_a_layer_called_twice_or_not_reached_is_refused() -> None:
    layer = with_arrays(StackedEmbedding("t", nn.Embedding(3, 2), 3), weight=torch.zeros(C * 3, 2))
    layer(IDS)
    with pytest.raises(RefusedError, match="the loss does not depend on what t gives"):
        layer.squared_grad_norms()
    with pytest.raises(RefusedError, match="t is called twice in one loss"):
        layer(IDS)
    layer.reset(each=True)
    layer(IDS).sum().backward()
    assert layer.squared_grad_norms().tolist() == [[2.0] * B] * C
