"""A content-based recommender: shared item biases, and each user's taste over public item features.

A linear content-based scorer (Pazzani & Billsus, "Content-based recommendation systems", 2007) made federated: what
devices learn together is one number an item, so that little has to be hidden by noise; what makes the ranking personal
never leaves. Shapes: B examples, 1+k items of each, V items, F features.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.data.item_features import feature_vectors
from fedrec.models.base import TrainableRecommender, bpr, check_sizes
from fedrec.models.closed_forms import DotProduct


class ContentRecommender(TrainableRecommender):
    """Trains on bias + scale * user . features by BPR, ranks by bias + strength * taste . features.

    The user vector is trained inside the mechanism, so that one user's taste is not mistaken for popularity. The taste
    that ranks is another vector: the mean of the features of the last `recent` items, each older one weighing `decay`
    of the next. It is made on the device at the time of ranking, holds no noise, and no update ever sees it.
    """

    name: ClassVar[str] = "content"
    shared = frozenset({"item_bias.weight"})
    by_item = frozenset({"item_bias.weight", "features"})
    stackable = True

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        centres: int = 60,
        scale: float = 0.3,
        strength: float = 6.0,
        recent: int = 10,
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        check_sizes(centres=centres, scale=scale, recent=recent, decay=decay)
        self.items = len(catalogue)
        vectors = torch.from_numpy(feature_vectors(catalogue, centres))
        self.register_buffer("features", vectors, persistent=False)
        self.user = nn.Embedding(1, vectors.shape[1])
        self.item_bias = nn.Embedding(len(catalogue), 1)
        self.scale, self.strength, self.recent, self.decay = scale, strength, recent, decay
        self.criterion = bpr
        nn.init.zeros_(self.item_bias.weight)

    @property
    def closed_form(self) -> DotProduct:
        """The dot product with public vectors."""
        return DotProduct("user.weight", "features", "item_bias.weight", scale=self.scale)

    def forward(self, items: Tensor) -> Tensor:
        """Return logits [..., 1+k] for items [..., 1+k]; the user vector starts from no taste at all."""
        user = self.user(self.user_rows(items))  # [..., F]
        features = cast(Tensor, self.features)[items]  # [..., 1+k, F]
        return self.item_bias(items).squeeze(-1) + self.scale * (features @ user.unsqueeze(-1)).squeeze(-1)

    def item_contributions(self, history: Tensor, item: int) -> Tensor:
        """Return what each item of the history [n] adds to one item's score: none but the last `recent` do."""
        features = cast(Tensor, self.features)
        last = features[history[-self.recent :]]
        found = torch.zeros(len(history), device=features.device)
        if len(last):
            found[-len(last) :] = self.strength * self._weights(len(last)) * (last @ features[item])
        return found

    def scores(self, history: Tensor) -> Tensor:
        """Return a score for every item [V]: the shared bias, and how near it is to what was used last."""
        features = cast(Tensor, self.features)
        last = features[history[-self.recent :]]  # [n, F]
        taste = self._weights(len(last)) @ last if len(last) else torch.zeros_like(features[0])
        return self.item_bias.weight[:, 0] + self.strength * (features @ taste)

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices: their tastes [C, F] at once."""
        features = cast(Tensor, self.features)
        last = torch.nn.utils.rnn.pad_sequence(
            [history[-self.recent :].flip(0) for history in histories], batch_first=True, padding_value=-1
        )  # [C, n], the newest first
        weight = self._weights(last.shape[1]).flip(0) * (last >= 0)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-30)
        taste = (weight.unsqueeze(1) @ features[last.clamp(min=0)]).squeeze(1)
        return torch.addmm(self.item_bias.weight[:, 0], taste, features.T, alpha=self.strength)

    def _weights(self, count: int) -> Tensor:
        """Return what each of the last `count` items weighs, the newest last: they sum to 1."""
        features = cast(Tensor, self.features)
        weight = self.decay ** torch.arange(count - 1, -1, -1, device=features.device, dtype=features.dtype)
        return weight / weight.sum()
