"""Finding items by what people call them."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError

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
