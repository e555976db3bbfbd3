"""A loaded data set: its interactions, its catalogue, its social links, and what was repaired on the way."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.data.clock import NO_CLOCK, Clock
from fedrec.data.interactions import DeviceTable, FlatInteractions, Interactions

if TYPE_CHECKING:
    from fedrec.data.facts import Facts, Finding
    from fedrec.data.io.table import Table, Tokens
    from fedrec.data.mapped import Reading

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


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a source gives: `population` names the users whose privacy is spent (name and hash of the source).

    `repairs` are (what, how many rows or users) pairs, stated to the user; `split` names the rule in full. `links[n]`
    are two rows of users, the first a friend of the second or trusting it: as personal as interactions are. `clock`
    says what the times of the interactions are. `facts` and `findings` are what was seen in the rows, where
    there are any: exact, for whoever holds them. `reading` says how a file of the user's own was read.
    """

    name: str
    population: str
    interactions: Interactions | FlatInteractions
    catalogue: Catalogue
    devices: DeviceTable
    split: str
    repairs: tuple[tuple[str, int], ...] = ()
    synthetic: bool = False
    links: Links = field(default_factory=no_links)
    clock: Clock = NO_CLOCK
    nominal_interactions: int | None = None  # where nobody can count them: real devices
    facts: "Facts | None" = None
    findings: "tuple[Finding, ...]" = ()
    reading: "Reading | None" = None

    @property
    def known_targets(self) -> int:
        """How many test rows hold an item that their user had used before: none unless repeats are kept."""
        return self.facts.known_targets if self.facts else self.devices.count_known_targets()

    @property
    def published_interactions(self) -> int:
        """How many interactions the public plan says there are."""
        return len(self.interactions) if self.nominal_interactions is None else self.nominal_interactions


class DataSource(Protocol):
    """A data set that can be loaded: one file under `datasets/` and one yaml under conf/dataset."""

    def load(self) -> Dataset:
        """Read, check, repair and split; raise `FedrecError` with file and line where the source is wrong."""
        ...
