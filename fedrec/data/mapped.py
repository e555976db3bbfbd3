"""The rows of a table by a mapping of its columns: which events of them are read, and which columns nobody reads."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fedrec.data.facts import Finding
from fedrec.data.io.table import ROLES, ColumnMapping, Table, Tokens
from fedrec.data.sources import Rows, SourceOptions, rows_of
from fedrec.errors import FedrecError, suggest

INCOMPLETE = "rows without a user, item, time or value"
SAMPLE = 100_000  # rows in which the values of a column that is not read are looked at
FEW = 12  # different values, from which on a column is no kind of event
EVENTS = {
    "view", "pageview", "pv", "detailview", "click", "impression", "cart", "addtocart", "basket", "fav", "favorite",
    "wishlist", "purchase", "buy", "bought", "transaction", "order", "sale", "like", "share", "rate", "rating", "play",
    "listen", "watch", "skip", "search", "removefromcart", "remove",
}  # fmt: skip
NUMBER = re.compile(r"[-+]?(\d+[.,]?\d*|[.,]\d+)")
STRONG = ("purchase", "buy", "bought", "transaction", "order", "sale", "play", "listen", "watch", "like", "click",
          "up", "thumbsup", "yes", "true", "positive")  # fmt: skip
EVENT_NAMES = {"event", "eventtype", "eventname", "action", "actiontype", "behavior", "behaviour", "behaviortype"}
RATING_NAMES = {"rating", "ratings", "score", "stars", "star", "overall", "bewertung", "note", "vote", "label",
                "feedback", "click", "clicked", "isclick", "like", "liked", "islike", "thumb", "thumbs", "sentiment",
                "recommended", "isrecommended"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source was read: `form` in words, which column plays which part, and the names of those that play none."""

    form: str
    columns: Mapping[str, str]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MappedRows:
    """The rows `chosen` of all that were `read`; `dropped` says what the others were, `findings` what is suspicious."""

    read: Rows
    chosen: Rows
    dropped: tuple[tuple[str, int], ...]
    reading: Reading
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class MappedSource(SourceOptions):
    """A source whose `columns` the user may name, by their parts.

    `events` keeps the rows whose column `columns.event` holds one of these: "purchase,cart". With weights,
    "purchase:5,cart:2", these are the values of the rows; repeats=count adds them up.
    """

    columns: Mapping[str, str | None] | None = None
    events: str | None = None


def map_rows(table: Table, columns: ColumnMapping, events: str | None, whole: Table | None = None) -> MappedRows:
    """Return the rows of a table by its columns; events that are asked for and not there are an error.

    `whole` has also the columns that nobody reads, in as many rows as the file has.
    """
    whole = whole or table
    rows = rows_of(table, columns.user, columns.item, columns.time, columns.value)
    played = {role: column for role in ROLES if (column := getattr(columns, role))}
    unread = tuple(name for name in whole.columns if name not in played.values())
    chosen, dropped = rows, tuple[tuple[str, int], ...]()
    if events and not columns.event:
        raise FedrecError(f"dataset.events={events}: which column holds the event? dataset.columns.event=COLUMN")
    if columns.event:
        chosen, dropped = choose_events(rows, table.tokens(columns.event), columns, parse_events(events))
    findings = [one for name in unread if (one := suspect_unread(whole, name, columns)) is not None]
    return MappedRows(rows, chosen, dropped, Reading("", played, unread), tuple(findings))


def parse_events(events: str | None) -> dict[str, float | None]:
    """Return each event of "purchase:5,cart" with its weight, None where it has none: all or none have one."""
    found = dict[str, float | None]()
    for word in (word.strip() for word in (events or "").split(",") if word.strip()):
        name, colon, weight = word.rpartition(":")
        try:
            found[name.strip() if colon else word] = float(weight) if colon else None
        except ValueError:  # a colon of the event's own
            found[word] = None
    if len({weight is None for weight in found.values()}) > 1:
        raise FedrecError(f"dataset.events={events}: give each event a weight (purchase:5,cart:2), or none")
    return found


def choose_events(
    rows: Rows, tokens: Tokens, columns: ColumnMapping, wanted: Mapping[str, float | None]
) -> tuple[Rows, tuple[tuple[str, int], ...]]:
    """Return the rows of the wanted events, weighed, and how many there were of each other; all where none is named."""
    column = str(columns.event)
    for event in wanted:
        if event not in tokens.names:
            raise FedrecError(f"{rows.place(0)}: no row has {column}={event}.{suggest(event, tokens.names)}")
    if not wanted:
        return rows, ()
    if columns.value and None not in wanted.values():
        raise FedrecError(
            "dataset.events has weights, and dataset.columns.value names ratings: one of them is the value"
        )
    counts = np.bincount(tokens.codes, minlength=len(tokens.names))
    kept = np.flatnonzero(np.array([name in wanted for name in tokens.names])[tokens.codes])
    dropped = tuple(
        (f"rows with {column}={name}", int(counts[n])) for n, name in enumerate(tokens.names) if name not in wanted
    )
    chosen = rows.chosen(kept)
    if None not in wanted.values():
        weight = np.array([wanted.get(name) or 0.0 for name in tokens.names])
        chosen = chosen.valued(weight[tokens.codes[kept]])
    return chosen, dropped


def suspect_unread(table: Table, name: str, columns: ColumnMapping) -> Finding | None:
    """Return what a column that is not read may have been meant for; None where nothing looks like it."""
    plain = "".join(letter for letter in name.partition(":")[0].lower() if letter.isalnum())
    values = sample(table, name)
    rated = plain in RATING_NAMES and columns.value is None
    if rated and all(NUMBER.fullmatch(value.strip()) for value in values if value):
        return Finding(
            f"column '{name}' is not read: all rows count alike", f"dataset.columns.value={name} reads ratings"
        )
    words = {"".join(letter for letter in value.lower() if letter.isalpha()): value for value in values}
    known = words.keys() & EVENTS
    if (
        columns.event
        or len(values) > FEW
        or len(values) < 2
        or not (rated or plain in EVENT_NAMES or 2 * len(known) >= len(words))
    ):
        return None
    best = next((words[word] for word in STRONG if word in words), values[-1])
    shown = ", ".join(values)
    return Finding(
        f"column '{name}' ({len(values)} values: {shown}) is not read: all rows count alike",
        f"dataset.columns.event={name} dataset.events={best} keeps the rows of one",
    )


def sample(table: Table, name: str) -> list[str]:
    """Return the different values, as text, of the first rows of a column, in the order in which they come."""
    column: Any = table.columns[name]
    if pa.types.is_temporal(column.type) or pa.types.is_nested(column.type):  # no room in Python, or no single values
        return []
    return [str(value) for value in column.slice(0, SAMPLE).unique().to_pylist() if value is not None]
