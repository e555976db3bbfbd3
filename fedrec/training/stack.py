"""What many devices contribute, before anything is summed: changes of touched rows, and of dense parameters.

Shapes: C devices, R rows that they touched together, V items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.update import Arrays, Update

ROWS = 1 << 14  # taken at a time, so that what is made of them stays in the cache


@dataclass(frozen=True, slots=True)
class Stack:
    """The changes of C devices. Row r is a change of item `items[r]` by device `owner[r]`, each pair once.

    `rows` holds changes [R, ...] of arrays with `catalogue` items, `dense` changes [C, ...] of the others; `late` what
    is to be added to the sum besides: noise that no device's own steps would ever have read, drawn once for all.
    """

    catalogue: int
    count: int
    items: Tensor
    owner: Tensor
    rows: dict[str, Tensor]
    dense: dict[str, Tensor]
    late: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def squares(self) -> dict[str, NDArray[np.float64]]:
        """Return each array's squared norm for every device [C]; not finite where a change is not."""
        found = dict[str, NDArray[np.float64]]()
        for name, change in self.rows.items():
            parts = [part.flatten(1).double().square().sum(1) for part in change.split(ROWS)]
            square = torch.cat(parts) if parts else change.new_zeros(0, dtype=torch.float64)
            found[name] = square.new_zeros(self.count).index_add_(0, self.owner, square).cpu().numpy()
        for name, change in self.dense.items():
            found[name] = change.flatten(1).double().square().sum(1).cpu().numpy()
        return found

    def total(self, factors: Mapping[str, NDArray[np.float64]] | NDArray[np.float64]) -> Update:
        """Return the sum over devices, each array of device c times its `factors[c]`, in double precision.

        `factors` [C] are for all arrays, or by name. What has factor 0 counts for nothing, be it finite or not.
        """
        sums = dict[str, Tensor]()
        for name, change in self.rows.items():
            factor = self._factor(factors, name)
            into = self.late[name].clone() if name in self.late else self._zeros(change)
            for start in range(0, len(change), ROWS):
                part = slice(start, start + ROWS)
                into.index_add_(0, self.items[part], _times(change[part], factor[self.owner[part]]))
            sums[name] = into
        for name, change in self.dense.items():
            sums[name] = _times(change, self._factor(factors, name)).sum(0)
        return Update({name: array.float().cpu().numpy() for name, array in sums.items()}, self.count)

    def _zeros(self, change: Tensor) -> Tensor:
        return torch.zeros(self.catalogue, *change.shape[1:], dtype=torch.float64, device=change.device)

    def _factor(self, factors: Mapping[str, NDArray[np.float64]] | NDArray[np.float64], name: str) -> Tensor:
        found = factors[name] if isinstance(factors, Mapping) else factors
        return torch.from_numpy(np.asarray(found, np.float64)).to(self.items.device)

    def one(self, device: int) -> Update:
        """Return what one device alone contributes, dense, without what is late."""
        own = self.owner == device
        arrays: Arrays = {}
        for name, change in self.rows.items():
            whole = change.new_zeros(self.catalogue, *change.shape[1:])
            arrays[name] = whole.index_add_(0, self.items[own], change[own]).cpu().numpy()
        return Update({**arrays, **{name: change[device].cpu().numpy() for name, change in self.dense.items()}}, 1)


def finite(stack: Stack) -> NDArray[np.float64]:
    """Return 1 for each device whose changes are all numbers, else 0 [C]."""
    return np.logical_and.reduce([np.isfinite(square) for square in stack.squares().values()]).astype(np.float64)


def _times(change: Tensor, factor: Tensor) -> Tensor:
    """Return change * factor along the first dimension, in double precision; 0 where the factor is 0."""
    wide = factor.view(-1, *(1,) * (change.dim() - 1))
    product = change.double()
    if bool((factor != 1).any()):
        product *= wide
    return torch.where(wide == 0, 0.0, product) if bool((factor == 0).any()) else product


@dataclass(frozen=True, slots=True)
class Contributions:
    """What C devices contribute, their new private arrays [C, ...], exact losses [C]: sums over `examples` [C]."""

    users: NDArray[np.int64]
    stack: Stack
    private: Arrays
    loss: NDArray[np.float64]
    examples: NDArray[np.int64]


def joined(parts: Sequence[Contributions], late: dict[str, Tensor]) -> Contributions:
    """Return the contributions of all parts as one, `late` the noise that their sum has still to get."""
    stacks = [part.stack for part in parts]
    starts = np.cumsum([0, *(stack.count for stack in stacks)]).tolist()
    stack = Stack(
        catalogue=stacks[0].catalogue,
        count=starts[-1],
        items=torch.cat([stack.items for stack in stacks]),
        owner=torch.cat([stack.owner + start for stack, start in zip(stacks, starts, strict=False)]),
        rows={name: torch.cat([stack.rows[name] for stack in stacks]) for name in stacks[0].rows},
        dense={name: torch.cat([stack.dense[name] for stack in stacks]) for name in stacks[0].dense},
        late=late,
    )
    return Contributions(
        users=np.concatenate([part.users for part in parts]),
        stack=stack,
        private={name: np.concatenate([part.private[name] for part in parts]) for name in parts[0].private},
        loss=np.concatenate([part.loss for part in parts]),
        examples=np.concatenate([part.examples for part in parts]),
    )
