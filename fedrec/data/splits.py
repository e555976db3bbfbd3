"""What is held out from each device: the last rows in time, or those that a publication names.

Published splits: NCF's of MovieLens 1M (He et al. 2017, arXiv:1708.05031), one test item and 99 negatives a user; and
MovieLens 100K's own (ua.test holds ten ratings of every user, ua.base the others).
"""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.data.download import Files
from fedrec.data.interactions import DeviceTable, Interactions
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.table import Table, Tokens
from fedrec.errors import FedrecError


def leave_last_out(interactions: Interactions) -> DeviceTable:
    """Hold out each user's last row for the test and the one before for validation.

    Users with two rows have nothing to train on, users with one row keep it for training: so one interaction more or
    less never puts another in its place among those that are trained on. Interactions are sorted by
    time, rows of equal time by their order in the file, so "last" is never drawn.
    """
    count = interactions.counts()
    last = np.zeros(len(interactions), bool)
    last[np.cumsum(count)[count >= 2] - 1] = True
    return hold_out(interactions, last)


def hold_out(
    interactions: Interactions, test: NDArray[np.bool_], candidates: NDArray[np.int32] | None = None
) -> DeviceTable:
    """Hold out the rows marked in `test[n]`, and for validation the last of the others where a user has two rows."""
    last = (test[1:] >= test[:-1]) | (interactions.user[1:] != interactions.user[:-1])
    item, value = interactions.item, interactions.value
    if not last.all():
        order = np.lexsort((test, interactions.user))
        item, value = item[order], value[order]
    count = interactions.counts()
    start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    test_from = start[1:] - np.bincount(interactions.user[test], minlength=interactions.users)
    return DeviceTable(
        start=start,
        validation_from=test_from - ((test_from > start[:-1]) & (count >= 2)),
        test_from=test_from,
        item=item,
        value=value,
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


NCF_SPLIT = "ncf: test = NCF's published item, with its 99 negatives; validation = the last in time of the others"
NEGATIVES = tuple(f"negative {n}" for n in range(1, 100))
RATING = Layout("\t", columns=("user", "item", "rating", "time"))
NEGATIVE = Layout("\t", columns=("pair", *NEGATIVES))


def ncf_split(folder: Path) -> Callable[[Interactions, Catalogue], DeviceTable]:
    """Return what divides interactions by the files of `folder`, whose users count ML-1M's user ids from 0.

    item_index.csv maps NCF's items to movie ids. Every published pair must be one of the interactions.
    """
    if not folder.is_dir():
        needs = "ml-1m.test.rating, ml-1m.test.negative (each may end with .gz) and item_index.csv"
        raise FedrecError(f"{folder}: no such folder; dataset.ncf_path names one with {needs}")

    def divide(interactions: Interactions, catalogue: Catalogue) -> DeviceTable:
        movie_of = _movies(folder)
        pairs, negatives = _read(folder, "ml-1m.test.rating", RATING), _read(folder, "ml-1m.test.negative", NEGATIVE)
        _check(pairs, negatives, interactions.users)
        user = Tokens(np.arange(len(pairs)), tuple(str(user) for user in interactions.user_ids))
        item = _translated(pairs, "item", movie_of)
        test = np.zeros(len(interactions), bool)
        test[published_rows(pairs, user, item, interactions, catalogue)] = True
        columns = [_translated(negatives, name, movie_of) for name in NEGATIVES]
        candidates = [row_numbers(negatives, tokens, catalogue.ids, "item") for tokens in columns]
        return hold_out(interactions, test, np.stack(candidates, axis=1).astype(np.int32))

    return divide


def _movies(folder: Path) -> dict[str, str]:
    """Return the movie id of every NCF item."""
    path = folder / "item_index.csv"
    table = read_delimited(_content(path), str(path), Layout())
    table.require(("ncf_item", "movie_id"))
    return dict(zip(table.keys("ncf_item"), table.keys("movie_id"), strict=True))


def _read(folder: Path, name: str, layout: Layout) -> Table:
    packed = folder / f"{name}.gz"
    path = packed if packed.is_file() else folder / name
    return read_delimited(_content(path), str(path), layout)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise FedrecError(f"{path}: no such file; NCF's split needs it")
    content = path.read_bytes()
    try:
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise FedrecError(f"{path}: truncated or damaged ({error}); fetch it again") from error


def _check(pairs: Table, negatives: Table, users: int) -> None:
    """Refuse files that do not name every user once, in order, and the same test pair."""
    numbers = pairs.numbers("user")
    if len(pairs) != users or len(negatives) != users:
        message = f"{len(pairs)} test pairs and {len(negatives)} rows of negatives for {users} users"
        raise FedrecError(f"{pairs.place(0)}: {message}; one of each is expected")
    shown = [f"({int(user)},{item})" for user, item in zip(numbers, pairs.texts("item"), strict=True)]
    for row, (pair, other) in enumerate(zip(shown, negatives.texts("pair"), strict=True)):
        if numbers[row] != row:
            raise FedrecError(f"{pairs.place(row)}: user {row} is expected, users in order from 0")
        if pair != other:
            raise FedrecError(f"{negatives.place(row)}: negatives of {other}; those of {pair} are expected")


def _translated(table: Table, column: str, movie_of: dict[str, str]) -> Tokens:
    """Return a column of NCF's items as movie ids."""
    tokens = table.tokens(column)
    for code, name in enumerate(tokens.names):
        if name not in movie_of:
            place = table.place(int(np.flatnonzero(tokens.codes == code)[0]))
            raise FedrecError(f"{place}: item {name} is not in item_index.csv; 0 to {len(movie_of) - 1} are")
    return Tokens(tokens.codes, tuple(movie_of[name] for name in tokens.names))


PUBLISHER_SPLIT = "publisher: test = ua.test, validation = the last in time of ua.base"
PARTS = ("ua.base", "ua.test")


def publisher_split(files: Files, layout: Layout) -> Callable[[Interactions, Catalogue], DeviceTable]:
    """Return what divides interactions by ua.base and ua.test, which must make them up together."""
    missing = [name for name in PARTS if not files.has(name)]
    if missing:
        message = f"{files.label(missing[0])}: no such file, and dataset.split=publisher needs it"
        raise FedrecError(f"{message}: take GroupLens' own archive, or dataset.split=leave-last-out")

    def divide(interactions: Interactions, catalogue: Catalogue) -> DeviceTable:
        tables = [read_delimited(files.read(name), files.label(name), layout) for name in PARTS]
        base, test = (published_rows(t, t.tokens("user"), t.tokens("item"), interactions, catalogue) for t in tables)
        if not np.array_equal(np.sort(np.concatenate([base, test])), np.arange(len(interactions))):
            raise FedrecError(
                f"{files.label(PARTS[0])}: with ua.test it does not make up u.data: fetch the archive again"
            )
        held = np.zeros(len(interactions), bool)
        held[test] = True
        return hold_out(interactions, held)

    return divide
