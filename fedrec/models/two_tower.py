"""Two towers over a public pretrained language model: items are what their texts say, users what they used last.

The item side is frozen: what devices learn together is a small adapter of low rank (Hu et al., "LoRA", 2022) between
the two towers, so that noise grows with the adapter and not with the catalogue, and an item can be recommended on its
first day. Shapes: n positions, d dimensions of an item's frozen vector, r of the adapter, V items.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.models.base import check_sizes
from fedrec.models.sequence import SequentialRecommender, Windows, filled, next_item_losses
from fedrec.models.text import PACKAGED, item_table


class TwoTower(SequentialRecommender):
    """logit = strength * recent . item + left(recent, longer) . right(item) + lean(item).

    `recent` and `longer` are means of the frozen vectors of what a device used, each older item weighing `decays`
    (the first for `recent`) of the next. They are made on the device; `left` starts at zero, and so does all that is
    learned.
    """

    by_item = frozenset[str]()

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        dim: int = 48,
        rank: int = 16,
        window: int = 64,
        decays: Sequence[float] = (0.7, 0.95),
        encoder: str = PACKAGED,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, rank=rank, window=window)
        if len(decays) != 2 or not all(0 < decay <= 1 for decay in decays):
            raise FedrecError(f"model.decays={list(decays)}: two numbers above 0 and at most 1 expected")
        self.items, self.window, self.decays = len(catalogue), window, tuple(decays)
        self.register_buffer("vectors", torch.from_numpy(item_table(catalogue, dim, encoder)), persistent=False)
        self.strength = nn.Parameter(torch.ones(1))
        self.left = nn.Linear(2 * dim, rank, bias=False)
        self.right, self.lean = nn.Linear(dim, rank, bias=False), nn.Linear(dim, 1, bias=False)
        nn.init.zeros_(self.left.weight)
        nn.init.zeros_(self.lean.weight)
        self.shared = frozenset(name for name, _ in self.named_parameters())

    def means(self, vectors: Tensor) -> list[Tensor]:
        """Return `recent` and `longer` [..., n, d] after each position, for the vectors [..., n, d] of the items."""
        n = vectors.shape[-2]
        age = torch.arange(n, device=vectors.device)[:, None] - torch.arange(n, device=vectors.device)
        weights = [torch.where(age >= 0, decay ** age.clamp(min=0), 0.0) for decay in self.decays]
        return [(weight / weight.sum(1, keepdim=True)).to(vectors) @ vectors for weight in weights]

    def users(self, vectors: Tensor) -> Tensor:
        """Return the user tower's output [..., n, d + r] after each position."""
        both = self.means(vectors)
        return torch.cat([self.strength * both[0], self.left(torch.cat(both, dim=-1))], dim=-1)

    def wares(self, vectors: Tensor) -> Tensor:
        """Return the item tower's output [..., d + r]."""
        return torch.cat([vectors, self.right(vectors)], dim=-1)

    def forward(self, windows: Windows, rows: Mapping[str, Tensor]) -> Tensor:
        """Return each device's summed cross-entropy of the next item."""
        vectors = cast(Tensor, self.vectors)[windows.touched()]
        states = self.users(vectors[..., : windows.items.shape[-1] - 1, :])
        return next_item_losses(states, self.wares(vectors), self.lean(vectors).squeeze(-1), windows, self.items)

    def scores(self, history: Tensor) -> Tensor:
        """Return a logit for every item [V] to come after the history [n]."""
        return self.scores_many([history], {})[0]

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices."""
        vectors, (lines, lengths) = cast(Tensor, self.vectors), filled(histories, self.window)
        states = self.users(vectors[lines])[torch.arange(len(lines)), (lengths - 1).clamp(min=0)]
        return (states * (lengths > 0).unsqueeze(1)) @ self.wares(vectors).T + self.lean(vectors).squeeze(-1)
