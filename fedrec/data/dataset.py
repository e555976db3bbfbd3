"""A loaded source: its interactions, its catalogue, and what was repaired on the way."""

from dataclasses import dataclass, field
from typing import Protocol

from fedrec.data.catalogue import Catalogue
from fedrec.data.devices import DeviceTable
from fedrec.data.interactions import FlatInteractions, Interactions
from fedrec.data.links import Links, no_links


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a source gives: `population` names the users whose privacy is spent (name and hash of the source).

    `repairs` are (what, how many rows or users) pairs, stated to the user; `split` names the rule in full. `links[n]`
    are two rows of users, the first a friend of the second or trusting it: as personal as interactions are.
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
    nominal_interactions: int | None = None  # where nobody can count them: real devices

    @property
    def published_interactions(self) -> int:
        """How many interactions the public plan says there are."""
        return len(self.interactions) if self.nominal_interactions is None else self.nominal_interactions


class Source(Protocol):
    """A data set that can be loaded: one file under `datasets/` and one yaml under conf/dataset."""

    def load(self) -> Dataset:
        """Read, check, repair and split; raise `FedrecError` with file and line where the source is wrong."""
        ...
