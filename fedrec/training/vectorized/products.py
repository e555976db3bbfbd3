"""Linear layers of many devices at once. Shapes as in `layers`.

What goes into a layer may come in parts that lie side by side (`fedrec.models.base.linear_over_parts`). A part that is
the same for all examples of a device, its user's vector say, is multiplied once for the device, not once for each
example.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fedrec.errors import RefusedError
from fedrec.privacy.step_grid import INPUT_BITS, StepGrid
from fedrec.training.vectorized.layers import Layer, assert_backward_reached, cleared, lengths_of
from fedrec.training.whole_examples import (
    gram,
    lays_out,
    rounded_inputs,
    squared_lengths,
    sum_examples,
    sum_products,
)


class _Multiplied(torch.autograd.Function):
    """Multiplies parts by a layer's weights, and shows the layer the slope that comes back."""

    @staticmethod
    def forward(ctx: Any, layer: "StackedLinear", *parts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.layer = layer
        return layer.multiply()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        layer = cast(StackedLinear, ctx.layer)
        layer.grad_outputs = slopes[0]
        return None, *layer.below(slopes[0], ctx.needs_input_grad[1:])


class _Part(NamedTuple):
    """A part of what goes into a layer [c, b, ..., i], and the weights for it [c, o, i], from column `first` on."""

    value: Tensor
    weight: Tensor
    same: bool
    first: int = 0


class _Rounded(NamedTuple):
    """A part's whole inputs [c, b, n, i], how long they were [c, b, n, 1], and the products of all pairs of places.

    Of a part that is the same for all examples, one row [c, 1, i], [c, 1, 1], and its squared length [c, 1].
    """

    inputs: Tensor
    norms: Tensor
    gram: Tensor


class StackedLinear(Layer):
    """A linear layer: weight [C, o, i], bias [C, o]."""

    def __init__(self, name: str, module: nn.Linear) -> None:
        super().__init__(name)
        self.biased = module.bias is not None  # pyright: ignore[reportUnnecessaryComparison]
        self.parts: list[_Part] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [c, b, ..., o] for inputs [c, b, ..., i]."""
        return self.forward_parts(inputs)

    def forward_parts(self, *parts: Tensor) -> Tensor:
        """Return [c, b, ..., o] for parts [c, b, ..., i1], [c, b, ..., i2], ... of the inputs that lie side by side."""
        if parts[0].dim() < 3:
            raise RefusedError(
                f"{self.name} is given a tensor of shape {tuple(parts[0].shape)}, not [..., example, inputs]"
            )
        self.record_inputs(parts[0].detach())
        weight, start = self.arrays[f"{self.name}.weight"][: len(parts[0])], 0
        self.parts = []
        for part in parts:
            end = start + part.shape[-1]
            own = weight if len(parts) == 1 else weight[:, :, start:end]
            self.parts.append(_part(part.detach(), own, start))
            start = end
        return cast(Tensor, _Multiplied.apply(self, *parts))

    def multiply(self) -> Tensor:
        """Return the product of the parts, bias included."""
        shape = self.parts[0].value.shape
        out = self.arrays[f"{self.name}.bias"][: shape[0]].unsqueeze(1) if self.biased else None
        for part in self.parts:
            if part.same:
                out = _plus(out, _row(part.value), part.weight.mT)
        for part in self.parts:
            if not part.same:
                out = _plus(out, part.value.reshape(shape[0], -1, part.value.shape[-1]), part.weight.mT)
        out = cast(Tensor, out)
        if out.shape[1] == 1:
            return out.view(shape[0], *(1,) * (len(shape) - 2), -1).expand(*shape[:-1], -1)
        return out.view(*shape[:-1], -1)

    def below(self, slopes: Tensor, asked: tuple[bool, ...]) -> list[Tensor | None]:
        """Return the slopes by each part, None for those that are not asked for.

        Where slopes are asked for in sum only, those by a part that is the same for all examples are their mean.
        """
        flat = slopes.reshape(len(slopes), -1, slopes.shape[-1])
        made: list[Tensor | None] = [None] * len(asked)
        for place, part in enumerate(self.parts):
            if not asked[place]:
                continue
            if part.same and not self.each:
                mean = torch.bmm(flat.mean(1, keepdim=True), part.weight)
                made[place] = mean.view(len(slopes), *(1,) * (slopes.dim() - 2), -1).expand(*slopes.shape[:-1], -1)
            else:  # by one output, the product is each number times one row: three times faster as such
                one = flat * part.weight if flat.shape[2] == 1 else torch.bmm(flat, part.weight)
                made[place] = one.view(*slopes.shape[:-1], -1)
        return made

    def reset(self, each: bool) -> None:
        """Forget the last step."""
        super().reset(each)
        self.parts = []

    def on_products(self, name: str) -> bool:
        """Say that the weights' sums are on the finer grid."""
        return name == f"{self.name}.weight"

    def squared_grad_norms(self) -> Tensor:
        """Return squared norms [c, b]; from products of places where that is less work than the gradients.

        There they are those by inputs that were rounded, as is what is clipped: off by some thousandths.
        """
        slopes = self._grad_outputs()
        places, inputs = slopes.shape[2], sum(part.value.shape[-1] for part in self.parts)
        self._summed = slopes.sum(2)
        found = self._summed.square().sum(-1) if self.biased else torch.zeros_like(self._summed[..., 0])
        if lays_out(places, inputs, slopes.shape[3]):
            self._laid_out = [slopes.mT @ _by_example(part.value) for part in self.parts]
            return found + sum((each.square().sum((-1, -2)) for each in self._laid_out), torch.zeros(()))
        self._laid_out, self._rounded = None, [_rounded(part) for part in self.parts]
        products = slopes @ slopes.mT
        for part, rounded in zip(self.parts, self._rounded, strict=True):
            lengths = rounded.norms * 2.0**-INPUT_BITS
            if part.same:
                alike = rounded.gram.to(slopes.dtype) * lengths.square()[..., 0]  # [c, 1]
                found = found + self._summed.square().sum(-1) * alike
            else:
                alike = rounded.gram.to(slopes.dtype) * (lengths * lengths.mT)
                found = found + (products * alike).sum((-1, -2))
        return found

    def round_examples(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round each example's gradient where it was laid out; else the slopes, times how long a part's inputs are."""
        found, self._finer = torch.zeros_like(scales, dtype=torch.float64), grid.finer
        if self.biased:
            self._whole_bias = (self._summed * scales.unsqueeze(-1)).round_()
            found += lengths_of(grid, self._whole_bias)
        if self._laid_out is not None:
            self._whole = [(gradient * scales[..., None, None]).round_() for gradient in self._laid_out]
            return found + sum((squared_lengths(whole, 2) for whole in self._whole), torch.zeros(())) * grid.finer**2
        slopes, self._whole = self._grad_outputs(), list[Tensor]()
        for part, rounded in zip(self.parts, self._rounded, strict=True):
            own = scales.unsqueeze(-1) * grid.slope_scale
            if part.same:  # and so at all places of an example: its slopes are summed before they are rounded
                self._whole.append((self._summed * (rounded.norms * own)).round_())
                found += squared_lengths(self._whole[-1].double()) * rounded.gram
            else:
                self._whole.append((slopes * (rounded.norms * own.unsqueeze(-1))).round_())
                found += (gram(self._whole[-1]) * rounded.gram).sum((-1, -2))
        return found

    def add_examples(self) -> None:
        """Add slopes times inputs, or the gradients that were laid out."""
        weight = self.sums[f"{self.name}.weight"]
        for place, (part, whole) in enumerate(zip(self.parts, self._whole, strict=True)):
            own = weight[: len(whole), :, part.first : part.first + part.value.shape[-1]]
            if self._laid_out is not None:
                own += sum_examples(whole) * self._finer
                continue
            inputs = self._rounded[place].inputs
            if part.same:
                own += sum_examples(whole).unsqueeze(2) * inputs.double()
            else:
                own += sum_products(whole.flatten(1, 2), inputs.flatten(1, 2))
        if self.biased:
            self.add_to(f"{self.name}.bias", sum_examples(self._whole_bias))

    def apply_step(self) -> None:
        """Add slopes times inputs."""
        slopes = self._grad_outputs().flatten(1, 2)  # [c, b * n, o]
        summed = self.biased or any(part.same for part in self.parts)
        total = slopes.sum(1, keepdim=True) if summed else slopes[:, :0]  # [c, 1, o], where it is asked for
        for part in self.parts:
            if part.same:
                part.weight.add_(total.mT * _row(part.value))
                continue
            value = part.value.reshape(len(slopes), -1, part.value.shape[-1])
            if len(self.parts) == 1:
                part.weight.baddbmm_(slopes.mT, value)
            else:  # into a part of a wider array, `baddbmm_` would go device by device
                part.weight.add_(torch.bmm(slopes.mT, value))
        if self.biased:
            self.arrays[f"{self.name}.bias"][: len(slopes)].add_(total.squeeze(1))

    def mask_examples(self, broken: Tensor) -> None:
        """Clear what the examples [c, b] put in."""
        assert_backward_reached(self)
        self.grad_outputs = cleared(cast(Tensor, self.grad_outputs), broken)
        self.parts = [part._replace(value=_mended(part, broken)) for part in self.parts]
        self.squared_grad_norms()

    def _grad_outputs(self) -> Tensor:
        """Return each example's slopes [c, b, n, o]."""
        assert_backward_reached(self)
        return _by_example(cast(Tensor, self.grad_outputs))


def same(part: Tensor) -> bool:
    """Tell whether a part [c, b, ..., i] is one row for all examples of a device, repeated without copies."""
    return all(step == 0 or size == 1 for step, size in zip(part.stride()[1:-1], part.shape[1:-1], strict=True))


def _part(value: Tensor, weight: Tensor, first: int) -> _Part:
    """Note a part; a row that all examples share is copied, because its own layer may move before this one does."""
    if not same(value):
        return _Part(value, weight, False, first)
    row = _row(value).clone().view(len(value), *(1,) * (value.dim() - 2), -1)
    return _Part(row.expand(value.shape), weight, True, first)


def _mended(part: _Part, broken: Tensor) -> Tensor:
    """Return the value of a part with zeros for the examples [c, b] that are broken, or a row that broke them all."""
    if not part.same:
        return cleared(part.value, broken)
    row = part.value[(slice(None), *(slice(1),) * (part.value.dim() - 2))]
    return torch.where(torch.isfinite(row).all(-1, keepdim=True), row, 0.0).expand(part.value.shape)


def _rounded(part: _Part) -> _Rounded:
    """Round the inputs of a part."""
    if not part.same:
        inputs, norms = rounded_inputs(_by_example(part.value))
        return _Rounded(inputs, norms, gram(inputs))
    inputs, norms = rounded_inputs(_row(part.value))
    return _Rounded(inputs, norms, inputs.double().square().sum(-1))


def _plus(start: Tensor | None, rows: Tensor, weight: Tensor) -> Tensor:
    return torch.bmm(rows, weight) if start is None else torch.baddbmm(start, rows, weight)


def _row(part: Tensor) -> Tensor:
    """Return the one row [c, 1, i] of a part; its strides are those that a product takes for all devices at once."""
    return part[(slice(None), *(0,) * (part.dim() - 2))].unsqueeze(1)


def _by_example(value: Tensor) -> Tensor:
    """Return [c, b, ..., x] as [c, b, n, x]."""
    c, b = value.shape[:2]
    return value.reshape(c, b, -1, value.shape[-1])
