"""The twin of a model whose layers hold many devices: the model's own `forward`, other layers below it."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fedrec.errors import RefusedError
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.training.vectorized.layers import Layer, Norm, StackedEmbedding, UserEmbedding
from fedrec.training.vectorized.products import StackedLinear


class StackedModel:
    """A stacked copy of a model: `module` computes with `layers`, whose arrays `load` fills for each tile.

    Raises `RefusedError`, naming the layer, where the model has a part that can't be stacked.
    """

    def __init__(self, model: TrainableRecommender) -> None:
        if not model.stackable:
            raise RefusedError(f"{type(model).__name__} does not say that it can be stacked (`stackable`)")
        self.by_item, self.layers = model.by_item, dict[str, Layer]()
        self.shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        for name in self.shapes.keys() & model.by_item - model.shared:
            raise RefusedError(f"{name} is a private table of all items, which the engine would have to keep whole")
        self.device = next(model.parameters()).device
        self._buffers = {name: value for name, value in model.named_buffers() if name in model.by_item}
        self.module = cast(TrainableRecommender, self._stack("", model.train()))

    def _stack(self, name: str, module: nn.Module) -> nn.Module:
        layer = self._layer(name, module)
        if layer is not None:
            self.layers[name] = layer
            return layer
        for parameter in module._parameters:  # pyright: ignore[reportPrivateUsage]
            raise RefusedError(
                f"{name and name + '.'}{parameter} is a parameter outside of the layers that can be stacked"
            )
        if isinstance(module, nn.Dropout) and module.p > 0:
            raise RefusedError(f"{name} drops at random: devices at once would not draw what each draws alone")
        twin = module.__class__.__new__(module.__class__)
        twin.__dict__ = dict(module.__dict__)
        children = {key: self._stack(f"{name and name + '.'}{key}", child) for key, child in module.named_children()}
        twin.__dict__.update(_modules=children, _buffers=dict(module._buffers), _forward_hooks={}, _backward_hooks={})  # pyright: ignore[reportPrivateUsage]
        return twin

    def _layer(self, name: str, module: nn.Module) -> Layer | None:
        if type(module) is nn.Embedding:
            if f"{name}.weight" in self.by_item:
                return StackedEmbedding(name, module, None)
            return (
                UserEmbedding(name, module, 1)
                if module.num_embeddings == 1
                else StackedEmbedding(name, module, module.num_embeddings)
            )
        if type(module) is nn.Linear:
            return StackedLinear(name, module)
        return Norm(name, module) if type(module) is nn.LayerNorm else None

    @property
    def width(self) -> int:
        """The most numbers that one place of an example takes in any layer."""
        return max(sum(shape[-2:]) if name not in self.by_item else shape[-1] for name, shape in self.shapes.items())

    def item_tables(self) -> list[Tensor]:
        """Return the item tables [R, d] as they are now."""
        return [array for layer in self.layers.values() for name, array in layer.arrays.items() if name in self.by_item]

    def own_layers(self) -> list[Layer]:
        """Return the layers that hold no item rows."""
        return [layer for layer in self.layers.values() if not layer.arrays.keys() & self.by_item]

    def load(self, arrays: Mapping[str, Tensor], items: Tensor) -> None:
        """Take the parameters of a tile: item tables [R, d] by row, all others [C, ...]; `items` [R] are the rows' ids.

        Tables of one device's own rows [C, n, d] are laid one after the other.
        """
        for name, buffer in self._buffers.items():
            owner, _, leaf = name.rpartition(".")
            self.module.get_submodule(owner)._buffers[leaf] = buffer[items]  # pyright: ignore[reportPrivateUsage]
        for place, layer in self.layers.items():
            layer.arrays = {name: arrays[name] for name in self.shapes if name.rpartition(".")[0] == place}
            if isinstance(layer, StackedEmbedding) and layer.per_device is not None:
                layer.arrays = {name: array.flatten(0, 1) for name, array in layer.arrays.items()}

    def arrays(self, devices: int) -> dict[str, Tensor]:
        """Return the parameters as they are now: item tables [R, d], all others [C, ...]."""
        kept = {name: array for layer in self.layers.values() for name, array in layer.arrays.items()}
        return {
            name: array if name in self.by_item else array.view(devices, *self.shapes[name])
            for name, array in kept.items()
        }

    def losses(self, items: Tensor, values: Tensor, each: bool = True) -> Tensor:
        """Return the losses [c, b] for rows [c, b, 1+k] and values [c, b], for a backward pass.

        Unless `each`, what that leaves in the layers is right in the sum over the examples only.
        """
        for layer in self.layers.values():
            layer.reset(each)
        with torch.enable_grad():
            logits = self.module(items)
            return self.module.criterion(logits, values)

    def used(self) -> list[Layer]:
        """Return the layers that the last loss called."""
        return [layer for layer in self.layers.values() if layer.inputs is not None]


@torch.no_grad()
def check(twin: StackedModel, model: TrainableRecommender) -> None:
    """Raise `RefusedError` unless a small stack of two devices has the losses that the model itself gives each."""
    c, b, places = 2, 3, 2
    items = torch.arange(c * b * places, device=twin.device).reshape(c, b, places) * 7 % model.items
    values = torch.arange(1.0, 1 + c * b, device=twin.device).reshape(c, b)
    named = dict(model.named_parameters())
    stacked = {
        name: value[items.reshape(-1)] if name in twin.by_item else value.expand(c, *value.shape)
        for name, value in named.items()
    }
    twin.load({name: value.detach().clone() for name, value in stacked.items()}, items.reshape(-1))
    try:
        mine = twin.losses(torch.arange(items.numel(), device=twin.device).reshape(items.shape), values).detach()
        own = torch.stack([model.loss(Batch(items[device], values[device])) for device in range(c)])
    except (AttributeError, RuntimeError, IndexError, TypeError) as error:
        raise RefusedError(f"{type(model).__name__} does not run on many devices at once: {error}") from error
    if mine.shape != own.shape or not torch.allclose(mine, own, rtol=1e-3, atol=1e-5):
        raise RefusedError(
            f"{type(model).__name__} has other losses on many devices at once: its forward mixes dimensions"
        )
