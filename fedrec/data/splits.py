"""What is held out from each device: the last rows in time, or those that a publication names."""

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.data.devices import DeviceTable
from fedrec.data.interactions import Interactions
from fedrec.data.io.table import Table, Tokens
from fedrec.errors import FedrecError


def leave_last_out(interactions: Interactions) -> DeviceTable:
    """Hold out each user's last row for the test and the one before for validation.

    Users with two rows have nothing to train on, users with one row keep it for training: so one interaction more or
    less never puts another in its place among those that are trained on. Interactions are sorted by
    time, rows of equal time by their order in the file, so "last" is never drawn.
    """
    count = np.bincount(interactions.user, minlength=interactions.users)
    last = np.zeros(len(interactions), bool)
    last[np.cumsum(count)[count >= 2] - 1] = True
    return hold_out(interactions, last)


def hold_out(
    interactions: Interactions, test: NDArray[np.bool_], candidates: NDArray[np.int32] | None = None
) -> DeviceTable:
    """Hold out the rows marked in `test[n]`, and for validation the last of the others where a user has two rows."""
    order = np.lexsort((test, interactions.user))
    count = np.bincount(interactions.user, minlength=interactions.users)
    start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    test_from = start[1:] - np.bincount(interactions.user[test], minlength=interactions.users)
    return DeviceTable(
        start=start,
        validation_from=test_from - ((test_from > start[:-1]) & (count >= 2)),
        test_from=test_from,
        item=interactions.item[order],
        value=interactions.value[order],
        items=interactions.items,
        candidates=candidates,
    )


def published_rows(
    table: Table, user: Tokens, item: Tokens, interactions: Interactions, catalogue: Catalogue
) -> NDArray[np.int64]:
    """Return the row among the interactions of every published (user, item) pair, which must be one of them.

    Of several equal pairs the last row counts; `table` is where the pairs stand, for errors.
    """
    users = row_numbers(table, user, interactions.user_ids, "user")
    items = row_numbers(table, item, catalogue.ids, "item")
    key = interactions.user.astype(np.int64) * interactions.items + interactions.item
    order = np.argsort(key, kind="stable")
    wanted = users * interactions.items + items
    found = order[np.maximum(np.searchsorted(key[order], wanted, side="right") - 1, 0)]
    if (strange := key[found] != wanted).any():
        place = table.place(int(np.flatnonzero(strange)[0]))
        raise FedrecError(f"{place}: this pair is not in the source; split and source must be of one edition")
    return found


def row_numbers(table: Table, tokens: Tokens, ids: NDArray[np.str_], what: str) -> NDArray[np.int64]:
    """Return the position in `ids` of every token; one that is not there is an error that names its line."""
    row_of = {str(name): n for n, name in enumerate(ids)}
    for code, name in enumerate(tokens.names):
        if name not in row_of:
            place = table.place(int(np.flatnonzero(tokens.codes == code)[0]))
            raise FedrecError(f"{place}: {what} '{name}' is not in the source; split and source must be of one edition")
    return np.array([row_of[name] for name in tokens.names], np.int64)[tokens.codes]
