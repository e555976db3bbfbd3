"""A model as it ranks for one person: top-k without what was used, explanations whose shares add up to the score.

No torch here. Shapes: V items, n items of a history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError, RefusedError
from fedrec.evaluation.metrics import check_scores, top_items

Items = NDArray[np.integer[Any]]
Floats = NDArray[Any]


class UserRanker(Protocol):
    """A model as it ranks for one person: `history` [n] holds item rows in the order of time."""

    @property
    def history(self) -> Items:
        """The item rows that it was made from."""
        ...

    def scores(self) -> Floats:
        """Return a score for every item [V]."""
        ...

    def item_contributions(self, item: int) -> Floats | None:
        """Return what each item of the history adds to one item's score [n].

        Together with the score that the item has without any history they add up to its score; None where the model
        isn't linear in the history, so that no such shares exist.
        """
        ...


@dataclass(frozen=True, slots=True)
class ItemContribution:
    """What an item of the history adds to a score."""

    item: int
    share: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A score taken apart: `own` is what the item has without any history; own + all reasons + others = score."""

    score: float
    own: float
    reasons: tuple[ItemContribution, ...]  # different items of the history, the largest share first
    others: float = 0.0  # the sum of the shares that are not listed


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item to recommend."""

    item: int
    score: float


def recommend(ranker: UserRanker, k: int, without: Items | None = None) -> list[Recommendation]:
    """Return the k best items that the person has not used, best first; fewer where fewer are left.

    `without` holds more items to leave out. Items tied at the end of the list are drawn, the same way each time.
    """
    if k < 1:
        raise FedrecError(f"k={k}: at least 1 expected")
    scores = ranker.scores()
    check_scores(scores, "the scores of this device")
    seen = ranker.history if without is None else np.concatenate([ranker.history, without])
    best = top_items(scores, seen.astype(np.int64), k, np.random.default_rng(0))
    return [Recommendation(int(item), float(scores[item])) for item in best]


class Explainer:
    """The reasons of one taste's scores, item by item: what all of them need is found once."""

    def __init__(self, ranker: UserRanker) -> None:
        self._ranker = ranker
        self._items, self._place = np.unique(ranker.history, return_inverse=True)

    def of(self, item: int, score: float | None = None, most: int | None = None) -> Explanation | None:
        """Return how an item's score (where known already: `score`) comes about, by its `most` largest shares or all.

        None for a model that can't say.
        """
        shares = self._ranker.item_contributions(item)
        if shares is None:
            return None
        score = float(self._ranker.scores()[item]) if score is None else score
        summed = np.bincount(self._place, shares, len(self._items))
        order = largest(summed, len(summed) if most is None else most)
        reasons = tuple(ItemContribution(int(self._items[row]), float(summed[row])) for row in order)
        whole = float(summed.sum())
        others = whole - sum(reason.share for reason in reasons) if len(order) < len(summed) else 0.0
        return Explanation(score, score - whole, reasons, others)


def largest(values: Floats, most: int) -> NDArray[np.int64]:
    """Return where the `most` largest values are, the largest first, equal ones in their order."""
    if most >= len(values):
        return np.argsort(-values, kind="stable")
    last = np.partition(values, len(values) - most)[len(values) - most]
    found = np.flatnonzero(values >= last)
    return found[np.argsort(-values[found], kind="stable")][:most]


def explain(ranker: UserRanker, item: int) -> Explanation:
    """Explain one item's score by all items of the history; raise `RefusedError` for a model that can't say."""
    found = Explainer(ranker).of(item)
    if found is None:
        raise RefusedError("this model can't say why: its score for this item is not a sum over the items of a history")
    return found


def described(
    found: Sequence[Recommendation], ranker: UserRanker, catalogue: Catalogue, reasons: int = 3
) -> list[dict[str, Any]]:
    """Return recommendations as plain values: rank, id, title, score, and `because` (None where the model can't say).

    `because` holds the item's `own` part of the score, the largest shares, and the sum of all `others`.
    """
    told, lines = Explainer(ranker), list[dict[str, Any]]()
    for rank, one in enumerate(found, 1):
        named = {"rank": rank, "id": str(catalogue.ids[one.item]), "title": str(catalogue.titles[one.item])}
        why = _explanation_json(told.of(one.item, one.score, reasons), catalogue)
        lines.append({**named, "score": one.score, "because": why})
    return lines


def _explanation_json(found: Explanation | None, catalogue: Catalogue) -> dict[str, Any] | None:
    if found is None:
        return None
    ids, titles = catalogue.ids, catalogue.titles
    items = [{"id": str(ids[r.item]), "title": str(titles[r.item]), "share": r.share} for r in found.reasons]
    return {"own": found.own, "items": items, "others": found.others}
