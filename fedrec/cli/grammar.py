"""How `fedrec` reads a command line: helps with settings and examples, nearest names, one line for each mistake."""

import contextlib
import inspect
import json
import re
import shlex
import shutil
import sys
from collections.abc import Generator, Sequence
from typing import Any, get_type_hints

import click
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from fedrec.errors import FedrecError, suggest

OF_NUMBERS, OF_WORDS = ("--seeds", "--epsilons", "--epsilon", "--values", "--clips"), ("--mechanisms",)
NUMBERS = re.compile(r"[\d.,e+-]+")
SETTINGS = "overrides"  # what the argument of a command that composes settings is called
OWN_META = "fedrec.own_parts"
OWN_PARTS = (
    ("config-dir", "DIR", "a folder of yaml files of yours, laid out like conf/ (repeatable)"),
    ("allow", "PACKAGE", "your package whose classes may be built (repeatable)"),
)
NOT_OURS = {  # Hydra's own options, and what does the same here
    **dict.fromkeys(("-m", "--multirun"), "a sweep is a study: fedrec study PLAN --values 1,2 (fedrec study --help)"),
    **dict.fromkeys(
        ("--cfg", "-c", "--info", "--resolve"), "fedrec config [key=value]... prints the resolved settings"
    ),
    **dict.fromkeys(("-cn", "-cp", "--config-path", "--config-name"), "fedrec config [key=value]... says what is set"),
}


class Command(TyperCommand):
    """A command whose epilog is its examples, one a paragraph; one that takes overrides lists what can be set.

    It takes parts of the user's own too: `--config-dir DIR` and `--allow PACKAGE` come first among its overrides.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        remember_helps(self)
        self.composes = any(parameter.name == SETTINGS for parameter in self.params)
        if self.composes:
            self.params += [
                TyperOption(param_decls=[f"--{name}"], multiple=True, metavar=metavar, help=text, expose_value=False,
                            callback=_keep, type=str)
                for name, metavar, text in OWN_PARTS
            ]  # fmt: skip

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; what brings parts of the user's own becomes overrides."""
        rest = super().parse_args(ctx, args)
        if own := ctx.meta.get(OWN_META):
            ctx.params[SETTINGS] = [*own, *(ctx.params.get(SETTINGS) or ())]
        return rest

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage, the options, the settings' groups with their choices and defaults, and the examples."""
        examples, self.epilog = examples_of(self), None
        super().format_help(ctx, formatter)
        if self.composes:
            formatter.write("\n".join(settings_help(shutil.get_terminal_size().columns)) + "\n\n")
        formatter.write(" Examples\n" + "".join(f"   {line}\n" for line in examples) if examples else "")
        self.epilog = "\n\n".join(examples)

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> click.Context:
        """Read the arguments; an option that does not exist is named, with the nearest one that does."""
        with plain_errors():
            return super().make_context(info_name, joined_lists(args), *more, **extra)


def remember_helps(command: click.Command) -> None:
    """Give the arguments of a command their helps again: click 8.5 forgets those that typer 0.20 gave them."""
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True) if command.callback else {}
    for parameter in command.params:
        for info in getattr(hints.get(parameter.name or ""), "__metadata__", ()):
            if isinstance(parameter, TyperArgument):
                parameter.help = info.help


def _keep(context: click.Context, parameter: click.Parameter, value: Sequence[str]) -> None:
    """Note what an option of a user's own parts was given, as overrides."""
    key = (parameter.name or "").replace("-", "_")
    context.meta.setdefault(OWN_META, []).extend(f"{key}={text}" for text in value)


class Group(TyperGroup):
    """A group that names the nearest command for one that does not exist, and shows its help where none is named."""

    fallback: str | None = None  # the command that takes what begins with no command's name

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage, the commands and the examples."""
        examples, self.epilog = examples_of(self), None
        super().format_help(ctx, formatter)
        formatter.write(" Try first\n" + "".join(f"   {line}\n" for line in examples) if examples else "")
        self.epilog = "\n\n".join(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take arguments; none at all asks for help."""
        if not args:
            args = ["--help"]
        elif self.fallback and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [self.fallback, *args]
        with plain_errors():
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the first argument."""
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            raise FedrecError(f"{ctx.command_path} {name}: no such command.{suggest(name, self.commands)}")
        with plain_errors():
            return super().resolve_command(ctx, args)


def joined_lists(args: Sequence[str]) -> list[str]:
    """Return the arguments with `--seeds 0 1 2` as `--seeds 0,1,2`: a list may be written with spaces too."""
    made, option, begun = list[str](), "", False
    for arg in args:
        value = option and "=" not in arg and not arg.startswith("-") and (option in OF_WORDS or NUMBERS.fullmatch(arg))
        if value and begun:
            made[-1] += f",{arg}"
            continue
        made.append(arg)
        begun = bool(value)
        option = option if value else arg if arg in (*OF_NUMBERS, *OF_WORDS) else ""
    return made


def examples_of(command: click.Command) -> list[str]:
    """Return the examples in the help of a command."""
    return [line for line in (command.epilog or "").split("\n\n") if line]


def examples(*lines: str) -> str:
    """Return the epilog that holds these examples."""
    return "\n\n".join(lines)


@contextlib.contextmanager
def plain_errors() -> Generator[None]:
    """Turn what click says of arguments into an error of ours, which names what is right."""
    try:
        yield
    except click.NoSuchOption as error:
        command = error.ctx.command_path if error.ctx else "fedrec"
        if hint := NOT_OURS.get(error.option_name):
            raise FedrecError(f"{command} {error.option_name}: {hint}") from None
        names = [
            name for one in (error.ctx.command.params if error.ctx else ()) for name in one.opts if name[:2] == "--"
        ]
        known = suggest(error.option_name, [*names, "--help"])
        raise FedrecError(f"{command} {error.option_name}: no such option.{known}") from None
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "fedrec"
        text = error.format_message().rstrip(".")
        raise FedrecError(f"{text[0].lower()}{text[1:]} ({command} --help shows what it takes)") from None


def settings_help(width: int) -> list[str]:
    """Return what can be set: each group's choices, its default first, and the settings of a whole run."""
    from fedrec.experiment.overrides import Conf

    conf = Conf.of()
    chosen = conf.choose({})
    lines = [" Settings (key=value; fedrec config [key=value]... prints all, and where each comes from)"]
    for group in conf.defaults:
        default = chosen[group]
        others = [choice for choice in conf.groups[group] if choice != default]
        lines += _wrapped(f"   {group}=", [f"{default or 'null'} (default)", *others], width)
    run_level = conf.run_level | {
        key: value for _, node in conf.layers({}) for key, value in node.items() if key in conf.run_level
    }
    plain = [f"{key}={json.dumps(value) if value is None or isinstance(value, bool) else value}"
             for key, value in run_level.items()]  # fmt: skip
    return [*lines, *_wrapped("   of a run:", plain, width)]


def _wrapped(head: str, words: Sequence[str], width: int) -> list[str]:
    lines, line = list[str](), f"{head:<17}"
    for word in words:
        if len(line) + len(word) + 1 > width and line.strip():
            lines.append(line.rstrip())
            line = " " * 17
        line += f"{word}  "
    return [*lines, line.rstrip()]


def run_command(command: click.Command, arguments: Sequence[str], name: str) -> None:
    """Run a command; a status that is not 0 is raised as SystemExit, a mistake as `FedrecError`."""
    try:
        with command.make_context(name, list(arguments), obj=tuple(arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        if ended.exit_code:
            raise SystemExit(ended.exit_code) from None


def typed() -> str:
    """Return the command line that is being carried out."""
    root = click.get_current_context().find_root()
    return f"{root.info_name} {shlex.join(root.obj)}"
