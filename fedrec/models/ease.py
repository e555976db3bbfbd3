"""EASE and item-kNN: item-item models over the head of the catalogue, its most popular items.

Steck, "Embarrassingly shallow autoencoders for sparse data", 2019. Item-kNN scores an item by its similarity to the
items of the history, its nearest neighbours only.

A hybrid: what users used together (EASE), popularity, and what items have in common by their public features.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.data.item_features import feature_vectors
from fedrec.errors import FedrecError
from fedrec.models.base import Recommender, check_sizes

LARGEST_HEAD = 5000


def check_head(head: int, items: int, bytes_per_pair: float, what: str = "") -> int:
    """Return how many items the head has, at most all of them.

    A request above 5,000 is refused, with the memory that it would take: `bytes_per_pair` for each ordered pair; `what`
    names the request where it is not algorithm.head.
    """
    if not 0 < head <= LARGEST_HEAD:
        memory = head * head * bytes_per_pair / 2**20
        need = f"; {head:,} would take {memory:,.0f} MiB on every device" if head > LARGEST_HEAD else ""
        raise FedrecError(f"{what or f'algorithm.head={head}'}: 1 to {LARGEST_HEAD:,} items expected{need}")
    return min(head, items)


def same_head(head: int, found: int, items: int) -> None:
    """Raise unless a model's head of `found` items is the one that its algorithm was told of."""
    if min(head, items) != found:
        raise FedrecError(f"algorithm.head={head} and model.head={found} differ: leave model.head=${{algorithm.head}}")


class Ease(Recommender):
    """Scores the `head` most popular items by weights [H, H] over the device's own history; others by their count.

    `head_items[H]` are catalogue rows, `counts[V]` the (possibly noisy) counts. H is at most 5,000: a head of 5,000 is
    100 MB of weights.
    """

    name: ClassVar[str] = "ease"
    shared = frozenset({"weights", "head_items", "counts"})

    def __init__(self, catalogue: Catalogue, *, head: int = 1500) -> None:
        super().__init__()
        self.items = len(catalogue)
        size = check_head(head, len(catalogue), 4.0)
        self.register_buffer("weights", torch.zeros(size, size))
        self.register_buffer("head_items", torch.arange(size, dtype=torch.float32))
        self.register_buffer("counts", torch.zeros(len(catalogue)))

    def scores(self, history: Tensor) -> Tensor:
        """Return a score for every item [V]; items outside the head rank below it, by their count."""
        return self.scores_many([history], {})[0]

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices."""
        return self.item_scores(histories)

    def item_scores(self, histories: Sequence[Tensor]) -> Tensor:
        """Return what EASE itself makes of the histories [C, V]."""
        counts, head = cast(Tensor, self.counts), cast(Tensor, self.head_items).long()
        used = counts.new_zeros(len(histories), len(counts))
        for row, history in zip(used, histories, strict=True):
            row[history] = 1.0
        inside = used[:, head] @ cast(Tensor, self.weights)
        spread = (counts.max() - counts.min()).clamp(min=1e-12)
        scores = inside.amin(1, keepdim=True) - 2.0 + (counts - counts.min()) / spread
        scores[:, head] = inside
        return scores

    def item_contributions(self, history: Tensor, item: int) -> Tensor | None:
        """Return each item's weight on one item of the head [n], repeats shared evenly; None outside of the head."""
        weights, head = cast(Tensor, self.weights), cast(Tensor, self.head_items).long()
        place = torch.full((self.items,), -1, dtype=torch.long, device=head.device)
        place[head] = torch.arange(len(head), device=head.device)
        if place[item] < 0:
            return None
        rows = place[history]
        times = torch.bincount(history, minlength=self.items)[history]
        return torch.where(rows >= 0, weights[rows, place[item]], 0.0) / times


class ItemKnn(Ease):
    """As `Ease`, with similarities [H, H] in the place of regression weights."""

    name: ClassVar[str] = "item_knn"


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
