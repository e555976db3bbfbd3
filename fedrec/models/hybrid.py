"""A hybrid: what users used together (EASE), popularity, and what items have in common by their public features."""

from typing import cast

import torch
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import check_sizes
from fedrec.models.ease import Ease
from fedrec.models.features import feature_vectors


class Hybrid(Ease):
    """Adds three scores, each with mean 0 and deviation 1 over the catalogue, on the device.

    EASE's has weight 1; `content` is that of the nearness to the mean features of the last `recent` items, each older
    one weighing `decay` of the next; `popularity` that of log(1 + count), a negative count standing for none.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        head: int = 1500,
        content: float = 0.5,
        popularity: float = 0.2,
        recent: int = 10,
        decay: float = 0.9,
        centres: int = 60,
    ) -> None:
        super().__init__(catalogue, head=head)
        check_sizes(recent=recent, decay=decay, centres=centres)
        self.content, self.popularity, self.recent, self.decay = content, popularity, recent, decay
        self.register_buffer("features", torch.from_numpy(feature_vectors(catalogue, centres)), persistent=False)

    def scores(self, history: Tensor) -> Tensor:
        """Return a score for every item [V]."""
        features, counts = cast(Tensor, self.features), cast(Tensor, self.counts)
        last = features[history[-self.recent :]]
        weight = self.decay ** torch.arange(len(last) - 1, -1, -1, device=features.device, dtype=features.dtype)
        taste = weight @ last if len(last) else torch.zeros_like(features[0])
        parts = (
            (1.0, super().scores(history)),
            (self.content, features @ taste),
            (self.popularity, torch.log1p(counts.clamp(min=0))),
        )
        return torch.stack([share * standardised(part) for share, part in parts]).sum(dim=0)

    def shares(self, history: Tensor, item: int) -> None:
        """Return None: scores that are standardised over the catalogue are no sum over the history."""
        return None


def standardised(scores: Tensor) -> Tensor:
    """Return scores of mean 0 and deviation 1; constant ones become 0."""
    return (scores - scores.mean()) / scores.std(correction=0).clamp(min=1e-6)
