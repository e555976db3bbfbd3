"""NCF's published split of MovieLens 1M (He et al. 2017, arXiv:1708.05031): one test item and 99 negatives a user."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.devices import DeviceTable
from fedrec.data.interactions import Interactions
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.table import Table, Tokens
from fedrec.data.splits import hold_out, published_rows, row_numbers
from fedrec.errors import FedrecError

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
