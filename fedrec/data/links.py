"""Who is linked to whom: friends, or whom a user trusts."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # tables bring pyarrow, which devices do without
    from fedrec.data.io.table import Table, Tokens

STRANGERS = "links with a user who has no interactions"
Links = NDArray[np.int32]


def no_links() -> Links:
    """Return links [0, 2]: nobody knows anybody."""
    return np.empty((0, 2), np.int32)


def pairs(table: "Table", first: str, second: str) -> "tuple[Tokens, Tokens]":
    """Return the two columns of a table that name users."""
    table.require((first, second))
    return table.tokens(first), table.tokens(second)


def links_between(named: "tuple[Tokens, Tokens]", user_ids: NDArray[np.str_]) -> tuple[Links, int]:
    """Return distinct links [n, 2] as rows of `user_ids`, sorted, and how many were left out as `STRANGERS`.

    A user linked to itself is no link.
    """
    row_of = {str(user): row for row, user in enumerate(user_ids)}
    columns = [np.array([row_of.get(name, -1) for name in side.names], np.int32)[side.codes] for side in named]
    both = np.stack(columns, axis=1)
    known = (both >= 0).all(axis=1)
    kept = both[known & (both[:, 0] != both[:, 1])]
    return np.unique(kept, axis=0).reshape(-1, 2), int((~known).sum())
