"""From the rows of a source to its data set: repaired, sorted, split, with its catalogue and its population."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue, position, texts
from fedrec.data.dataset import STRANGERS, Dataset, links_between, no_links
from fedrec.data.facts import Facts, Finding, look_at, suspect, suspect_times
from fedrec.data.interactions import DeviceTable, Interactions
from fedrec.data.io.columns import release_columns
from fedrec.data.io.table import Tokens
from fedrec.data.mapped import MappedRows, Reading
from fedrec.data.ordering import gather, order_by
from fedrec.data.repairs import RepairLog, repair
from fedrec.data.sources import Rows, SourceOptions
from fedrec.data.splits import leave_last_out
from fedrec.data.stages import tell
from fedrec.errors import FedrecError

Split = Callable[[Interactions, Catalogue], DeviceTable]
ORDER_SEED = 0
BY_TIME = "leave-last-out: test = last in time, validation = the one before, ties by file order"
BY_FILE = "leave-last-out by file order"
BY_CHANCE = f"leave-last-out on a seeded random order (seed {ORDER_SEED})"
NO_TIME = ": the source has no time"
ALL_TIED = ": no user's times tell which row came last"


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """How the rows of one source become a data set.

    Without a `catalogue` it is made of the items seen. Without `divide` the split is leave-last-out; `split` names
    it. `shuffled` says that the file's order means nothing, so that rows without time get a seeded random order where
    none is asked for.
    `dropped` are (what, how many) that the source itself left out, `read` the rows before it did, by which its
    population is known; `links` are two columns of linked users. `reading` and `findings` are what its
    reader has to say.
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
    findings: tuple[Finding, ...] = ()
    reading: Reading | None = None


def prepare_dataset(rows: Rows, settings: SourceOptions, plan: PrepareOptions) -> Dataset:
    """Return the data set of these rows; an item that the catalogue lacks is an error that names its line."""
    catalogue, order = plan.catalogue or seen(rows), choose_order(rows, settings.order, plan.shuffled)
    interactions, kept = _repaired(rows, settings, catalogue, order)
    devices = plan.divide(interactions, catalogue) if plan.divide else leave_last_out(interactions)
    devices = replace(devices, repeats=settings.repeats == "all" and kept.repeats.rows > 0)
    facts = look_at(rows, order, interactions, devices, kept.repeats)
    times = [] if rows.time is None else suspect_times(rows.time, rows.clock, time.time())
    links, strangers = links_between(plan.links, interactions.user_ids) if plan.links else (no_links(), 0)
    repairs = (*plan.dropped, *kept.repairs, (STRANGERS, strangers))
    return Dataset(
        name=plan.name,
        population=settings.population or f"{plan.name}-{(plan.read or rows).digest()[:12]}",
        interactions=interactions,
        catalogue=catalogue,
        devices=devices,
        split=plan.split or describe_split(facts, rows.time is not None),
        repairs=tuple((what, count) for what, count in repairs if count),
        synthetic=plan.synthetic,
        links=links,
        clock=rows.clock,
        facts=facts,
        findings=(*plan.findings, *suspect(facts, settings.threshold, settings.repeats), *times),
        reading=plan.reading,
    )


def _repaired(rows: Rows, settings: SourceOptions, catalogue: Catalogue, order: str) -> tuple[Interactions, RepairLog]:
    user_row = public_rows(rows.user)
    rank = [rows.time] if order == "time" and rows.time is not None else []
    if order == "random":
        rank = [np.random.default_rng(ORDER_SEED).permutation(len(rows))]
    tell("ordering", 0, len(rows))
    kept = repair(rows, settings, order_by(user_row[rows.user.codes], *rank))
    del rank
    if not len(kept.rows):
        raise FedrecError(f"{rows.place(0)}: no interaction is left; lower dataset.minimum or dataset.threshold")
    interactions = _sorted(rows, kept, user_row, catalogue, settings)
    if order != "time":
        interactions = replace(interactions, time=np.zeros_like(interactions.time))
    return interactions, replace(kept, rows=kept.rows[:0], value=None)


def prepare_mapped(mapped: MappedRows, settings: SourceOptions, plan: PrepareOptions, form: str) -> Dataset:
    """Return the data set of a table's rows, which was written as `form` says.

    The population is that of all rows, whichever events are chosen.
    """
    release_columns()
    told = replace(
        plan,
        dropped=(*plan.dropped, *mapped.dropped),
        read=mapped.read,
        findings=(*plan.findings, *mapped.findings),
        reading=replace(mapped.reading, form=form),
    )
    return prepare_dataset(mapped.chosen, settings, told)


def choose_order(rows: Rows, asked: str | None, shuffled: bool) -> str:
    """Return what a user's rows are ordered by: "time", "file" or "random"; a time that is not there is an error."""
    if asked == "time" and rows.time is None:
        raise FedrecError(f"{rows.place(0)}: dataset.order=time needs times, and none are read: dataset.columns.time")
    return asked or ("time" if rows.time is not None else "random" if shuffled else "file")


def describe_split(facts: Facts, timed: bool) -> str:
    """Return the rule of leave-last-out, which is called last in time only where times tell."""
    if facts.order == "random":
        return BY_CHANCE if timed else BY_CHANCE + NO_TIME
    if facts.order == "file":
        return BY_FILE if timed else BY_FILE + NO_TIME
    if facts.undecided == facts.tested:
        return BY_FILE + ALL_TIED if facts.tested else BY_TIME
    if 2 * facts.undecided >= facts.tested:
        return f"{BY_FILE} for {facts.undecided:,} of {facts.tested:,} users, whose last times are equal, else by time"
    return BY_TIME


def seen(rows: Rows) -> Catalogue:
    """Return a catalogue of the items that the rows name, before any repair: its origin is "interactions"."""
    ids = [rows.item.names[n] for n in rows.item.order()]
    return Catalogue(texts(ids), texts(ids), position(len(ids)), ("position",), "interactions")


def unordered(rows: Rows) -> Catalogue:
    """Return a catalogue of the items seen, without features: for sources whose item numbers tell who came first."""
    made = seen(rows)
    return replace(made, features=np.empty((len(made), 0), np.float32), feature_names=())


def _item_rows(rows: Rows, catalogue: Catalogue) -> NDArray[np.int32]:
    """Return the catalogue row of every item code."""
    row_of = {str(item): n for n, item in enumerate(catalogue.ids)}
    for code, name in enumerate(rows.item.names):
        if name not in row_of:
            row = int(np.flatnonzero(rows.item.codes == code)[0])
            raise FedrecError(f"{rows.place(row)}: item '{name}' is not in the item file; every item stands there")
    return np.array([row_of[name] for name in rows.item.names], np.int32)


def public_rows(users: Tokens) -> NDArray[np.int32]:
    """Return the place in public order of every user code."""
    place = np.empty(len(users.names), np.int32)
    place[users.order()] = np.arange(len(place))
    return place


def _sorted(
    rows: Rows, kept: RepairLog, user_row: NDArray[np.int32], catalogue: Catalogue, settings: SourceOptions
) -> Interactions:
    """Return the rows that are kept, users that are left counted anew in the same order."""
    names = np.empty(len(user_row), object)
    names[user_row] = rows.user.names
    left = np.zeros(len(user_row), bool)
    left[user_row] = kept.users
    row, renumbered = kept.rows, (np.cumsum(left, dtype=np.int32) - 1)[user_row].astype(np.int32)
    value = None if settings.threshold is not None else kept.value
    return Interactions(
        user=renumbered[gather(rows.user.codes, row)],
        item=_item_rows(rows, catalogue)[gather(rows.item.codes, row)],
        time=np.zeros(len(row), np.int64) if rows.time is None else gather(rows.time, row),
        value=np.ones(len(row), np.float32) if value is None else value,
        user_ids=texts(names[left]),
        items=len(catalogue),
    )
