"""From the rows of a source to its data set: repaired, sorted, split, with its catalogue and its population.

Repairs are counted and stated; nothing else is ever dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue, position, texts
from fedrec.data.dataset import STRANGERS, Dataset, links_between, no_links
from fedrec.data.interactions import DeviceTable, Interactions
from fedrec.data.io.table import Tokens
from fedrec.data.sources import Rows, SourceOptions
from fedrec.data.splits import leave_last_out
from fedrec.errors import FedrecError

DUPLICATES = "exact duplicates (first kept)"
BELOW_THRESHOLD = "ratings below the threshold"
BELOW_MINIMUM = "users below the minimum"


@dataclass(frozen=True, slots=True)
class RepairLog:
    """`rows[n]` are the rows kept, in file order, `users[u]` the user codes kept; `repairs` what went and how many."""

    rows: NDArray[np.int64]
    users: NDArray[np.bool_]
    repairs: tuple[tuple[str, int], ...]


def repair(rows: Rows, threshold: float | None, minimum: int) -> RepairLog:
    """Drop exact duplicates, then ratings below the threshold, then users left with fewer rows than the minimum."""
    kept = np.setdiff1d(np.arange(len(rows)), duplicates(rows), assume_unique=True)
    found = [(DUPLICATES, len(rows) - len(kept))]
    if threshold is not None:
        if rows.value is None:
            no_ratings = "needs ratings, and none are read; a csv's stand in dataset.columns.value"
            raise FedrecError(f"{rows.place(0)}: dataset.threshold={threshold} {no_ratings}")
        enough = rows.value[kept] >= threshold
        found.append((BELOW_THRESHOLD, int((~enough).sum())))
        kept = kept[enough]
    users = np.bincount(rows.user.codes[kept], minlength=len(rows.user.names)) >= minimum
    found.append((BELOW_MINIMUM, int((~users).sum())))
    kept = kept[users[rows.user.codes[kept]]]
    return RepairLog(kept, users, tuple((what, count) for what, count in found if count))


def first_of_each_pair(rows: Rows) -> NDArray[np.int64]:
    """Return the rows, ascending, that are the first in time (ties: in the file) of their user and item."""
    time = np.zeros(len(rows)) if rows.time is None else rows.time
    pair = rows.user.codes * len(rows.item.names) + rows.item.codes
    order = np.lexsort((time, pair))  # stable: among equal times the first of the file stays first
    first = np.concatenate([[True], np.diff(pair[order]) != 0])
    return np.sort(order[first])


def duplicates(rows: Rows) -> NDArray[np.int64]:
    """Return the rows, ascending, that repeat an earlier one in user, item, time and value."""
    pair = rows.user.codes * len(rows.item.names) + rows.item.codes
    ordered = np.sort(pair)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return np.array([], np.int64)
    candidate = np.flatnonzero(np.isin(pair, repeated))
    zero = np.zeros(len(rows))
    time, value = (column if column is not None else zero for column in (rows.time, rows.value))
    keys = (pair[candidate], time[candidate], value[candidate])
    order = np.lexsort(keys)  # stable: among equal rows the first of the file stays first
    same = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    return np.sort(candidate[order[1:][same]])


Split = Callable[[Interactions, Catalogue], DeviceTable]
ORDER_SEED = 0
BY_TIME = "leave-last-out: test = last in time, validation = the one before, ties by file order"
BY_FILE = "leave-last-out by file order: the source has no time"
BY_CHANCE = f"leave-last-out on a seeded random order (seed {ORDER_SEED}): the source has no time"


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """How the rows of one source become a data set.

    Without a `catalogue` it is made of the items seen. Without `divide` the split is leave-last-out; `split` names
    it. `shuffled` says that the file's order means nothing, so that rows without time get a seeded random order.
    `dropped` are (what, how many) that the source itself left out, `read` the rows before it did, by which its
    population is known; `links` are two columns of linked users.
    """

    name: str
    catalogue: Catalogue | None = None
    divide: Split | None = None
    split: str | None = None
    shuffled: bool = False
    synthetic: bool = False
    dropped: tuple[tuple[str, int], ...] = ()
    read: Rows | None = None
    links: tuple[Tokens, Tokens] | None = None


def prepare_dataset(rows: Rows, settings: SourceOptions, plan: PrepareOptions) -> Dataset:
    """Return the data set of these rows; an item that the catalogue lacks is an error that names its line."""
    catalogue = plan.catalogue or seen(rows)
    kept = repair(rows, settings.threshold, settings.minimum)
    if not len(kept.rows):
        raise FedrecError(f"{rows.place(0)}: no interaction is left; lower dataset.minimum or dataset.threshold")
    interactions = _sorted(rows, kept, settings, catalogue, plan.shuffled)
    links, strangers = links_between(plan.links, interactions.user_ids) if plan.links else (no_links(), 0)
    repairs = (*plan.dropped, *kept.repairs, (STRANGERS, strangers))
    return Dataset(
        name=plan.name,
        population=settings.population or f"{plan.name}-{(plan.read or rows).digest()[:12]}",
        interactions=interactions,
        catalogue=catalogue,
        devices=plan.divide(interactions, catalogue) if plan.divide else leave_last_out(interactions),
        split=plan.split or (BY_TIME if rows.time is not None else BY_CHANCE if plan.shuffled else BY_FILE),
        repairs=tuple((what, count) for what, count in repairs if count),
        synthetic=plan.synthetic,
        links=links,
        clock=rows.clock,
    )


def seen(rows: Rows) -> Catalogue:
    """Return a catalogue of the items that the rows name, before any repair: its origin is "interactions"."""
    ids = [rows.item.names[n] for n in rows.item.order()]
    return Catalogue(texts(ids), texts(ids), position(len(ids)), ("position",), "interactions")


def unordered(rows: Rows) -> Catalogue:
    """Return a catalogue of the items seen, without features: for sources whose item numbers tell who came first."""
    made = seen(rows)
    return replace(made, features=np.empty((len(made), 0), np.float32), feature_names=())


def _item_rows(rows: Rows, catalogue: Catalogue) -> NDArray[np.int64]:
    """Return the catalogue row of every item code."""
    row_of = {str(item): n for n, item in enumerate(catalogue.ids)}
    for code, name in enumerate(rows.item.names):
        if name not in row_of:
            row = int(np.flatnonzero(rows.item.codes == code)[0])
            raise FedrecError(f"{rows.place(row)}: item '{name}' is not in the item file; every item stands there")
    return np.array([row_of[name] for name in rows.item.names], np.int64)


def _sorted(rows: Rows, kept: RepairLog, settings: SourceOptions, catalogue: Catalogue, shuffled: bool) -> Interactions:
    order = rows.user.order()
    order = order[kept.users[order]]
    user_rows = np.full(len(rows.user.names), -1)
    user_rows[order] = np.arange(len(order))
    user = user_rows[rows.user.codes[kept.rows]]
    time = np.zeros(len(user), np.int64) if rows.time is None else rows.time[kept.rows]
    rank = (
        np.random.default_rng(ORDER_SEED).permutation(len(rows))[kept.rows] if shuffled and rows.time is None else time
    )
    by_user = np.lexsort((rank, user))  # stable: rows of equal rank stay in file order
    implicit = rows.value is None or settings.threshold is not None
    value = np.ones(len(user)) if implicit or rows.value is None else rows.value[kept.rows]
    return Interactions(
        user=user[by_user].astype(np.int32),
        item=_item_rows(rows, catalogue)[rows.item.codes[kept.rows]][by_user].astype(np.int32),
        time=time[by_user],
        value=value[by_user].astype(np.float32),
        user_ids=texts(rows.user.names[n] for n in order),
        items=len(catalogue),
    )
