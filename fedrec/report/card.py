"""The privacy card of a run, with what the run itself knows beside its mechanism, as JSON and as a page."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from fedrec import __version__
from fedrec.checkpoint import write_durably
from fedrec.folder import RunFolder
from fedrec.privacy.card import Facts, card
from fedrec.privacy.card_page import page
from fedrec.privacy.ledger import Ledger

if TYPE_CHECKING:
    from fedrec.session import Session

SIZES = "numbers of users and interactions are those of the data set as published or counted, assumed public"
SELECTION = "settings were chosen on exact validation figures, if at all: epsilon excludes selection"
BESIDE = (
    "no exact loss, metric, count or id. In a simulation the experimenter holds the data anyway: metrics.json and "
    "exact/ hold exact figures, which epsilon does not cover"
)
NO_AUDIT = "none of this run: `fedrec audit RUN` measures its mechanism"


def card_of(session: "Session") -> dict[str, Any]:
    """Return the privacy card of a run."""
    return card(session.experiment.mechanism, session.plan, cast(Ledger, session.ledger), facts(session))


def facts(session: "Session") -> Facts:
    """Return what the card says of the data, of choices and of the code."""
    catalogue = f"catalogue: {vocabulary(session.dataset.catalogue.origin)}"
    code = f"fedrec {__version__}, torch {version('torch')}, experiment {session.experiment.hash[:16]}"
    return Facts(released=BESIDE, choices=(catalogue, SIZES, SELECTION), audit=NO_AUDIT, code=code)


def write_card(folder: RunFolder, made: dict[str, Any]) -> None:
    """Write the card as privacy_card.json and, for readers, as privacy_card.md."""
    folder.write_json("privacy_card.json", made)
    write_durably(folder.path / "privacy_card.md", page(made, folder.path.name).encode())


def vocabulary(origin: str) -> str:
    """Return what the card says of where the list of items comes from."""
    return origin if origin == "item file" else "taken from interactions, assumed public"
