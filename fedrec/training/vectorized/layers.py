"""Layers that hold the parameters of many devices at once: what a model is made of while a cohort trains.

Shapes: C devices of a tile, c of them in a step, b examples of each, n places of an example (its 1+k items, say),
i inputs, o outputs, R rows of all devices together. A layer's `forward` notes what went in, and its backward pass what
came back: from the two follow each example's part of the gradient, its norm, and the step, all in closed form
(Goodfellow, "Efficient per-example gradient computations", 2015; for tables, docs/development/invariants.md).

Here is what all layers share, and layer norms; `lookups` holds tables of vectors, `products` linear layers. A new kind
of layer is one more class: its parameters stacked, `apply_step`, and for DP-SGD `squared_grad_norms`, `round_examples`,
`add_examples`. There, what is added up is whole numbers of steps of a public grid (`fedrec.privacy.step_grid`):
`sums` holds what all steps since `begin` have come to, noise included, and parameters are made of it anew.
"""

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.errors import RefusedError
from fedrec.privacy.step_grid import StepGrid
from fedrec.training.whole_examples import squared_lengths, sum_examples


class Layer(nn.Module, ABC):
    """The stacked parameters of one layer; `name` is its place in the model, `arrays` its arrays by their full names.

    `first` says that nothing below it learns, so that slopes need not go further down; `each` that every example's own
    slopes are asked for, not only what they add up to.
    """

    first: bool = False
    each: bool = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.arrays: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.inputs: Tensor | None = None
        self.grad_outputs: Tensor | None = None  # of the loss by what the layer gave

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute as any object does: nn.Module looks for parameters first, of which none is here."""
        object.__setattr__(self, name, value)

    def reset(self, each: bool) -> None:
        """Forget the last step, and hear whether the next one asks for every example's own slopes."""
        self.inputs = self.grad_outputs = None
        self.each = each

    def record_inputs(self, inputs: Tensor) -> None:
        """Keep what went in; a layer that is called twice in one loss can't be told apart by its examples."""
        if self.inputs is not None:
            raise RefusedError(f"{self.name} is called twice in one loss")
        self.inputs = inputs

    def begin(self) -> None:
        """Start DP-SGD from the parameters as they are: nothing has been added up yet."""
        self.start = dict(self.arrays)
        self.sums = {name: torch.zeros_like(array, dtype=torch.float64) for name, array in self.arrays.items()}

    def on_products(self, name: str) -> bool:
        """Say whether an array's sums are on the finer grid."""
        return False

    @abstractmethod
    def squared_grad_norms(self) -> Tensor:
        """Return the squared norm [c, b] of each example's part of the gradient."""

    @abstractmethod
    def round_examples(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round each example's part of the gradient, times its scale [c, b], and keep that for `add_examples`.

        Returns exact squared lengths [c, b], in steps of the finer grid and in double precision.
        """

    @abstractmethod
    def add_examples(self) -> None:
        """Add the examples, as they were rounded last, to `sums`."""

    @abstractmethod
    def apply_step(self) -> None:
        """Add the slopes to the parameters, without DP-SGD."""

    def mask_examples(self, broken: Tensor) -> None:
        """Clear what the examples [c, b] put in: a factor of zero would not make a number of what is none."""
        for part in ("grad_outputs", "inputs"):
            value = getattr(self, part)
            if value.is_floating_point():
                setattr(self, part, cleared(value, broken))

    def add_to(self, name: str, whole: Tensor) -> None:
        """Add whole numbers, of the first devices, to the sums of an array."""
        self.sums[name][: len(whole)] += whole

    def move(self, name: str, unit: float) -> None:
        """Set an array to where it started, minus its sums times what a step is worth."""
        start = self.start[name]
        self.arrays[name] = (start.double() - self.sums[name] * unit).to(start.dtype)


def lengths_of(grid: StepGrid, *vectors: Tensor) -> Tensor:
    """Return the squared lengths [c, b] of examples' whole vectors [c, b, i], in steps of the finer grid."""
    return sum((squared_lengths(whole) for whole in vectors[1:]), squared_lengths(vectors[0])) * grid.finer**2


class _BackwardHook(torch.autograd.Function):
    """Passes a tensor on, and shows the layer the slope that comes back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, layer: Layer) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.layer = layer
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, None]:
        ctx.layer.grad_outputs = slopes[0]
        return None if ctx.layer.first else slopes[0], None


def with_backward_hook(value: Tensor, layer: Layer) -> Tensor:
    """Return the value, such that the slope of the loss by it ends up in `layer.grad_outputs`."""
    return cast(Tensor, _BackwardHook.apply(value, layer))


class Norm(Layer):
    """Layer normalisation over the last dimension: weight [C, i], bias [C, i]."""

    def __init__(self, name: str, module: nn.LayerNorm) -> None:
        super().__init__(name)
        if len(module.normalized_shape) != 1 or not module.elementwise_affine or module.bias is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise RefusedError(f"{name} normalises over more than one dimension, or without weight and bias")
        self.eps = module.eps

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [c, b, ..., i] for inputs of that shape."""
        c, between = len(inputs), (1,) * (inputs.dim() - 2)
        if not between:
            raise RefusedError(
                f"{self.name} is given a tensor of shape {tuple(inputs.shape)}, not [..., example, inputs]"
            )
        level = functional.layer_norm(inputs, inputs.shape[-1:], eps=self.eps)
        self.record_inputs(level.detach())
        weight, bias = (self.arrays[f"{self.name}.{part}"][:c].view(c, *between, -1) for part in ("weight", "bias"))
        return with_backward_hook(level * weight + bias, self)

    def _gradients(self) -> tuple[Tensor, Tensor]:
        """Return each example's gradients of weight and bias [c, b, i]."""
        assert_backward_reached(self)
        level, slopes = cast(Tensor, self.inputs), cast(Tensor, self.grad_outputs)
        c, b, i = *level.shape[:2], level.shape[-1]
        return (level * slopes).reshape(c, b, -1, i).sum(2), slopes.reshape(c, b, -1, i).sum(2)

    def squared_grad_norms(self) -> Tensor:
        """Return squared norms [c, b]."""
        self._each = self._gradients()
        return self._each[0].square().sum(-1) + self._each[1].square().sum(-1)

    def round_examples(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round the gradients of weight and bias."""
        self._whole = [(gradient * scales.unsqueeze(-1)).round_() for gradient in self._each]
        return lengths_of(grid, *self._whole)

    def add_examples(self) -> None:
        """Add the rounded gradients."""
        for part, whole in zip(("weight", "bias"), self._whole, strict=True):
            self.add_to(f"{self.name}.{part}", sum_examples(whole))

    def mask_examples(self, broken: Tensor) -> None:
        """Clear what the examples [c, b] put in."""
        super().mask_examples(broken)
        self._each = self._gradients()

    def apply_step(self) -> None:
        """Add the gradients."""
        for part, gradient in zip(("weight", "bias"), self._gradients(), strict=True):
            self.arrays[f"{self.name}.{part}"][: len(gradient)].add_(gradient.sum(1))


def assert_backward_reached(layer: Layer) -> None:
    """Raise where the loss did not reach a layer that was called: its part of the gradient is then unknown."""
    if layer.grad_outputs is None:
        raise RefusedError(f"the loss does not depend on what {layer.name} gives")


def cleared(value: Tensor, broken: Tensor) -> Tensor:
    """Return the value [c, b, ...] with zeros for the examples [c, b] that are broken."""
    return value.masked_fill(broken.view(*broken.shape, *(1,) * (value.dim() - 2)), 0.0)
