"""A hybrid: what users used together (EASE), popularity, and what items have in common by their public features."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import check_sizes
from fedrec.models.ease import Ease
from fedrec.models.item_features import feature_vectors

CENTRES = 60  # bumps over the range of a numeric feature


class Hybrid(Ease):
    """Adds three scores, each with mean 0 and deviation 1 over the catalogue, on the device.

    EASE's has weight 1; `content` is that of the nearness to the mean features of the last `recent` items, each older
    one weighing `decay` of the next; `popularity` that of log(1 + count), a negative count standing for none.
    """

    name: ClassVar[str] = "hybrid"

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        head: int = 1500,
        content: float = 0.5,
        popularity: float = 0.2,
        recent: int = 10,
        decay: float = 0.9,
    ) -> None:
        super().__init__(catalogue, head=head)
        check_sizes(recent=recent, decay=decay)
        self.content, self.popularity, self.recent, self.decay = content, popularity, recent, decay
        self.register_buffer("features", torch.from_numpy(feature_vectors(catalogue, CENTRES)), persistent=False)

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices."""
        features, counts = cast(Tensor, self.features), cast(Tensor, self.counts)
        tastes = torch.stack([self._taste(history) for history in histories])
        parts = (
            (1.0, self.item_scores(histories)),
            (self.content, tastes @ features.T),
            (self.popularity, torch.log1p(counts.clamp(min=0)).unsqueeze(0)),
        )
        return sum((share * standardised(part) for share, part in parts), torch.zeros(()))

    def _taste(self, history: Tensor) -> Tensor:
        features = cast(Tensor, self.features)
        last = features[history[-self.recent :]]
        weight = self.decay ** torch.arange(len(last) - 1, -1, -1, device=features.device, dtype=features.dtype)
        return weight @ last if len(last) else torch.zeros_like(features[0])

    def item_contributions(self, history: Tensor, item: int) -> None:
        """Return None: scores that are standardised over the catalogue are no sum over the history."""
        return None


def standardised(scores: Tensor) -> Tensor:
    """Return scores [C, V] of mean 0 and deviation 1 in each row; constant ones become 0."""
    deviation = scores.std(dim=1, correction=0, keepdim=True).clamp(min=1e-6)
    return (scores - scores.mean(dim=1, keepdim=True)) / deviation
