"""What a file of one's own tells of how it is written and of its columns, as settings, where nobody says so."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fedrec.data.io.files import FileOptions
from fedrec.data.propose import ask, decimal_commas, found_settings, propose, read_head
from fedrec.experiment.overrides import Override


def options_of(settings: Mapping[str, str]) -> FileOptions:
    """Return how a file is written by settings as they were typed; what they mean is checked where it is read."""
    typed: dict[str, Any] = dict(settings)
    if str(typed.get("skip")).isdecimal():
        typed["skip"] = int(typed["skip"])
    return FileOptions(**typed)


def guess_columns(overrides: Sequence[str]) -> list[str]:
    """Return settings for the columns of a file that have another name than the default, and say so.

    What the first rows don't tell is an error that asks for all of it at once.
    """
    given = {one.key: one.content for one in map(Override.parse, overrides) if one.key.startswith("dataset.")}
    path, start = given.get("dataset.path", ""), "dataset.columns."
    told = {name: given.get(f"dataset.{name}", "null") for name in FileOptions.__dataclass_fields__}
    options = {name: value for name, value in told.items() if value != "null"}
    if not path:
        return []
    if options.get("layout") == "lists" and f"{start}time" not in given:
        return [f"{start}time=null"]  # a line of items has their order, and no times
    known = {key.removeprefix(start): None if name == "null" else name for key, name in given.items() if start in key}
    named = any(name and not name.isdecimal() for name in known.values())
    more = found_settings(path, options_of(options), named)
    lists = more.get("layout") == "lists"
    head = {} if lists else read_head(path, options_of(options | more))
    if "decimal" not in options and decimal_commas(head):
        more["decimal"] = "comma"
        head = {name: [value.replace(",", ".") for value in values] for name, values in head.items()}
    settings = [f"dataset.{name}={value}" for name, value in more.items()]
    if settings:
        print(f"found: {' '.join(settings)}; what you set yourself wins", file=sys.stderr)
    if lists:
        return [*settings, *([] if "time" in known else [f"{start}time=null"])]
    found = propose(head, known) if len(head) > 1 else None
    if found is None:
        return settings
    if found.unsure:
        raise ask(path, head, found, settings)
    if found.columns:
        print(f"columns: {found.told()}; dataset.columns.*=COLUMN chooses others", file=sys.stderr)
    columns = [f"{start}{part}={'null' if column is None else column}" for part, column in found.columns.items()]
    return [*settings, *columns]
