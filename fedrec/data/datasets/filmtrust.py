"""FilmTrust: ratings of films, and who trusts whom (Guo, Zhang and Yorke-Smith 2013)."""

from dataclasses import dataclass
from typing import ClassVar

from fedrec.data.dataset import Dataset
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.links import pairs
from fedrec.data.prepare import Plan, assemble, unordered
from fedrec.data.provided import Provided
from fedrec.data.sources import rows_of


@dataclass(frozen=True, kw_only=True)
class FilmTrust(Provided):
    """35,497 ratings, 0.5 to 4, of 1,508 users on 2,071 films; 1,853 statements of trust as directed links.

    There is no time, and films are numbered in the order in which the file first names them: the number says who
    rated the film first. So what is held out follows a seeded random order, and the number is no feature.
    """

    name: ClassVar[str] = "filmtrust"
    needed: ClassVar[tuple[str, ...]] = ("ratings.txt",)
    publisher: ClassVar[str] = "its authors, as ratings.txt and trust.txt"

    def load(self) -> Dataset:
        """Read ratings.txt, and trust.txt where it is there."""
        files, needed = self.files()
        layout = Layout(" ", columns=("user", "item", "rating"))
        table = read_delimited(files.read(needed), files.label(needed), layout)
        rows = rows_of(table, "user", "item", None, "rating")
        links = None
        if files.has("trust.txt"):
            columns = Layout(" ", columns=("user", "trusted", "trust"))
            trust = read_delimited(files.read("trust.txt"), files.label("trust.txt"), columns)
            links = pairs(trust, "user", "trusted")
        return assemble(rows, self, Plan(self.name, unordered(rows), shuffled=True, links=links))
