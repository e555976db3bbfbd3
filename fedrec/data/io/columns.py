"""Which column of a user's file plays which part."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedrec.errors import FedrecError, nearest

ROLES = ("user", "item", "time", "value")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; None where the file has no such column: every value is then 1, file order counts as time."""

    user: str
    item: str
    time: str | None
    value: str | None

    def settings(self) -> dict[str, str]:
        """Return which setting names which column, for those that are set."""
        named = {role: getattr(self, role) for role in ROLES}
        return {column: f"dataset.columns.{role}" for role, column in named.items() if column}


def mapped(given: Mapping[str, str | None] | None, default: Columns) -> Columns:
    """Return the default with what the user maps otherwise; an unknown part is an error, so is no user or item."""
    names: dict[str, str | None] = {role: getattr(default, role) for role in ROLES}
    for role, column in (given or {}).items():
        if role not in names:
            raise FedrecError(f"dataset.columns.{role}: no such part.{nearest(role, ROLES)}")
        names[role] = column
    user, item = names["user"], names["item"]
    if not user or not item:
        raise FedrecError("dataset.columns.user and dataset.columns.item must each name a column")
    return Columns(user, item, names["time"], names["value"])
