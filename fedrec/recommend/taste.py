"""A model as it ranks for one person: top-k without what was used, explanations whose shares add up to the score.

No torch here. Shapes: V items, n items of a history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError, Refused
from fedrec.evaluation.ranking import check_scores, top_items

Items = NDArray[np.integer[Any]]
Floats = NDArray[Any]


class Taste(Protocol):
    """A model as it ranks for one person: `history` [n] holds item rows in the order of time."""

    @property
    def history(self) -> Items:
        """The item rows that it was made from."""
        ...

    def scores(self) -> Floats:
        """Return a score for every item [V]."""
        ...

    def shares(self, item: int) -> Floats | None:
        """Return what each item of the history adds to one item's score [n].

        Together with the score that the item has without any history they add up to its score; None where the model
        isn't linear in the history, so that no such shares exist.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reason:
    """What an item of the history adds to a score."""

    item: int
    share: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A score taken apart: `own` is what the item has without any history; own + all reasons = score."""

    score: float
    own: float
    reasons: tuple[Reason, ...]  # one for each different item of the history, the largest share first


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item to recommend."""

    item: int
    score: float


def recommend(taste: Taste, k: int, without: Items | None = None) -> list[Recommendation]:
    """Return the k best items that the person has not used, best first; fewer where fewer are left.

    `without` holds more items to leave out. Items tied at the end of the list are drawn, the same way each time.
    """
    if k < 1:
        raise FedrecError(f"k={k}: at least 1 expected")
    scores = taste.scores()
    check_scores(scores, "the scores of this device")
    seen = taste.history if without is None else np.concatenate([taste.history, without])
    best = top_items(scores, seen.astype(np.int64), k, np.random.default_rng(0))
    return [Recommendation(int(item), float(scores[item])) for item in best]


def explain(taste: Taste, item: int, score: float | None = None) -> Explanation:
    """Return how one item's score (where known already: `score`) comes about; `Refused` for a model that can't say."""
    shares = taste.shares(item)
    if shares is None:
        raise Refused("this model can't say why: its score for this item is not a sum over the items of a history")
    score = float(taste.scores()[item]) if score is None else score
    items, place = np.unique(taste.history, return_inverse=True)
    summed = np.bincount(place, shares, len(items))
    order = np.argsort(-summed, kind="stable")
    reasons = tuple(Reason(int(items[row]), float(summed[row])) for row in order)
    return Explanation(score, score - float(summed.sum()), reasons)


def described(
    found: Sequence[Recommendation], taste: Taste, catalogue: Catalogue, reasons: int = 3
) -> list[dict[str, Any]]:
    """Return recommendations as plain values: rank, id, title, score, and `because` (None where the model can't say).

    `because` holds the item's `own` part of the score, the largest shares, and the sum of all `others`.
    """
    lines = list[dict[str, Any]]()
    for rank, one in enumerate(found, 1):
        named = {"rank": rank, "id": str(catalogue.ids[one.item]), "title": str(catalogue.titles[one.item])}
        lines.append({**named, "score": one.score, "because": _plain(taste, one, catalogue, reasons)})
    return lines


def _plain(taste: Taste, one: Recommendation, catalogue: Catalogue, most: int) -> dict[str, Any] | None:
    if taste.shares(one.item) is None:
        return None
    found = explain(taste, one.item, one.score)
    shown = found.reasons[:most]
    items = [
        {"id": str(catalogue.ids[r.item]), "title": str(catalogue.titles[r.item]), "share": r.share} for r in shown
    ]
    return {"own": found.own, "items": items, "others": sum(r.share for r in found.reasons[most:])}
