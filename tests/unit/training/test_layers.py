"""Tables and layer norms of many devices against autograd, one device and one example at a time."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fedrec.errors import RefusedError
from fedrec.privacy.step_grid import StepGrid
from fedrec.training.vectorized.layers import Layer, Norm
from fedrec.training.vectorized.lookups import StackedEmbedding, UserEmbedding, coalesced

C, B, WIDE, ROWS = 3, 4, 5, 6
GRID = StepGrid.of(1.0, 1.0, 10)
SEEDS = st.integers(0, 2**31)
few = settings(max_examples=20)


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def with_arrays(layer: Layer, **arrays: Tensor) -> Layer:
    layer.arrays = {f"{layer.name}.{name}": array for name, array in arrays.items()}
    layer.reset(each=True)
    layer.begin()
    return layer


def added(layer: Layer, scales: Tensor) -> dict[str, Tensor]:
    """Return what examples times their scales add to the sums; their lengths are those of what was rounded."""
    found = layer.round_examples(scales, GRID)
    assert bool((found == found.round()).all())
    layer.add_examples()
    return {name: sums / GRID.finer if layer.on_products(name) else sums for name, sums in layer.sums.items()}


def whole(gradient: Tensor, scale: Tensor) -> Tensor:
    return (gradient * scale).round()


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
@given(seed=SEEDS, places=st.lists(st.integers(1, 3), max_size=2))
def test_a_layer_norm_learns_what_torchs_does_of_each_example(seed: int, places: list[int]) -> None:
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
    scales = 100 * torch.rand(C, B, generator=generator, dtype=torch.float64)
    sums = added(layer, scales)
    layer.apply_step()
    for name, before, place in (("weight", weight, 0), ("bias", bias, 1)):
        for c in range(C):
            step = sum(gradients[c][b][place] for b in range(B))
            torch.testing.assert_close(layer.arrays[f"norm.{name}"][c], before[c] + step)
            exact = sum(whole(gradients[c][b][place], scales[c, b]) for b in range(B))
            torch.testing.assert_close(sums[f"norm.{name}"][c], exact, rtol=0, atol=0)


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

    layer.begin()
    gradients = each_gradient(alone, slopes)
    torch.testing.assert_close(layer.squared_grad_norms(), norms(gradients))
    scales = 100 * torch.rand(C, B, generator=generator, dtype=torch.float64)
    exact = torch.zeros_like(table).index_add_(0, own.reshape(-1), whole(slopes, scales[..., None, None]).flatten(0, 2))
    torch.testing.assert_close(added(layer, scales)["items.weight"].double(), exact, rtol=0, atol=0)
    layer.apply_step()
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
    scales = 100 * torch.rand(C, B, generator=generator, dtype=torch.float64)
    exact = whole(own, scales.unsqueeze(-1)).sum(1)
    torch.testing.assert_close(added(layer, scales)["user.weight"], exact, rtol=0, atol=0)
    layer.apply_step()
    torch.testing.assert_close(layer.arrays["user.weight"], table + own.sum(1))


def test_parameters_are_made_of_where_they_started_and_the_sums() -> None:
    """The sums hold the noise; nothing but they moves a parameter."""
    layer = with_arrays(Norm("norm", nn.LayerNorm(WIDE)), weight=torch.ones(C, WIDE), bias=torch.zeros(C, WIDE))
    for name, more in (("norm.weight", 3.0), ("norm.bias", -2.0)):
        layer.add_to(name, torch.full((C, WIDE), more))
        layer.move(name, 0.25)
        layer.move(name, 0.25)
    assert (layer.arrays["norm.weight"] == 0.25).all() and (layer.arrays["norm.bias"] == 0.5).all()


def test_sums_of_rows_go_on_in_double_before_they_are_inexact() -> None:
    layer = with_arrays(StackedEmbedding("t", nn.Embedding(3, 2), None), weight=torch.zeros(3, 2))
    rows, drawn = torch.tensor([0, 2]), torch.full((2, 2), (1 << 24) - 2)
    layer.add_noise_to(rows, drawn, 1.0)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    assert layer.sums["t.weight"].dtype == torch.float32
    layer.add_noise_to(rows, torch.full((2, 2), 3), 1.0)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    assert layer.sums["t.weight"].tolist() == [[2**24 + 1] * 2, [0, 0], [2**24 + 1] * 2]


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
    assert all(bool(torch.isfinite(sums).all()) for sums in added(layer, torch.ones(C, B)).values())


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
    torch.testing.assert_close(layer.squared_grad_norms(), torch.full((C, B), 2.0))
