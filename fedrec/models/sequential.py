"""What a sequential recommender is: it learns from a history in the order of time, a window of which is one example.

Shapes: C devices, n positions of a window, k negatives of each device, V items.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.models.base import Recommender

NEVER = -1e9  # a logit of what must not be chosen: infinity would make 0 * infinity of its slope


@dataclass(frozen=True, slots=True)
class Windows:
    """What devices learn from: position t < real of a window predicts its item t + 1 against the device's negatives.

    What lies past `real + 1` items fills the line and counts for nothing. Any leading dimensions, C or none.
    """

    items: Tensor  # [C, n + 1] int64, in the order of time
    real: Tensor  # [C] int64: positions that predict something, at most n
    negatives: Tensor  # [C, k] int64

    def to(self, device: torch.device) -> "Windows":
        """Return the same on another device."""
        return Windows(self.items.to(device), self.real.to(device), self.negatives.to(device))

    def touched(self) -> Tensor:
        """Return the items [C, n + 1 + k] whose rows are read, repeats included."""
        return torch.cat([self.items, self.negatives], dim=-1)


class SequentialRecommender(Recommender):
    """A recommender without private arrays that learns from windows of at most `window` positions.

    `by_item` names its arrays of one row an item: of these, training computes the rows that a device touches. `forward`
    takes them looked up, names dimensions from the end, and so runs on one device or on many at once.
    """

    window: int
    by_item: frozenset[str]

    def ready(self) -> None:
        """Raise unless `begin` will find what it takes: asked before anything is charged, and cheap."""
        return None

    def begin(self) -> None:
        """Take what the first model starts from besides its seed, if anything: who starts a run does, no device."""
        return None

    @abstractmethod
    def forward(self, windows: Windows, rows: Mapping[str, Tensor]) -> Tensor:
        """Return one loss per device [C]: the sum over its positions.

        `rows` holds, for every array of `by_item`, its rows of `windows.touched()` [C, n + 1 + k, ...].
        """


def next_item_losses(states: Tensor, vectors: Tensor, biases: Tensor, windows: Windows, items: int) -> Tensor:
    """Return each device's cross-entropy of the next item against its negatives, summed over its positions [C].

    The logit of an item is states [C, n, d] . vectors [C, n + 1 + k, d] + biases [C, n + 1 + k]. A negative is one of k
    uniform draws that stand for all V `items`: each counts V / k times. Where one is the very item that comes next, it
    counts for nothing there.
    """
    n, target = states.shape[-2], windows.items[..., 1:]
    right = (states * vectors[..., 1 : n + 1, :]).sum(-1) + biases[..., 1 : n + 1]  # [..., n]
    wrong = states @ vectors[..., n + 1 :, :].mT + biases[..., None, n + 1 :]  # [..., n, k]
    wrong = wrong.masked_fill(windows.negatives.unsqueeze(-2) == target.unsqueeze(-1), NEVER)
    others = wrong.logsumexp(-1) + math.log(items / windows.negatives.shape[-1])
    there = torch.arange(n, device=states.device) < windows.real.unsqueeze(-1)
    return torch.where(there, torch.logaddexp(right, others) - right, 0.0).sum(-1)


def filled(histories: Sequence[Tensor], window: int) -> tuple[Tensor, Tensor]:
    """Return the last `window` items of each history, filled up behind [C, n], and how many of them are real [C]."""
    last = [history[-window:] for history in histories]
    lines = torch.nn.utils.rnn.pad_sequence([*last, last[0].new_zeros(1)], batch_first=True)[:-1]
    return lines, torch.tensor([len(history) for history in last]).to(lines.device)
