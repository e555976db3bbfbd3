"""Tables of vectors of many devices at once. Shapes as in `layers`."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.errors import RefusedError
from fedrec.privacy.step_grid import StepGrid
from fedrec.training.vectorized.layers import Layer, assert_backward_reached, lengths_of, with_backward_hook
from fedrec.training.whole_examples import exact_below, largest, squared_lengths, sum_examples


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

    def begin(self) -> None:
        """Start DP-SGD; sums of rows that many examples read are in the table's own precision while that is exact."""
        self._reach = 0.0
        if self.per_device is not None:
            return super().begin()
        self.start = dict(self.arrays)
        self.sums = {name: torch.zeros_like(table) for name, table in self.arrays.items()}
        return None

    def squared_grad_norms(self) -> Tensor:
        """Return squared norms [c, b]: a row that an example reads several times is summed before it is squared."""
        assert_backward_reached(self)
        ids, slopes = cast(Tensor, self.inputs), cast(Tensor, self.grad_outputs)
        places = ids.flatten(2) if ids.dim() > 2 else ids.unsqueeze(-1)
        self._repeats, self._most = None, 1  # examples that read a row several times, and how often at most
        if places.shape[-1] > 1:
            order = places.sort(dim=-1).values
            repeats = (order[..., 1:] == order[..., :-1]).any(-1)
            if bool(repeats.any()):
                thrice = bool((order[..., 2:] == order[..., :-2]).any())
                self._repeats, self._most = repeats, places.shape[-1] if thrice else 2
        found = torch.linalg.vector_norm(slopes.flatten(2), dim=-1).square()
        if self._repeats is not None:
            found[self._repeats] = self._coalesced(slopes, slopes.dtype)
        return found

    def round_examples(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round the slopes of each place; those of one row are summed before they are squared."""
        slopes = cast(Tensor, self.grad_outputs)
        self._whole = (slopes * scales.view(*scales.shape, *(1,) * (slopes.dim() - 2))).round_()
        found = squared_lengths(self._whole, self._whole.dim() - 2)
        if self._repeats is not None:
            found[self._repeats] = self._coalesced(self._whole, torch.float64)
        return found * grid.finer**2

    def add_examples(self) -> None:
        """Add to each row what its ids were given."""
        name, ids = f"{self.name}.weight", cast(Tensor, self.inputs)
        self.make_room(ids.shape[1] * self._most * largest(self._whole))
        table = self.sums[name]
        whole = self._whole.reshape(-1, table.shape[1]).to(table.dtype).contiguous()
        table.index_add_(0, ids.reshape(-1), whole)

    def make_room(self, more: float) -> None:
        """Go on in double precision before the sums can reach what is not exact."""
        name, self._reach = f"{self.name}.weight", self._reach + more
        if self._reach >= exact_below(self.sums[name]):
            self.sums[name] = self.sums[name].double()

    def add_noise_to(self, rows: Tensor, drawn: Tensor, unit: float) -> None:
        """Add whole numbers to the sums of some rows, each once, and move them from where they started."""
        name = f"{self.name}.weight"
        self.make_room(largest(drawn))
        if self.arrays[name] is self.start[name]:
            self.arrays[name] = self.start[name].clone()
        sums = self.sums[name].index_select(0, rows)
        sums += drawn.to(sums.dtype)
        self.sums[name].index_copy_(0, rows, sums)
        start = self.start[name].index_select(0, rows)
        self.arrays[name].index_copy_(0, rows, start.sub_(sums.mul_(unit)))

    def _coalesced(self, slopes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the squared lengths of the examples that read a row several times."""
        ids, there = cast(Tensor, self.inputs), cast(Tensor, self._repeats)
        return coalesced(ids.flatten(2)[there], slopes.flatten(2, -2)[there].to(dtype))

    def apply_step(self) -> None:
        """Add to each row what its ids were given."""
        ids, slopes = cast(Tensor, self.inputs), cast(Tensor, self.grad_outputs)
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

    def round_examples(self, scales: Tensor, grid: StepGrid) -> Tensor:
        """Round the sum of an example's slopes."""
        self._whole = (self._grad_outputs() * scales.unsqueeze(-1)).round_()
        return lengths_of(grid, self._whole)

    def add_examples(self) -> None:
        """Add the sums of all examples."""
        self.add_to(f"{self.name}.weight", sum_examples(self._whole))

    def apply_step(self) -> None:
        """Add the slopes of all examples."""
        slopes, table = self._grad_outputs(), self.arrays[f"{self.name}.weight"]
        table[: len(slopes)].add_(slopes.sum(1))

    def _grad_outputs(self) -> Tensor:
        """Return each example's slopes [c, b, d]."""
        slopes = cast(Tensor, self.grad_outputs)
        return slopes if slopes.dim() == 3 else slopes.flatten(2, -2).sum(2)


def coalesced(places: Tensor, slopes: Tensor) -> Tensor:
    """Return the squared norm [m] of slopes [m, n, d] summed over equal places [m, n]."""
    same = (places.unsqueeze(-1) == places.unsqueeze(-2)).to(slopes.dtype)  # [m, n, n]
    return ((slopes @ slopes.mT) * same).sum((-1, -2))
