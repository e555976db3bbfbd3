"""The `fedrec` command."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Nothing calls home: set before anything of Flower or Ray is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from fedrec import __version__
from fedrec.errors import FedrecError

ROOMS = {
    "server": "real devices, the server: up, admit, start, status",
    "client": "real devices, a device: enroll, import, up, status, forget",
}
LIBRARY = {
    "report": "one page of a finished run: verdict, table, rounds, privacy card",
    "study": "many runs of one plan: privacy-accuracy, or a yaml file of yours; compare RUN RUN...",
    "recommend": "what a finished run recommends to a user, or to somebody who likes some titles, and why",
    "privacy": "what was spent, claimed, and would be: ledger, card RUN, project, device",
    "new": "start a part of your own: model NAME writes a package with a model, its yaml and a test",
}
LEFT_OUT = {"torch", "hydra", "omegaconf", "scipy", "dp_accounting", "opacus", "pyarrow", "yaml"}  # by install-edge


def parser() -> argparse.ArgumentParser:
    """Return the command's grammar."""
    root = argparse.ArgumentParser(prog="fedrec", description="Private federated recommenders.")
    root.add_argument("--version", action="version", version=f"fedrec {__version__}")
    study = root.add_subparsers(dest="command", required=True)
    simulate = study.add_parser("simulate", help="train and evaluate on this machine")
    simulate.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. dataset=ml-100k privacy.epsilon=4")
    simulate.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    simulate.add_argument("--json", action="store_true", help="print metrics.json instead of the table")
    for room, text in (ROOMS | LIBRARY).items():
        study.add_parser(room, help=text, add_help=False)
    auditing = study.add_parser(
        "audit", help="measure what an adversary sees, and hold it against the epsilon reported"
    )
    auditing.add_argument(
        "overrides", nargs="*", metavar="RUN|key=value", help="the folder of a run, or as for simulate"
    )
    auditing.add_argument("--epsilon", type=float, nargs="+", metavar="E", help="the audit points (default: 4 8)")
    auditing.add_argument("--attacks", action="store_true", help="try two attacks on the configuration's own data")
    auditing.add_argument("--json", action="store_true", help="as JSON")
    data = study.add_parser("data", help="data sets: list, get, check")
    actions = data.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="what there is, and how to get it")
    listing.add_argument("--json", action="store_true", help="as JSON")
    for name, text in (("get", "download what is missing"), ("check", "load, check and split, and say what was found")):
        action = actions.add_parser(name, help=text)
        action.add_argument("dataset", help="a name from `fedrec data list`")
        action.add_argument("overrides", nargs="*", metavar="dataset.key=value")
        action.add_argument("--json", action="store_true", help="as JSON")
    split = actions.add_parser("split", help="write one file for each of some devices, to try real devices")
    split.add_argument("dataset", help="a name from `fedrec data list`")
    split.add_argument("overrides", nargs="*", metavar="dataset.key=value")
    split.add_argument("--devices", type=int, default=2, help="how many of the first users (2)")
    split.add_argument("--to", default="devices", metavar="FOLDER", help="where to write (devices)")
    split.add_argument("--json", action="store_true", help="as JSON")
    return root


def simulate(overrides: Sequence[str], resume: str | None, json_only: bool) -> None:
    """Run or resume a simulation on the in-process grid."""
    from fedrec.device.client_app import make_client_app
    from fedrec.flower.grid import InProcessGrid
    from fedrec.flower.transport import FlowerTransport
    from fedrec.simulation import run_job

    app = make_client_app()
    run_job(overrides, resume, lambda parts: FlowerTransport(InProcessGrid(app, parts)), json_only)


def library(room: str, arguments: Sequence[str]) -> None:
    """Carry out a command of one of the library's own rooms."""
    if room == "recommend":
        from fedrec.cli import recommend as study
    elif room == "report":
        from fedrec.cli import report as study
    elif room == "privacy":
        from fedrec.cli import privacy as study
    else:
        from fedrec.cli import study
    study.run(arguments)


def start_own(arguments: Sequence[str]) -> None:
    """Write a package for a part of the user's own."""
    from fedrec.cli.new import app

    app(list(arguments), standalone_mode=False)


def audit(options: argparse.Namespace) -> None:
    """Audit a run or a configuration; a claim that is contradicted gives a status of its own."""
    from fedrec.cli.audit import attack_command, audit_command

    if options.attacks:
        raise SystemExit(attack_command(options.overrides, options.json))
    raise SystemExit(audit_command(options.overrides, options.epsilon, options.json))


def data(options: argparse.Namespace) -> None:
    """List, get or check data sets."""
    from fedrec.cli.data import check, describe, get, hand_out
    from fedrec.experiment.settings import load

    if options.action == "list":
        show(describe(), options.json)
        return
    source = load([f"dataset={options.dataset}", *options.overrides]).experiment.dataset
    if options.action == "split":
        show(hand_out(source.load(), options.devices, Path(options.to)), options.json)
        return
    show(get(source) if options.action == "get" else check(source), options.json)


def show(lines: "Sequence[Any]", as_json: bool) -> None:
    """Print lines of text, or the same as JSON."""
    print(json.dumps(list(lines), indent=2) if as_json else "\n".join(str(line) for line in lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's error is one line on standard error and status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in ROOMS:
        guarded(lambda: importlib.import_module(f"fedrec.cli.{given[0]}").run(given[1:]))
        return
    if given and given[0] == "new":
        guarded(lambda: start_own(given[1:]))
        return
    if given and given[0] in LIBRARY:
        guarded(lambda: library(given[0], given[1:]))
        return
    options, more = parser().parse_known_args(given)
    if any(extra.startswith("-") for extra in more) or (more and not hasattr(options, "overrides")):
        parser().error(f"unrecognized arguments: {' '.join(more)}")
    options.overrides = [*getattr(options, "overrides", []), *more]
    if options.command == "simulate":
        guarded(lambda: simulate(options.overrides, options.resume, options.json))
    elif options.command == "audit":
        guarded(lambda: audit(options))
    else:
        guarded(lambda: data(options))


def guarded(command: Callable[[], None]) -> None:
    """Run a command; what went wrong becomes one line and a status."""
    try:
        command()
    except FedrecError as error:
        print(f"fedrec: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in LEFT_OUT:
            raise
        print(
            f"fedrec: this needs {error.name}, which make install-edge leaves out: make install brings it",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except OSError as error:
        print(f"fedrec: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nfedrec: interrupted; a run goes on with --resume RUN", file=sys.stderr)
        raise SystemExit(130) from None
