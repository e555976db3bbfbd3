"""The twin of a model whose layers hold many devices: the model's own `forward`, other layers below it.

One step of all devices of a tile, and noise that waits for the rows that need it.

A batch is (rows [c, b, 1+k], values [c, b], how many of each line are real [c]). Lazy noise is drawn for a row when it
is read, and once for all devices where it never is. With DP-SGD all that is added up is whole numbers on public grids
(`fedrec.privacy.step_grid`). Shapes: V items, R rows of a tile, C devices.
"""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.errors import RefusedError
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, NoiseSource
from fedrec.privacy.step_grid import StepGrid, summed_noise
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.vectorized.layers import Layer, Norm
from fedrec.training.vectorized.lookups import StackedEmbedding, UserEmbedding
from fedrec.training.vectorized.products import StackedLinear
from fedrec.training.whole_examples import first_scales, fit


class StackedModel:
    """A stacked copy of a model: `module` computes with `layers`, whose arrays `load` fills for each tile.

    Raises `RefusedError`, naming the layer, where the model has a part that can't be stacked.
    """

    def __init__(self, model: TrainableRecommender) -> None:
        if not model.stackable:
            raise RefusedError(f"{type(model).__name__} does not say that it can be stacked (`stackable`)")
        self.by_item, self.shared, self.layers = model.by_item, model.shared, dict[str, Layer]()
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

    def item_tables(self) -> dict[str, StackedEmbedding]:
        """Return the layers of item tables [R, d], by the name of the table."""
        found = {f"{place}.weight": layer for place, layer in self.layers.items()}
        return {n: layer for n, layer in found.items() if n in self.by_item and isinstance(layer, StackedEmbedding)}

    def on_products(self, name: str) -> bool:
        """Say whether an array's sums are on the finer grid of DP-SGD."""
        return self.layers[name.rpartition(".")[0]].on_products(name)

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

    def begin(self) -> None:
        """Start DP-SGD from the parameters that were loaded."""
        for layer in self.layers.values():
            layer.begin()

    def sums(self, devices: int) -> dict[str, Tensor]:
        """Return the whole numbers that steps of DP-SGD added up to: [R, d] of item tables, [C, ...] of all others."""
        kept = {name: sums for layer in self.layers.values() for name, sums in layer.sums.items()}
        return {n: sums if n in self.by_item else sums.view(devices, *self.shapes[n]) for n, sums in kept.items()}

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


TileBatch = tuple[Tensor, Tensor, Tensor]


def plain_step(twin: StackedModel, batch: TileBatch, settings: LocalTrainingConfig, loss: Tensor) -> None:
    """Descend the mean of each device's losses, or their sum over the denominator; add the sums to `loss` [C]."""
    rows, values, real = batch
    losses = twin.losses(rows, values, each=False)
    there = _there(rows, real, losses)
    share = there / (settings.denominator or there.sum(1, keepdim=True).clamp(min=1))
    losses.backward(share.mul_(-settings.learning_rate))  # slopes are then what is to be added
    for layer in twin.used():
        layer.apply_step()
    loss[: len(rows)] += torch.where(there > 0, losses.detach(), 0.0).sum(1)


def clipped_step(twin: StackedModel, batch: TileBatch, grid: StepGrid, loss: Tensor) -> None:
    """Add to the layers' sums each device's clipped gradients, whole numbers, and to `loss` [C] the sums of the losses.

    An example is checked in whole numbers to be at most one clip long. One whose gradient is not finite counts for
    nothing, and the others as if it had not been there.
    """
    rows, values, real = batch
    if not rows.shape[1]:
        return
    losses = twin.losses(rows, values)
    there = _there(rows, real, losses)
    losses.backward(there)
    layers = twin.used()
    norms = torch.stack([layer.squared_grad_norms() for layer in layers]).sum(0).sqrt()  # [c, b]
    broken = ~torch.isfinite(norms)
    if bool(broken.any()):
        for layer in layers:
            layer.mask_examples(broken)
        there = there.masked_fill(broken, 0.0)

    def squares(scales: Tensor) -> Tensor:
        return torch.stack([layer.round_examples(scales, grid) for layer in layers]).sum(0)

    fit(first_scales(norms, broken | (there == 0), grid), squares, grid.longest)
    for layer in layers:
        layer.add_examples()
    loss[: len(rows)] += torch.where(there > 0, losses.detach(), 0.0).sum(1)


def _there(rows: Tensor, real: Tensor, losses: Tensor) -> Tensor:
    """Return 1 for each example [c, b] that is one, 0 for what only fills the line, in the type of the losses."""
    return (torch.arange(rows.shape[1], device=rows.device) < real.unsqueeze(1)).to(losses.dtype)


class StepNoise:
    """The noise of the `local_steps` of DP-SGD for the devices of one sum, whole numbers on the arrays' own grids.

    Of item rows it waits until a row is read; what is never read, and the last step's on all that is shared and not
    private, is drawn once for the sum of all devices. `rate` is the learning rate.
    """

    def __init__(self, twin: StackedModel, items: int, public: DPSGDConfig, rate: float, random: NoiseSource) -> None:
        self.grid = public.grid()
        grids = {n: self.grid.products if twin.on_products(n) else self.grid.vectors for n in twin.shapes}
        self.variances = {name: grid.variance(public.noise_multiplier) for name, grid in grids.items()}
        self.units = {name: grid.step * rate / public.denominator for name, grid in grids.items()}
        self._random, self._twin, self._steps, self._devices = random, twin, public.local_steps, 0
        self._done = torch.zeros(items, dtype=torch.int64, device=twin.device)  # steps whose noise was drawn, summed

    def tile(self, items: Tensor, devices: int) -> None:
        """Begin with the rows [R] of the next tile."""
        self._items, self._read = items, items.new_zeros(len(items))
        self._devices += devices
        self._twin.begin()

    def before(self, rows: Tensor, step: int) -> None:
        """Before step 0, 1, ... reads `rows`, add to them the noise of the steps since they were read last."""
        if step == 0:
            return
        touched = torch.zeros(len(self._read), dtype=torch.bool, device=rows.device)
        touched[rows.reshape(-1)] = True
        due = torch.nonzero(touched).squeeze(1)
        counts = (step - self._read[due]).cpu().numpy()
        for name, layer in self._twin.item_tables().items():
            layer.add_noise_to(due, self._drawn(name, counts), self.units[name])
        self._read[due] = step

    def after(self, step: int) -> None:
        """After step 0, 1, ... add its noise to all that is no item row and will be read again, and move that."""
        for layer in self._twin.own_layers():
            for name, sums in layer.sums.items():
                if step + 1 < self._steps or name not in self._twin.shared:
                    drawn = self._random.discrete_gaussian(tuple(sums.shape), self.variances[name])
                    layer.add_to(name, torch.from_numpy(drawn).to(self._twin.device))
                    layer.move(name, self.units[name])

    def end(self) -> None:
        """Finish the tile."""
        self._done.index_add_(0, self._items, self._read)

    def remaining(self) -> dict[str, Tensor]:
        """Return, for the sum over all devices, the noise that nothing has got yet, by name."""
        found, left = dict[str, Tensor](), (self._steps * self._devices - self._done).clamp(min=0).cpu().numpy()
        for name in self._twin.shared & self._twin.shapes.keys():
            if name in self._twin.by_item:
                found[name] = self._drawn(name, left).double()
            else:
                found[name] = self._drawn(name, np.array([self._devices]))[0].double()
        return found

    def _drawn(self, name: str, counts: NDArray[np.int64]) -> Tensor:
        """Return the noise of so many steps [n], on the numbers of one device's or one item's part of an array."""
        shape = self._twin.shapes[name]
        drawn = summed_noise(
            self._random, counts, shape[1:] if name in self._twin.by_item else shape, self.variances[name]
        )
        return torch.from_numpy(drawn).to(self._twin.device)
