"""Layers that hold the parameters of many devices at once: what a model is made of while a cohort trains.

Shapes: C devices of a tile, c of them in a step, b examples of each, n places of an example (its 1+k items, say),
i inputs, o outputs, R rows of all devices together. A layer's `forward` notes what went in, and its backward pass what
came back: from the two follow each example's part of the gradient, its norm, and the step, all in closed form
(Goodfellow, "Efficient per-example gradient computations", 2015; for tables, docs/development/invariants.md).

Here is what all layers share, and layer norms; `lookups` and `products` hold the others. A new kind of layer is one
more class: its parameters stacked, `squared_grad_norms`, `apply_step`, `add_noise`.

Tables of vectors of many devices at once. Shapes as in `layers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.errors import RefusedError

NoiseSampler = Callable[[tuple[int, ...], float], Tensor]
CLIP_SLACK = 1e-6  # Opacus' own: its optimizer divides by the norm + 1e-6


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

    @abstractmethod
    def squared_grad_norms(self) -> Tensor:
        """Return the squared norm [c, b] of each example's part of the gradient."""

    @abstractmethod
    def apply_step(self, factors: Tensor | None) -> None:
        """Add the slopes to the parameters, each example's part of them times `factors` [c, b]."""

    def mask_examples(self, broken: Tensor) -> None:
        """Clear what the examples [c, b] put in: a factor of zero would not make a number of what is none."""
        for part in ("grad_outputs", "inputs"):
            value = getattr(self, part)
            if value.is_floating_point():
                setattr(self, part, cleared(value, broken))

    def add_noise(self, std: float, gaussian: NoiseSampler) -> None:
        """Add N(0, std^2) to every parameter of every device."""
        for array in self.arrays.values():
            array += gaussian(tuple(array.shape), std)


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
        weight, bias = self._gradients()
        return weight.square().sum(-1) + bias.square().sum(-1)

    def apply_step(self, factors: Tensor | None) -> None:
        """Add the gradients."""
        for part, gradient in zip(("weight", "bias"), self._gradients(), strict=True):
            whole = (gradient if factors is None else gradient * factors.unsqueeze(-1)).sum(1)
            self.arrays[f"{self.name}.{part}"][: len(whole)].add_(whole)


def assert_backward_reached(layer: Layer) -> None:
    """Raise where the loss did not reach a layer that was called: its part of the gradient is then unknown."""
    if layer.grad_outputs is None:
        raise RefusedError(f"the loss does not depend on what {layer.name} gives")


def cleared(value: Tensor, broken: Tensor) -> Tensor:
    """Return the value [c, b, ...] with zeros for the examples [c, b] that are broken."""
    return value.masked_fill(broken.view(*broken.shape, *(1,) * (value.dim() - 2)), 0.0)


class StackedEmbedding(Layer):
    """A table of vectors. `table` [R, d] holds the rows of all devices one after the other.

    With `per_device` rows each, ids name a device's own rows. Without, ids are places in the table already: the rows
    of the items that each device can touch.
    """

    first = True

    def __init__(self, name: str, module: nn.Embedding, per_device: int | None) -> None:
        super().__init__(name)
        if module.max_norm is not None or module.scale_grad_by_freq or module.padding_idx is not None:
            raise RefusedError(f"{name} has options (max_norm, padding_idx, scale_grad_by_freq) that the engine lacks")
        self.per_device = per_device

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors [c, b, ..., d] for ids [c, b, ...]."""
        if ids.dim() < 2:
            raise RefusedError(f"{self.name} is read by ids of shape {tuple(ids.shape)}, not [..., example, places]")
        if self.per_device is not None:
            first = torch.arange(len(ids), device=ids.device) * self.per_device
            ids = ids + first.view(-1, *(1,) * (ids.dim() - 1))
        self.record_inputs(ids)
        out = functional.embedding(ids, self.arrays[f"{self.name}.weight"]).requires_grad_()
        return with_backward_hook(out, self)

    def squared_grad_norms(self) -> Tensor:
        """Return squared norms [c, b]: a row that an example reads several times is summed before it is squared."""
        assert_backward_reached(self)
        ids, slopes = cast(Tensor, self.inputs), cast(Tensor, self.grad_outputs)
        found = slopes.square().flatten(2).sum(-1)
        places = ids.flatten(2) if ids.dim() > 2 else ids.unsqueeze(-1)
        if places.shape[-1] > 1:
            order = places.sort(dim=-1).values
            repeats = (order[..., 1:] == order[..., :-1]).any(-1)
            if bool(repeats.any()):
                found[repeats] = coalesced(places[repeats], slopes.flatten(2, -2)[repeats])
        return found

    def apply_step(self, factors: Tensor | None) -> None:
        """Add to each row what its ids were given."""
        ids, slopes = cast(Tensor, self.inputs), cast(Tensor, self.grad_outputs)
        if factors is not None:
            slopes = slopes * factors.view(*factors.shape, *(1,) * (slopes.dim() - 2))
        table = self.arrays[f"{self.name}.weight"]
        # Contiguous, because `index_add_` is five times slower on a part of a wider tensor than this copy and it.
        table.index_add_(0, ids.reshape(-1), slopes.reshape(-1, table.shape[1]).contiguous())


class UserEmbedding(StackedEmbedding):
    """A table of one row for each device, its user's say: all ids are 0, and nothing need be looked up."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the devices' rows [c, b, ..., d] for ids [c, b, ...]."""
        if ids.dim() < 2:
            raise RefusedError(f"{self.name} is read by ids of shape {tuple(ids.shape)}, not [..., example, places]")
        self.record_inputs(ids)
        table = self.arrays[f"{self.name}.weight"][: len(ids)]
        rows = table.view(len(ids), *(1,) * (ids.dim() - 1), -1).detach().requires_grad_()
        return with_backward_hook(rows.expand(*ids.shape, -1), self)

    def squared_grad_norms(self) -> Tensor:
        """Return squared norms [c, b]: an example's slopes are all on the one row."""
        assert_backward_reached(self)
        return self._grad_outputs().square().sum(-1)

    def apply_step(self, factors: Tensor | None) -> None:
        """Add the slopes of all examples."""
        slopes, table = self._grad_outputs(), self.arrays[f"{self.name}.weight"]
        if factors is not None:
            table[: len(slopes)].add_(torch.bmm(factors.unsqueeze(1), slopes).squeeze(1))
        else:
            table[: len(slopes)].add_(slopes.sum(1))

    def _grad_outputs(self) -> Tensor:
        """Return each example's slopes [c, b, d]."""
        slopes = cast(Tensor, self.grad_outputs)
        return slopes if slopes.dim() == 3 else slopes.flatten(2, -2).sum(2)


def coalesced(places: Tensor, slopes: Tensor) -> Tensor:
    """Return the squared norm [m] of slopes [m, n, d] summed over equal places [m, n]."""
    same = (places.unsqueeze(-1) == places.unsqueeze(-2)).to(slopes.dtype)  # [m, n, n]
    return ((slopes @ slopes.transpose(-1, -2)) * same).sum((-1, -2))
