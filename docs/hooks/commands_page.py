"""Write the reference of the command line from the commands themselves."""

from collections.abc import Iterator

import click
import typer


def render(app: typer.Typer) -> str:
    """Return the page: every command with its help, its arguments and its options."""
    root = typer.main.get_command(app)
    parts = [BEFORE]
    for path, command in walk(root, ("fedrec",)):
        parts += [f"{'#' * min(len(path), 4)}# `{' '.join(path)}`" if len(path) > 1 else "", *_command(path, command)]
    return "\n\n".join(part for part in parts if part) + "\n"


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield the command and all below it, each with the words that call it; hidden ones are left out."""
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            if not child.hidden:
                yield from walk(child, (*path, name))


def _command(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(path))
    if not isinstance(command, click.Group):
        yield f"```text\n{' '.join([*path, *command.collect_usage_pieces(context)])}\n```"
    yield _clean(command.help or "")
    rows = [_row(parameter, context) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows and not isinstance(command, click.Group):
        yield "\n".join(["| | |", "|---|---|", *rows])


def _row(parameter: click.Parameter, context: click.Context) -> str:
    if isinstance(parameter, click.Option):
        metavar = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
        name, text = f"{', '.join(parameter.opts)}{metavar}", parameter.help or ""
        if parameter.default not in (None, False, [], ()) and not callable(parameter.default):
            text += f" (default: {parameter.default})"
    else:
        name, text = parameter.make_metavar(context), getattr(parameter, "help", None) or ""
    return f"| `{name}` | {_clean(text).replace('|', chr(92) + '|').replace(chr(10), ' ')} |"


def _clean(text: str) -> str:
    return text.replace("\b", "").replace("\f", "").strip()


BEFORE = """# Commands

`fedrec` alone shows what it can do; `--help` at any command shows its settings, choices and examples. This page is made
from the commands themselves.

**Settings.** Every command that runs something takes the same overrides, `key=value` and `group=choice`
([settings](settings/index.md)), and with them `--config-dir DIR` and `--allow PACKAGE`
([your own parts](../how_to/own_model.md)).

**Output.** What a person reads goes to standard output, progress to standard error. With `--json`, standard output is
JSON and nothing else.

**Exit status.** 0 is done; [all others](errors.md#exit-statuses)."""
