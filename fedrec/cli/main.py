"""The `fedrec` command.

Exit statuses, the same for every command:

| status | meaning |
|---|---|
| 0 | done |
| 1 | an audit contradicts the claim, a ledger was tampered with, or Flower's own command failed |
| 2 | a mistake that the message names (what was wrong, where, what would be right), a refusal, or a failed trial |
| 130 | interrupted; the message names the command that goes on |
| 141 | whoever read the output has gone (`| head`): nothing is said |
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

# Nothing calls home: set before anything of Flower or Ray is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from typing import Annotated

import typer

from fedrec.cli import client, data, new, privacy, results, server, simulate, study
from fedrec.cli.grammar import Group, examples, run_command
from fedrec.cli.options import NO_SPACE
from fedrec.errors import FedrecError

LEFT_OUT = {"torch", "hydra", "omegaconf", "scipy", "dp_accounting", "opacus", "pyarrow", "yaml"}  # by install-edge
BROKEN_PIPE = 128 + 13  # what a shell says of a command that SIGPIPE ended

app = typer.Typer(
    name="fedrec",
    cls=Group,
    help="Private federated recommenders: simulate, study and deploy them.",
    epilog=examples("fedrec simulate", "fedrec recommend --likes 'Toy Story, Heat'"),
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="the version of fedrec", is_eager=True)] = False,
) -> None:
    """Private federated recommenders: simulate, study and deploy them."""
    if version:
        print(f"fedrec {metadata.version('fedrec')}")
        raise typer.Exit


simulate.add_to(app)
app.add_typer(study.app, rich_help_panel="Experiments")
app.add_typer(data.app, rich_help_panel="Experiments")
results.add_to(app)
app.add_typer(new.app, rich_help_panel="Experiments")
app.add_typer(privacy.app, rich_help_panel="Privacy")
app.add_typer(server.app, rich_help_panel="Real devices")
app.add_typer(client.app, rich_help_panel="Real devices")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's error is one line on standard error and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a locale without a letter is no reason to fail
    command = typer.main.get_command(app)
    if "_FEDREC_COMPLETE" in os.environ:
        command.main(prog_name="fedrec")
    guarded(lambda: run_command(command, sys.argv[1:] if arguments is None else arguments, "fedrec"))


def guarded(command: Callable[[], None]) -> None:
    """Run a command; what went wrong becomes one line and a status."""
    try:
        command()
    except FedrecError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in LEFT_OUT:
            raise
        fail(f"this needs {error.name}, which make install-edge leaves out: make install brings it")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the flush at the end finds a reader
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        space = "; free space and try again" if error.errno in NO_SPACE else ""
        fail(f"{error.filename or 'the system'}: {error.strerror or error}{space}")
    except KeyboardInterrupt as error:
        print(f"\nfedrec: {error or 'interrupted'}", file=sys.stderr)
        raise SystemExit(130) from None


def fail(text: str) -> None:
    """Say what went wrong on standard error, in one line, and end with status 2."""
    print(f"fedrec: {text}", file=sys.stderr)
    raise SystemExit(2) from None
