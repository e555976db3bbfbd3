"""Layers that hold the parameters of many devices at once: what a model is made of while a cohort trains.

Shapes: C devices of a tile, c of them in a step, b examples of each, n places of an example (its 1+k items, say),
i inputs, o outputs, R rows of all devices together. A layer's `forward` notes what went in, and its backward pass what
came back: from the two follow each example's part of the gradient, its norm, and the step, all in closed form
(Goodfellow, "Efficient per-example gradient computations", 2015; for tables, `notes/privacy.md` section 2.1).

Here is what all layers share, and layer norms; `lookups` and `products` hold the others. A new kind of layer is one
more class: its parameters stacked, `squares`, `move`, `shake`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.errors import Refused

Gaussian = Callable[[tuple[int, ...], float], Tensor]
CLIP_SLACK = 1e-6  # Opacus' own: its optimiser divides by the norm + 1e-6


class Layer(nn.Module, ABC):
    """The stacked parameters of one layer; `name` is its place in the model, `kept` its arrays by their full names.

    `first` says that nothing below it learns, so that slopes need not go further down; `each` that every example's own
    slopes are asked for, not only what they add up to.
    """

    first: bool = False
    each: bool = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.kept: dict[str, Tensor] = {}
        self.inputs: Tensor | None = None
        self.slopes: Tensor | None = None  # of the loss by what the layer gave

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute as any object does: nn.Module looks for parameters first, of which none is here."""
        object.__setattr__(self, name, value)

    def clear(self, each: bool) -> None:
        """Forget the last step, and hear whether the next one asks for every example's own slopes."""
        self.inputs = self.slopes = None
        self.each = each

    def note(self, inputs: Tensor) -> None:
        """Keep what went in; a layer that is called twice in one loss can't be told apart by its examples."""
        if self.inputs is not None:
            raise Refused(f"{self.name} is called twice in one loss")
        self.inputs = inputs

    @abstractmethod
    def squares(self) -> Tensor:
        """Return the squared norm [c, b] of each example's part of the gradient."""

    @abstractmethod
    def move(self, factors: Tensor | None) -> None:
        """Add the slopes to the parameters, each example's part of them times `factors` [c, b]."""

    def drop(self, broken: Tensor) -> None:
        """Clear what the examples [c, b] put in: a factor of zero would not make a number of what is none."""
        for part in ("slopes", "inputs"):
            value = getattr(self, part)
            if value.is_floating_point():
                setattr(self, part, cleared(value, broken))

    def shake(self, std: float, gaussian: Gaussian) -> None:
        """Add N(0, std^2) to every parameter of every device."""
        for array in self.kept.values():
            array += gaussian(tuple(array.shape), std)


class _Seen(torch.autograd.Function):
    """Passes a tensor on, and shows the layer the slope that comes back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, layer: Layer) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.layer = layer
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, None]:
        ctx.layer.slopes = slopes[0]
        return None if ctx.layer.first else slopes[0], None


def seen(value: Tensor, layer: Layer) -> Tensor:
    """Return the value, such that the slope of the loss by it ends up in `layer.slopes`."""
    return cast(Tensor, _Seen.apply(value, layer))


class Norm(Layer):
    """Layer normalisation over the last dimension: weight [C, i], bias [C, i]."""

    def __init__(self, name: str, module: nn.LayerNorm) -> None:
        super().__init__(name)
        if len(module.normalized_shape) != 1 or not module.elementwise_affine or module.bias is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise Refused(f"{name} normalises over more than one dimension, or without weight and bias")
        self.eps = module.eps

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [c, b, ..., i] for inputs of that shape."""
        c, between = len(inputs), (1,) * (inputs.dim() - 2)
        if not between:
            raise Refused(f"{self.name} is given a tensor of shape {tuple(inputs.shape)}, not [..., example, inputs]")
        level = functional.layer_norm(inputs, inputs.shape[-1:], eps=self.eps)
        self.note(level.detach())
        weight, bias = (self.kept[f"{self.name}.{part}"][:c].view(c, *between, -1) for part in ("weight", "bias"))
        return seen(level * weight + bias, self)

    def _gradients(self) -> tuple[Tensor, Tensor]:
        """Return each example's gradients of weight and bias [c, b, i]."""
        assert_seen(self)
        level, slopes = cast(Tensor, self.inputs), cast(Tensor, self.slopes)
        c, b, i = *level.shape[:2], level.shape[-1]
        return (level * slopes).reshape(c, b, -1, i).sum(2), slopes.reshape(c, b, -1, i).sum(2)

    def squares(self) -> Tensor:
        """Return squared norms [c, b]."""
        weight, bias = self._gradients()
        return weight.square().sum(-1) + bias.square().sum(-1)

    def move(self, factors: Tensor | None) -> None:
        """Add the gradients."""
        for part, gradient in zip(("weight", "bias"), self._gradients(), strict=True):
            whole = (gradient if factors is None else gradient * factors.unsqueeze(-1)).sum(1)
            self.kept[f"{self.name}.{part}"][: len(whole)].add_(whole)


def assert_seen(layer: Layer) -> None:
    """Raise where the loss did not reach a layer that was called: its part of the gradient is then unknown."""
    if layer.slopes is None:
        raise Refused(f"the loss does not depend on what {layer.name} gives")


def cleared(value: Tensor, broken: Tensor) -> Tensor:
    """Return the value [c, b, ...] with zeros for the examples [c, b] that are broken."""
    return value.masked_fill(broken.view(*broken.shape, *(1,) * (value.dim() - 2)), 0.0)
