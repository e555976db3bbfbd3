"""Where the Flower apps, the settings, ledgers and their anchors lie; light, for devices too.

Ledgers and their anchors lie outside the run folders, so that deleting a run refunds nothing.
"""

import os
from pathlib import Path
from urllib.parse import quote, unquote

from fedrec.errors import FedrecError


def app_dir() -> Path:
    """Return the folder that `flwr run` takes, with conf/, server/ and client/: the wheel's, else the checkout."""
    package = Path(__file__).parent
    # The wheel's comes first: what lies beside an installed package is somebody else's.
    return package / "app" if (package / "app").exists() else package.parent


def conf_dir() -> Path:
    """Return the folder of the settings' groups and defaults."""
    return app_dir() / "conf"


def state_dir() -> Path:
    """Return the folder of what outlives runs: FEDREC_STATE, else the platform's."""
    if named := os.environ.get("FEDREC_STATE"):
        return Path(named)
    from platformdirs import user_state_dir  # a device says itself where its ledger lies

    return Path(user_state_dir("fedrec"))


def cache_dir() -> Path:
    """Return the folder of what can be made again, such as compiled code: FEDREC_CACHE, else the platform's."""
    if named := os.environ.get("FEDREC_CACHE"):
        return Path(named)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("fedrec"))


def ledger_path(population: str) -> Path:
    """Return the file of a population's ledger; two populations never share one."""
    if not population:
        raise FedrecError("dataset.population is empty: the ledger needs to know whose privacy is spent")
    return state_dir() / "ledger" / f"{quote(population, safe='@+ ')}.sqlite"


def populations() -> list[str]:
    """Return the names of the populations that have a ledger here."""
    return sorted(population_of(path) for path in (state_dir() / "ledger").glob("*.sqlite"))


def population_of(path: Path) -> str:
    """Return whose ledger a file is."""
    return unquote(path.name.removesuffix(".sqlite"))


def anchor_path(ledger: Path) -> Path:
    """Return where the anchor of a ledger file lies: in FEDREC_ANCHORS, else in `anchors/` of the state folder."""
    folder = os.environ.get("FEDREC_ANCHORS")
    return (
        Path(folder) if folder else ledger.parent.parent / "anchors"
    ) / f"{ledger.name.removesuffix('.sqlite')}.anchor"
