"""Tables of vectors of many devices at once. Shapes as in `layers`."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.errors import Refused
from fedrec.training.vectorized.layers import Layer, assert_seen, seen


class Lookup(Layer):
    """A table of vectors. `table` [R, d] holds the rows of all devices one after the other.

    With `per_device` rows each, ids name a device's own rows. Without, ids are places in the table already: the rows
    of the items that each device can touch.
    """

    first = True

    def __init__(self, name: str, module: nn.Embedding, per_device: int | None) -> None:
        super().__init__(name)
        if module.max_norm is not None or module.scale_grad_by_freq or module.padding_idx is not None:
            raise Refused(f"{name} has options (max_norm, padding_idx, scale_grad_by_freq) that the engine lacks")
        self.per_device = per_device

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors [c, b, ..., d] for ids [c, b, ...]."""
        if ids.dim() < 2:
            raise Refused(f"{self.name} is read by ids of shape {tuple(ids.shape)}, not [..., example, places]")
        if self.per_device is not None:
            first = torch.arange(len(ids), device=ids.device) * self.per_device
            ids = ids + first.view(-1, *(1,) * (ids.dim() - 1))
        self.note(ids)
        out = functional.embedding(ids, self.kept[f"{self.name}.weight"]).requires_grad_()
        return seen(out, self)

    def squares(self) -> Tensor:
        """Return squared norms [c, b]: a row that an example reads several times is summed before it is squared."""
        assert_seen(self)
        ids, slopes = cast(Tensor, self.inputs), cast(Tensor, self.slopes)
        found = slopes.square().flatten(2).sum(-1)
        places = ids.flatten(2) if ids.dim() > 2 else ids.unsqueeze(-1)
        if places.shape[-1] > 1:
            order = places.sort(dim=-1).values
            repeats = (order[..., 1:] == order[..., :-1]).any(-1)
            if bool(repeats.any()):
                found[repeats] = coalesced(places[repeats], slopes.flatten(2, -2)[repeats])
        return found

    def move(self, factors: Tensor | None) -> None:
        """Add to each row what its ids were given."""
        ids, slopes = cast(Tensor, self.inputs), cast(Tensor, self.slopes)
        if factors is not None:
            slopes = slopes * factors.view(*factors.shape, *(1,) * (slopes.dim() - 2))
        table = self.kept[f"{self.name}.weight"]
        # Contiguous, because `index_add_` is five times slower on a part of a wider tensor than this copy and it.
        table.index_add_(0, ids.reshape(-1), slopes.reshape(-1, table.shape[1]).contiguous())


class Own(Lookup):
    """A table of one row for each device, its user's say: all ids are 0, and nothing need be looked up."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the devices' rows [c, b, ..., d] for ids [c, b, ...]."""
        if ids.dim() < 2:
            raise Refused(f"{self.name} is read by ids of shape {tuple(ids.shape)}, not [..., example, places]")
        self.note(ids)
        table = self.kept[f"{self.name}.weight"][: len(ids)]
        rows = table.view(len(ids), *(1,) * (ids.dim() - 1), -1).detach().requires_grad_()
        return seen(rows.expand(*ids.shape, -1), self)

    def squares(self) -> Tensor:
        """Return squared norms [c, b]: an example's slopes are all on the one row."""
        assert_seen(self)
        return self._slopes().square().sum(-1)

    def move(self, factors: Tensor | None) -> None:
        """Add the slopes of all examples."""
        slopes, table = self._slopes(), self.kept[f"{self.name}.weight"]
        if factors is not None:
            table[: len(slopes)].add_(torch.bmm(factors.unsqueeze(1), slopes).squeeze(1))
        else:
            table[: len(slopes)].add_(slopes.sum(1))

    def _slopes(self) -> Tensor:
        """Return each example's slopes [c, b, d]."""
        slopes = cast(Tensor, self.slopes)
        return slopes if slopes.dim() == 3 else slopes.flatten(2, -2).sum(2)


def coalesced(places: Tensor, slopes: Tensor) -> Tensor:
    """Return the squared norm [m] of slopes [m, n, d] summed over equal places [m, n]."""
    same = (places.unsqueeze(-1) == places.unsqueeze(-2)).to(slopes.dtype)  # [m, n, n]
    return ((slopes @ slopes.transpose(-1, -2)) * same).sum((-1, -2))
