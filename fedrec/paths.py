"""Where the Flower apps and `conf/` lie, and how to import them; light, for devices too."""

import sys
from pathlib import Path


def app_folder() -> Path:
    """Return the folder with `conf/`, `server/` and `client/`: beside the package in a checkout, else inside it."""
    package = Path(__file__).parent
    beside = package.parent
    return beside if (beside / "conf" / "config.yaml").exists() else package / "app"


def put_app_on_path() -> None:
    """Make `server`, `client` and `simulations` importable, as Flower does with an app bundle."""
    folder = str(app_folder())
    if folder not in sys.path:
        sys.path.insert(0, folder)
