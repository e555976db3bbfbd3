"""Examples' gradients as whole numbers, one device at a time: the reference for what the cohort engine adds up.

Every gradient is laid out, in double precision, so that its length and its sums are exact as they stand. Shapes: B
examples, n places of an example, i inputs, o outputs, d dimensions of a table's vectors.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fedrec.models.base import PARTS
from fedrec.privacy.step_grid import INPUT_BITS, StepGrid
from fedrec.training.whole_examples import lays_out, rounded_inputs


class WholeGradient(ABC):
    """What B examples say of one parameter, `whole` once it was rounded."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter, self.whole = parameter, torch.zeros(0, dtype=torch.float64)

    @abstractmethod
    def norms(self) -> Tensor:
        """Return the norm [B] of each example's gradient."""

    @abstractmethod
    def forget(self, broken: Tensor) -> None:
        """Clear what the examples [B] say that are broken; the others keep their places."""

    @abstractmethod
    def round(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round the gradients, times their scales [B], and return squared lengths [B] in steps of the finer grid."""

    @abstractmethod
    def add_to(self, sums: Tensor) -> None:
        """Add the rounded gradients to sums of the parameter's shape."""


class LaidOutGradient(WholeGradient):
    """Gradients that are given as they are [B, ...]; `product` says that they are of a linear layer's weights."""

    def __init__(self, parameter: Tensor, each: Tensor, product: bool = False) -> None:
        super().__init__(parameter)
        self._each, self._product = each, product

    def norms(self) -> Tensor:
        """Return the norm [B] of each example's gradient."""
        return self._each.flatten(1).norm(dim=1)

    def forget(self, broken: Tensor) -> None:
        """Clear the gradients of examples that are broken."""
        self._each = _cleared(self._each, broken)

    def round(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round the gradients on the grid of vectors, and write them in the steps of the parameter's."""
        whole = (self._each * _beside(scales, self._each)).round().double() * grid.finer
        self.whole = whole if self._product else whole / grid.finer
        return whole.square().flatten(1).sum(1)

    def add_to(self, sums: Tensor) -> None:
        """Add the gradients of all examples."""
        sums += self.whole.sum(0)


class RowGradient(WholeGradient):
    """Gradients of a table: ids [B, ...] and the slopes [B, ..., d] of the rows that were read there."""

    def __init__(self, table: nn.Embedding, ids: Tensor, slopes: Tensor) -> None:
        super().__init__(table.weight)
        self._ids, self._slopes = ids.reshape(len(ids), -1), slopes.reshape(len(ids), -1, slopes.shape[-1])
        if table.padding_idx is not None:
            self._slopes = self._slopes * (self._ids != table.padding_idx).unsqueeze(-1)

    def norms(self) -> Tensor:
        """Return the norm [B] of each example's gradient; slopes of one row are summed before they are squared."""
        return self._squares(self._slopes).sqrt()

    def forget(self, broken: Tensor) -> None:
        """Clear the slopes of examples that are broken."""
        self._slopes = _cleared(self._slopes, broken)

    def round(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round the slopes at each place."""
        self.whole = (self._slopes * _beside(scales, self._slopes)).round().double()
        return self._squares(self.whole) * grid.finer**2

    def add_to(self, sums: Tensor) -> None:
        """Add the slopes to their rows."""
        sums.index_add_(0, self._ids.reshape(-1), self.whole.flatten(0, 1))

    def _squares(self, slopes: Tensor) -> Tensor:
        rows = len(self.parameter)
        example = torch.arange(len(slopes), device=slopes.device).unsqueeze(1)
        pairs, place = torch.unique(example * rows + self._ids, return_inverse=True)
        once = slopes.new_zeros(len(pairs), slopes.shape[-1]).index_add_(0, place.reshape(-1), slopes.flatten(0, 1))
        owner = torch.div(pairs, rows, rounding_mode="floor")
        return slopes.new_zeros(len(slopes)).index_add_(0, owner, once.square().sum(1))


class ProductGradient(WholeGradient):
    """Gradients of a linear layer's weights, sums over few places: inputs [B, n, i] in parts, slopes [B, n, o].

    A part that is `repeated` is the same at all places of an example, by how the model is made.
    """

    def __init__(
        self, parameter: Tensor, parts: tuple[Tensor, ...], repeated: tuple[bool, ...], slopes: Tensor
    ) -> None:
        super().__init__(parameter)
        self._parts, self._repeated, self._slopes = parts, repeated, slopes

    def norms(self) -> Tensor:
        """Return the norm [B] of each example's gradient by rounded inputs, which is what is clipped."""
        each = list[Tensor]()
        for part in self._parts:
            inputs, lengths = rounded_inputs(part)
            each.append(self._slopes.mT @ (inputs * lengths * 2.0**-INPUT_BITS))
        return torch.cat(each, dim=-1).flatten(1).norm(dim=1)

    def forget(self, broken: Tensor) -> None:
        """Clear the slopes and inputs of examples that are broken."""
        self._slopes = _cleared(self._slopes, broken)
        self._parts = tuple(_cleared(part, broken) for part in self._parts)

    def round(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round inputs of length one, and slopes, a part at a time; those by a repeated part are summed first."""
        each, own = list[Tensor](), _beside(scales, self._slopes) * grid.slope_scale
        for part, repeated in zip(self._parts, self._repeated, strict=True):
            slopes = self._slopes.sum(1, keepdim=True) if repeated else self._slopes
            inputs, lengths = rounded_inputs(part[:, :1] if repeated else part)
            each.append((slopes * (lengths * own)).round().double().mT @ inputs.double())
        self.whole = torch.cat(each, dim=-1)
        return self.whole.square().sum((-1, -2))

    def add_to(self, sums: Tensor) -> None:
        """Add the products of all examples."""
        sums += self.whole.sum(0)


def linear_gradients(layer: nn.Linear, inputs: Tensor, slopes: Tensor, padded: bool) -> list[WholeGradient]:
    """Return the gradients of a linear layer given inputs [B, ..., i] and slopes [B, ..., o].

    How one example is rounded must not depend on others: those that are `padded` to the longest are always laid out.
    """
    inputs, slopes = (value.reshape(len(value), -1, value.shape[-1]) for value in (inputs, slopes))
    found = list[WholeGradient]()
    if padded or lays_out(inputs.shape[1], layer.in_features, layer.out_features):
        found.append(LaidOutGradient(layer.weight, slopes.mT @ inputs, product=True))
    else:
        widths, repeated = zip(*getattr(layer, PARTS, ((layer.in_features, False),)), strict=True)
        found.append(ProductGradient(layer.weight, inputs.split(widths, dim=-1), repeated, slopes))
    if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        found.append(LaidOutGradient(layer.bias, slopes.sum(1)))
    return found


def _beside(scales: Tensor, each: Tensor) -> Tensor:
    return scales.reshape(-1, *(1,) * (each.dim() - 1))


def _cleared(each: Tensor, broken: Tensor) -> Tensor:
    return each.masked_fill(_beside(broken, each), 0.0)
