"""A model as it ranks for one person: top-k without what was used, explanations whose shares add up to the score.

No torch here. Shapes: V items, n items of a history.

Finding items by what people call them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
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


def check_rows(rows: Items, items: int) -> None:
    """Refuse rows that are no items of a catalogue of that many: a negative one would count from its end."""
    unknown = rows[(rows < 0) | (rows >= items)]
    if len(unknown):
        raise FedrecError(f"item row {int(unknown[0])} does not exist: the catalogue has rows 0 to {items - 1}")


def recommend(ranker: UserRanker, k: int, without: Items | None = None) -> list[Recommendation]:
    """Return the k best items that the person has not used, best first; fewer where fewer are left.

    `without` holds more items to leave out. Items tied at the end of the list are drawn, the same way each time.
    """
    if k < 1:
        raise FedrecError(f"k={k}: at least 1 expected")
    scores = ranker.scores()
    check_scores(scores, "the scores of this device")
    seen = ranker.history if without is None else np.concatenate([ranker.history, without])
    check_rows(seen, len(scores))
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
        check_rows(np.array([item]), len(self._ranker.scores()))
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


YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
ARTICLE = re.compile(r"^(.*), (the|a|an|der|die|das|le|la|les|il|el)$")
NEAREST = 3


def normalize_title(title: str) -> str:
    """Return a title in lower case, without its year, its article in front: "Matrix, The (1999)" is "the matrix"."""
    lower = YEAR.sub("", title.strip().lower())
    moved = ARTICLE.match(lower)
    return f"{moved.group(2)} {moved.group(1)}" if moved else " ".join(lower.split())


class ItemSearch:
    """The titles and ids of a catalogue, to look names up in."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._rows: dict[str, list[int]] = {}
        for row, (name, title) in enumerate(zip(catalogue.ids.tolist(), catalogue.titles.tolist(), strict=True)):
            for key in {normalize_title(title), title.strip().lower(), name.strip().lower()}:
                self._rows.setdefault(key, []).append(row)

    def find(self, name: str) -> list[int]:
        """Return the rows of the items of that title (with or without year) or id; none where there is none."""
        return self._rows.get(name.strip().lower()) or self._rows.get(normalize_title(name)) or []

    def row(self, name: str) -> int:
        """Return the row of the one item of that name; the first of the catalogue where several have it.

        An unknown name is an error with the nearest ones.
        """
        found = self.find(name)
        if found:
            return found[0]
        near = get_close_matches(normalize_title(name), self._rows, n=NEAREST, cutoff=0.5)
        near += [
            key
            for key in self._rows
            if normalize_title(name) in key and key not in near and len(normalize_title(name)) > 2
        ]
        known = dict.fromkeys(str(self._catalogue.titles[self._rows[key][0]]) for key in near)
        hint = f" Nearest: {'; '.join(list(known)[:NEAREST])}." if known else " Nothing is like it."
        raise FedrecError(f"no item is called '{name.strip()}'.{hint}")

    def rows(self, text: str) -> NDArray[np.int64]:
        """Return the rows of the items named in a list, "Toy Story, Heat", or with semicolons between them.

        A comma may be part of a title ("Matrix, The"): the longest run of pieces that is a title is taken for one.
        """
        separator = ";" if ";" in text else ","
        pieces = [piece for piece in text.split(separator) if piece.strip()]
        if not pieces:
            raise FedrecError("no title given: name some, such as 'Toy Story, Heat'")
        return np.array(list(dict.fromkeys(self._taken(pieces, separator))), np.int64)

    def _taken(self, pieces: Sequence[str], separator: str) -> list[int]:
        rows, start = list[int](), 0
        while start < len(pieces):
            ends = (e for e in range(len(pieces), start, -1) if self.find(separator.join(pieces[start:e])))
            end = next(ends, start + 1)
            rows.append(self.row(separator.join(pieces[start:end])))
            start = end
        return rows
