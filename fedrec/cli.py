"""The `fedrec` command."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

# Nothing calls home: set before anything of Flower or Ray is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from fedrec import __version__
from fedrec.errors import FedrecError

if TYPE_CHECKING:
    from fedrec.nodes import Nodes


def parser() -> argparse.ArgumentParser:
    """Return the command's grammar."""
    root = argparse.ArgumentParser(prog="fedrec", description="Private federated recommenders.")
    root.add_argument("--version", action="version", version=f"fedrec {__version__}")
    commands = root.add_subparsers(dest="command", required=True)
    simulate = commands.add_parser("simulate", help="train and evaluate on this machine")
    simulate.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. dataset=ml-100k privacy.epsilon=4")
    simulate.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    simulate.add_argument("--json", action="store_true", help="print metrics.json instead of the table")
    data = commands.add_parser("data", help="data sets: list, get, check")
    actions = data.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="what there is, and how to get it")
    listing.add_argument("--json", action="store_true", help="as JSON")
    for name, text in (("get", "download what is missing"), ("check", "load, check and split, and say what was found")):
        action = actions.add_parser(name, help=text)
        action.add_argument("dataset", help="a name from `fedrec data list`")
        action.add_argument("overrides", nargs="*", metavar="dataset.key=value")
        action.add_argument("--json", action="store_true", help="as JSON")
    return root


def simulate(overrides: Sequence[str], resume: str | None, json_only: bool) -> None:
    """Run or resume a simulation on the in-process grid."""
    from fedrec.config import put_app_on_path

    put_app_on_path()
    from client.app import app  # the only upward call: the command brings the apps and the library together
    from server.nodes import FlowerNodes
    from simulations.grid import InProcessGrid

    run_job(overrides, resume, lambda parts: FlowerNodes(InProcessGrid(app, parts)), json_only)


def run_job(overrides: Sequence[str], resume: str | None, nodes: "Callable[[int], Nodes]", json_only: bool) -> None:
    """Run a job to its end; print the verdict, the table and the run folder's path, or the metrics as JSON.

    `nodes(parts)` gives the nodes; a grid of its own kind of size ignores `parts`.
    """
    from fedrec.config import load
    from fedrec.report.progress import Progress
    from fedrec.report.verdict import table, verdict
    from fedrec.simulate import Job, checked, new_run, resumed_run

    if resume is not None and overrides:
        raise FedrecError(f"--resume {resume} goes on with the run's own settings: leave out {' '.join(overrides)}")
    settings, folder = new_run(checked(load(overrides))) if resume is None else resumed_run(resume)
    values = Job(settings, folder, lambda: nodes(settings.document["nodes"]), Progress()).simulate()
    if json_only:
        print(json.dumps(values, indent=2))
    else:
        print(f"\n{verdict(values)}\n\n{table(values)}\n\nRun folder: {folder.path.resolve()}")


def data(options: argparse.Namespace) -> None:
    """List, get or check data sets."""
    from fedrec.config import load
    from fedrec.data.commands import check, describe, get

    if options.action == "list":
        show(describe(), options.json)
        return
    source = load([f"dataset={options.dataset}", *options.overrides]).experiment.dataset
    show(get(source) if options.action == "get" else check(source), options.json)


def show(lines: "Sequence[Any]", as_json: bool) -> None:
    """Print lines of text, or the same as JSON."""
    print(json.dumps(list(lines), indent=2) if as_json else "\n".join(str(line) for line in lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's error is one line on standard error and status 2."""
    options, more = parser().parse_known_args(arguments)
    if any(extra.startswith("-") for extra in more) or (more and not hasattr(options, "overrides")):
        parser().error(f"unrecognized arguments: {' '.join(more)}")
    options.overrides = [*getattr(options, "overrides", []), *more]
    try:
        if options.command == "simulate":
            simulate(options.overrides, options.resume, options.json)
        else:
            data(options)
    except FedrecError as error:
        print(f"fedrec: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"fedrec: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nfedrec: interrupted; go on with fedrec simulate --resume RUN", file=sys.stderr)
        raise SystemExit(130) from None
