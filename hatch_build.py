"""What the wheel holds besides the package: the Flower apps and the settings, as data under fedrec/app.

An editable install gets none of it. Its apps are those of the checkout, and a folder `fedrec` among the installed
packages would hide the package itself.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

APP = ("server", "client", "conf", "pyproject.toml", "LICENSE", "README.md")


class AppHook(BuildHookInterface[Any]):
    """Adds the app's files to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Say which files go where, unless the install is editable."""
        if version != "editable":
            build_data["force_include"] |= {name: f"fedrec/app/{name}" for name in APP}
