"""Two towers over a public pretrained language model: items are what their texts say, users what they used last.

The item side is frozen: what devices learn together is how much each kind of public feature counts, an adapter of low
rank (Hu et al., "LoRA", 2022) between the two towers, and one number an item for how popular it is, so that noise
hardly grows with the catalogue. Without that number an item can be recommended on its first day. Shapes: n positions, d
dimensions of an item's frozen vector, f of its b blocks of features side by side, r of the adapter, V items.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import ModelInput, check_sizes
from fedrec.models.sequential import SequentialRecommender, Windows, filled, next_item_losses
from fedrec.models.text_embeddings import PACKAGED, encoder_input, item_blocks, item_table

DECAYS = (0.7, 0.95)  # what an older item weighs of the next, in the recent mean and in the longer one
GAIN = 10.0  # of all that is learned: steps of Adam that are small in noise then still move logits


class TwoTower(SequentialRecommender):
    """logit = GAIN (strength . [recent, longer] . features + left(recent, longer) . right(item) + lean(item) + bias).

    `recent` and `longer` are means of the frozen vectors of what a device used (`DECAYS`), made on the device;
    `strength` weighs them block by block. `left`, `lean` and `bias` start at zero.
    """

    name: ClassVar[str] = "two_tower"

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        dim: int = 48,
        rank: int = 16,
        window: int = 64,
        bias: bool = True,
        encoder: str = PACKAGED,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, rank=rank, window=window)
        self.items, self.window, self.dim, self.encoder = len(catalogue), window, dim, encoder
        blocks = item_blocks(catalogue, encoder)
        table = np.concatenate([item_table(catalogue, dim, encoder), *blocks], axis=1)
        widths = torch.tensor([block.shape[1] for block in blocks])
        self.register_buffer("vectors", torch.from_numpy(table), persistent=False)
        self.register_buffer("spread", torch.eye(len(blocks)).repeat_interleave(widths, dim=1), persistent=False)
        self.strength = nn.Parameter(torch.full((len(DECAYS), len(blocks)), 1 / GAIN))
        self.left = nn.Linear(2 * dim, rank, bias=False)
        self.right, self.lean = nn.Linear(dim, rank, bias=False), nn.Linear(dim, 1, bias=False)
        self.bias = nn.Embedding(self.items, 1) if bias else None
        for layer in (self.left, self.lean, self.bias):
            if layer is not None:
                nn.init.zeros_(layer.weight)
        self.by_item = frozenset({"bias.weight"} if bias else ())
        self.shared = frozenset(name for name, _ in self.named_parameters())

    def inputs(self, catalogue: Catalogue) -> tuple[ModelInput, ...]:
        """Return the encoder of texts."""
        return encoder_input("model.encoder", self.encoder, catalogue)

    def means(self, vectors: Tensor) -> list[Tensor]:
        """Return `recent` and `longer` [..., n, d + f] after each position, for the items' vectors there."""
        n = vectors.shape[-2]
        age = torch.arange(n, device=vectors.device)[:, None] - torch.arange(n, device=vectors.device)
        weights = [torch.where(age >= 0, decay ** age.clamp(min=0), 0.0) for decay in DECAYS]
        return [(weight / weight.sum(1, keepdim=True)).to(vectors) @ vectors for weight in weights]

    def users(self, vectors: Tensor) -> Tensor:
        """Return the user tower's output [..., n, f + r] after each position."""
        both = self.means(vectors)
        strengths = self.strength @ cast(Tensor, self.spread)
        felt = sum((s * mean[..., self.dim :] for s, mean in zip(strengths, both, strict=True)), torch.zeros(()))
        moved = self.left(torch.cat([mean[..., : self.dim] for mean in both], dim=-1))
        return GAIN * torch.cat([felt, moved], dim=-1)

    def wares(self, vectors: Tensor) -> Tensor:
        """Return the item tower's output [..., f + r]."""
        return torch.cat([vectors[..., self.dim :], self.right(vectors[..., : self.dim])], dim=-1)

    def leanings(self, vectors: Tensor) -> Tensor:
        """Return [...]: what an item's frozen vector says of how often it is used, whoever asks."""
        return GAIN * self.lean(vectors[..., : self.dim]).squeeze(-1)

    def forward(self, windows: Windows, rows: Mapping[str, Tensor]) -> Tensor:
        """Return each device's summed cross-entropy of the next item."""
        vectors = cast(Tensor, self.vectors)[windows.touched()]
        biases = self.leanings(vectors)
        if self.bias is not None:
            biases = biases + GAIN * rows["bias.weight"].squeeze(-1)
        states = self.users(vectors[..., : windows.items.shape[-1] - 1, :])
        return next_item_losses(states, self.wares(vectors), biases, windows, self.items)

    def scores(self, history: Tensor) -> Tensor:
        """Return a logit for every item [V] to come after the history [n]."""
        return self.scores_many([history], {})[0]

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices."""
        vectors, (lines, lengths) = cast(Tensor, self.vectors), filled(histories, self.window)
        states = self.users(vectors[lines])[torch.arange(len(lines)), (lengths - 1).clamp(min=0)]
        biases = self.leanings(vectors)
        if self.bias is not None:
            biases = biases + GAIN * self.bias.weight[:, 0]
        return (states * (lengths > 0).unsqueeze(1)) @ self.wares(vectors).T + biases
