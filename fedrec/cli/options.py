"""What the commands share: overrides and their checks, comma lists, and how a stopped run goes on."""

import contextlib
import errno
import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Annotated, Any, Never, TypeVar, get_type_hints

import typer

from fedrec.cli.grammar import SETTINGS
from fedrec.errors import FedrecError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Interrupted(KeyboardInterrupt):
    """An interruption whose text says what goes on from here."""


def complete_typed(context: typer.Context, incomplete: str) -> list[str]:
    """Return the overrides that begin so.

    bash hands over what stands before and behind a "=" as words of their own, and click drops a "=" that stands last.
    """
    before = " ".join(context.params.get(SETTINGS) or ()).replace(" = ", "=").removesuffix(" =").split()
    group = before[-1] if before and "=" not in before[-1] else ""
    if not group:
        return complete_override(incomplete)
    return [text.removeprefix(f"{group}=") for text in complete_override(f"{group}={incomplete}")]


def complete_override(incomplete: str) -> list[str]:
    """Return the overrides that begin so: groups and keys, and a group's choices behind its "="."""
    from fedrec.experiment.overrides import Conf, flat

    conf = Conf.of()
    group, equals, _ = incomplete.partition("=")
    if equals:
        return [
            f"{group}={choice}" for choice in conf.groups.get(group, ()) if f"{group}={choice}".startswith(incomplete)
        ]
    keys = {key for _, node in conf.layers({}) for key in flat(node)} | conf.groups.keys()
    return sorted(f"{key}=" for key in keys if key.startswith(incomplete) and not key.endswith("_"))


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="settings, e.g. dataset=ml-100k privacy.epsilon=4",
        autocompletion=complete_typed,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="as JSON")]


def check_overrides(overrides: Sequence[str] | None) -> list[str]:
    """Return the overrides, with the columns of one's own file that can be told from its header.

    A key or a choice that does not exist is told from conf/ alone, before anything heavy.
    """
    from fedrec.experiment.extensions import split_overrides
    from fedrec.experiment.overrides import Conf

    given = list(overrides or ())
    settings, extensions = split_overrides(given)
    Conf.of(*extensions.config_dirs).check(settings)
    if "dataset=csv" not in given:
        return given
    from fedrec.experiment.own_file import guess_columns

    return [*given, *guess_columns(given)]


def tell_overruled(overrides: Sequence[str], of: str = "") -> None:
    """Say on stderr which overrides are read and then have no effect; `of` comes before each line."""
    from fedrec.experiment.automatic import load_chosen
    from fedrec.experiment.overrides import find_overruled

    for line in find_overruled(load_chosen(overrides).experiment, overrides):
        print(f"{of}{line}", file=sys.stderr)


def check_output(overrides: Sequence[str]) -> None:
    """Refuse a folder for runs that can't be written to, before anything heavy."""
    output = next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("output=")), "runs")
    here = Path(output).absolute()
    there = next(folder for folder in (here, *here.parents) if folder.exists())
    if not there.is_dir():
        raise FedrecError(f"{there} is no folder: runs lie in output=FOLDER")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FedrecError(f"{there} can't be written to: say where runs may lie with output=FOLDER")


Arguments = TypeVar("Arguments")


def taking(kind: type[Arguments]) -> Callable[[Callable[[Arguments], None]], Callable[..., None]]:
    """Let a command take its arguments as one value: the fields of a dataclass, annotated as typer reads parameters."""

    def decorate(command: Callable[[Arguments], None]) -> Callable[..., None]:
        def with_fields(**fields: Any) -> None:
            command(kind(**fields))

        with_fields.__doc__, with_fields.__annotations__ = command.__doc__, get_type_hints(kind, include_extras=True)
        with_fields.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
        return with_fields

    return decorate


def numbers(option: str, text: str | None) -> list[float] | None:
    """Return the numbers of "1,0.5"; None where the option was not given."""
    try:
        return None if text is None else [float(part) for part in words(text)]
    except ValueError:
        raise FedrecError(f"{option} {text}: numbers with commas expected, such as 1,0.5") from None


def whole_numbers(option: str, text: str | None) -> list[int] | None:
    """Return the whole numbers of "0,1"; None where the option was not given."""
    try:
        return None if text is None else [int(part) for part in words(text)]
    except ValueError:
        raise FedrecError(f"{option} {text}: whole numbers with commas expected, such as 0,1,2") from None


def words(text: str) -> list[str]:
    """Return the parts of "a,b"."""
    return [part.strip() for part in text.split(",") if part.strip()]


@contextlib.contextmanager
def reading_shown() -> Generator[None]:
    """Show on stderr how far the reading of a large data set inside is."""
    from fedrec.data.stages import telling
    from fedrec.report.console import Progress

    progress = Progress()
    try:
        with telling(progress.stage):
            yield
    finally:
        progress.close(wipe=True)


@contextlib.contextmanager
def going_on(folder: Path, command: str) -> Generator[None]:
    """Say, where what runs inside is interrupted or finds no space left, which command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; what is done is kept: {command} goes on") from None
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        no_space(error, folder, command)


def no_space(error: OSError, folder: Path, command: str) -> Never:
    """Say where there is no space, how much is needed as far as that is known, and what goes on."""
    where = Path(str(error.filename or folder)).absolute()
    there = next(path for path in (where, *where.parents) if path.exists())
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    so_far = f"; the run has written {used / 2**20:,.1f} MiB so far" if used else ""
    free = shutil.disk_usage(there).free / 2**20
    raise FedrecError(
        f"{where}: no space left on device ({free:,.1f} MiB free{so_far}): free space, then {command}"
    ) from error


def print_json(value: Any) -> None:
    """Print a value for programs."""
    print(json.dumps(value, indent=2))
