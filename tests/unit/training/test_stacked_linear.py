"""Linear layers of many devices against torch's own, one device and one example at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrec.models.base import linear_over_parts
from fedrec.privacy.step_grid import StepGrid
from fedrec.training.vectorized.products import StackedLinear, same

C, B, WIDE = 3, 4, 5
GRID = StepGrid.of(1.0, 1.0, 10)


def parts_of(places: int, kinds: list[bool], generator: torch.Generator) -> list[Tensor]:
    """One part of `WIDE` inputs [C, B, places, WIDE] for each kind; True: the same row for all examples of a device."""
    made = list[Tensor]()
    for shared in kinds:
        shape = (C, 1, 1, WIDE) if shared else (C, B, places, WIDE)
        part = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        made.append(part.expand(C, B, places, WIDE))
    return made


def stacked(inputs: int, generator: torch.Generator, biased: bool, outputs: int) -> StackedLinear:
    layer = StackedLinear("layer", nn.Linear(inputs, outputs, bias=biased))
    layer.arrays = {"layer.weight": torch.randn(C, outputs, inputs, generator=generator, dtype=torch.float64)}
    if biased:
        layer.arrays["layer.bias"] = torch.randn(C, outputs, generator=generator, dtype=torch.float64)
    return layer


def check_whole(layer: StackedLinear, weight: Tensor, bias: Tensor | None, squares: Tensor) -> None:
    """Round one example after the other: what each adds is whole, near its gradient, and as long as was said."""
    layer.begin()
    for c, b in ((0, 0), (C - 1, B - 1)):
        before = {name: sums.clone() for name, sums in layer.sums.items()}
        scales = torch.zeros(C, B, dtype=torch.float64)
        scales[c, b] = 1000 / squares[c, b].sqrt()
        said = layer.round_examples(scales, GRID)
        layer.add_examples()
        added = {name: layer.sums[name][c] - before[name][c] for name in layer.sums}
        assert all(bool((sums == sums.round()).all()) for sums in added.values())
        own, length = added["layer.weight"], int(added["layer.weight"].square().sum())
        expected = weight[c, b] * scales[c, b] * GRID.finer
        assert float((own - expected).norm()) < 0.03 * GRID.finer * 1000
        if bias is not None:
            torch.testing.assert_close(added["layer.bias"], (bias[c, b] * scales[c, b]).round(), rtol=0, atol=0)
            length += int(added["layer.bias"].square().sum()) * GRID.finer**2
        assert said[c, b] == length and not said[c, (b + 1) % B]


@given(
    places=st.integers(1, 3),
    kinds=st.lists(st.booleans(), min_size=1, max_size=3),
    biased=st.booleans(),
    outputs=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 2**31),
)
def test_parts_give_and_learn_what_their_concatenation_does(
    places: int, kinds: list[bool], biased: bool, outputs: int, seed: int
) -> None:
    """Values, slopes by the parts, each example's squared norm, and the step; a shared row may have moved meanwhile."""
    generator = torch.Generator().manual_seed(seed)
    parts = parts_of(places, kinds, generator)
    layer = stacked(WIDE * len(kinds), generator, biased, outputs)
    whole = torch.cat(parts, dim=-1).detach().requires_grad_()
    weight = layer.arrays["layer.weight"].clone().unsqueeze(1).repeat(1, B, 1, 1).requires_grad_()
    bias = layer.arrays["layer.bias"].clone().unsqueeze(1).repeat(1, B, 1) if biased else torch.zeros(C, B, outputs)
    bias = bias.double().requires_grad_()
    expected = whole @ weight.mT + bias.unsqueeze(2)
    slopes = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    expected.backward(slopes)

    layer.reset(each=True)
    given_parts = [part.detach().clone() if not same(part) else part.detach() for part in parts]
    given_parts = [part.requires_grad_() for part in given_parts]
    found = linear_over_parts(layer, *given_parts)
    found.backward(slopes)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.cat([part.grad for part in given_parts if part.grad is not None], -1), whole.grad)
    square = torch.Tensor(weight.grad).square().sum((-1, -2))
    square = square + (torch.Tensor(bias.grad).square().sum(-1) if biased else 0.0)
    found = layer.squared_grad_norms()  # by rounded inputs, where the gradient is not laid out
    torch.testing.assert_close(found, square, rtol=2e-2, atol=0)
    check_whole(layer, torch.Tensor(weight.grad), torch.Tensor(bias.grad) if biased else None, found)
    before = {name: array.clone() for name, array in layer.arrays.items()}
    with torch.no_grad():
        for part, shared in zip(given_parts, kinds, strict=True):
            if shared:
                part[:, 0, 0].add_(1.0)  # the table that the row is part of took its step first
        layer.apply_step()
    torch.testing.assert_close(layer.arrays["layer.weight"] - before["layer.weight"], torch.Tensor(weight.grad).sum(1))
    if biased:
        torch.testing.assert_close(layer.arrays["layer.bias"] - before["layer.bias"], torch.Tensor(bias.grad).sum(1))


@pytest.mark.parametrize("each", [True, False])
def test_slopes_by_a_shared_row_add_up_whether_each_is_asked_for_or_not(each: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    row = torch.randn(C, 1, 1, WIDE, generator=generator, dtype=torch.float64).requires_grad_()
    layer = stacked(WIDE, generator, True, 3)
    layer.reset(each)
    slopes = torch.randn(C, B, 2, 3, generator=generator, dtype=torch.float64)
    layer(row.expand(C, B, 2, WIDE)).backward(slopes)
    expected = torch.einsum("cbno,coi->ci", slopes, layer.arrays["layer.weight"])
    torch.testing.assert_close(torch.Tensor(row.grad).view(C, WIDE), expected)


def test_an_example_that_is_broken_leaves_nothing_in_the_step() -> None:
    generator = torch.Generator().manual_seed(6)
    row, dense = (part.detach() for part in parts_of(2, [True, False], generator))
    dense[1, 2] = torch.nan
    layer = stacked(2 * WIDE, generator, True, 3)
    layer.reset(each=True)
    out = linear_over_parts(layer, row.requires_grad_(), dense.requires_grad_())
    out.backward(torch.ones_like(out))
    layer.begin()
    with torch.no_grad():
        layer.mask_examples(~torch.isfinite(layer.squared_grad_norms()))
        assert layer.round_examples(torch.ones(C, B, dtype=torch.float64), GRID)[1, 2] == 0
        layer.add_examples()
    assert all(bool(torch.isfinite(sums).all()) for sums in layer.sums.values())


def test_a_plain_layer_takes_parts_too() -> None:
    layer, parts = nn.Linear(6, 2), [torch.randn(4, 2), torch.randn(4, 4)]
    torch.testing.assert_close(linear_over_parts(layer, *parts), layer(torch.cat(parts, dim=-1)))
