"""`fedrec client ...`: one device, from its key to its training."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from fedrec.device.backend import ENGINES
from fedrec.device.home import Enrolment, Home
from fedrec.errors import FedrecError
from fedrec.ops import processes


def parser() -> argparse.ArgumentParser:
    """Return the grammar of `fedrec client`."""
    root = argparse.ArgumentParser(prog="fedrec client", description="One device: its key, its store, its training.")
    commands = root.add_subparsers(dest="command", required=True)
    enroll = commands.add_parser("enroll", help="make this device's key and say where it belongs")
    here = f"127.0.0.1:{processes.port()}"
    enroll.add_argument("--server", default=here, metavar="HOST:PORT", help=here)
    enroll.add_argument("--ca", metavar="FILE", help="the server's ca.crt; only a server on loopback goes without")
    enroll.add_argument("--engine", default="auto", help=f"what trains: {', '.join(ENGINES)}")
    enroll.add_argument("--allow-unprotected", action="store_true", help="rounds without privacy pass: to try things")
    enroll.add_argument("--again", action="store_true", help="change where it belongs; key and store stay")
    load = commands.add_parser("import", help="take interactions from a CSV: item, and maybe time, value, kind")
    load.add_argument("file")
    load.add_argument("--columns", metavar="LIST", help="what the file calls them: item=movieId,time=timestamp")
    forget = commands.add_parser("forget", help="forget one item or everything, and what was learned from it")
    what = forget.add_mutually_exclusive_group(required=True)
    what.add_argument("--item", metavar="ID", help="as the catalogue calls it")
    what.add_argument("--everything", action="store_true")
    up = commands.add_parser("up", help="take part until stopped")
    up.add_argument("--only-when", metavar="LIST", help="instead of policy.toml: of idle,charging,unmetered,hours=22-6")
    up.add_argument("--always", action="store_true", help="take part whatever policy.toml asks for")
    up.add_argument("--background", action="store_true", help="come back once it is up; fedrec client down stops it")
    up.add_argument("--metrics", type=int, metavar="PORT", help="Prometheus counts on loopback; no items in them")
    serve = commands.add_parser("serve", help="recommend to apps on this device, over gRPC, until stopped")
    serve.add_argument("--address", help="unix:PATH or 127.0.0.1:PORT (default: recommend.sock in the home)")
    commands.add_parser("down", help="stop what up --background started")
    status = commands.add_parser("status", help="whether it trains, and why not")
    status.add_argument("--json", action="store_true", help="as JSON")
    commands.add_parser("health", help="status 0 where it is up: for a container's health check")
    for command in commands.choices.values():
        command.add_argument("--home", metavar="FOLDER", help="the device's folder (FEDREC_HOME)")
    return root


def run(arguments: Sequence[str]) -> None:
    """Run one command; mistakes are `FedrecError`s."""
    options = parser().parse_args(arguments)
    home = Home.at(options.home)
    processes.check_owner(home.path)
    called = {"enroll": _enroll, "import": _import, "forget": _forget, "up": _up, "down": _down, "serve": _serve}
    {**called, "status": _status, "health": _health}[options.command](home, options)


def _enroll(home: Home, options: argparse.Namespace) -> None:
    from fedrec.device.home import enroll

    enrolment = Enrolment(options.server, None, options.engine)
    print("\n".join(enroll(home, enrolment, options.ca, options.again, options.allow_unprotected)))


def _import(home: Home, options: argparse.Namespace) -> None:
    from fedrec.data.io.device_csv import mapping, read_device_file
    from fedrec.device.deletion import expire
    from fedrec.device.store import Event

    home.enrolment()
    rows = read_device_file(Path(options.file), mapping(options.columns))
    store = home.store()
    try:
        new = store.log_events(Event(row.item, row.time, row.kind, row.value) for row in rows)
        expire(home, store)
        kept = f"{len(store.history()):,} kept in {store.path}"
        print(f"{new:,} new interactions of {len(rows):,} in {options.file}; {kept}")
    finally:
        store.close()


def _forget(home: Home, options: argparse.Namespace) -> None:
    home.enrolment()
    from fedrec.device.deletion import forget

    store = home.store()
    try:
        gone, found = forget(store, None if options.everything else options.item)
        if not gone and not options.everything:
            raise FedrecError(f"--item {options.item}: this device knows of no such item; nothing was changed")
        private = "found again from those that are left" if found else "forgotten too: training begins it afresh"
        print(f"{gone:,} interactions forgotten, {len(store.history()):,} kept; the private vector is {private}")
    finally:
        store.close()


def _up(home: Home, options: argparse.Namespace) -> None:
    from fedrec.device.availability import AvailabilityPolicy
    from fedrec.device.supervisor import say_here, up

    if options.always and options.only_when:
        raise FedrecError("--always and --only-when contradict each other: give one of them")
    only_when = "always" if options.always else options.only_when
    if not options.background:
        up(home, only_when, say_here, options.metrics)
        return
    home.enrolment()
    AvailabilityPolicy.of(home).overridden(only_when)
    chosen = [] if only_when is None else ["--only-when", only_when]
    chosen += [] if options.metrics is None else ["--metrics", str(options.metrics)]
    command = ["client", "up", "--home", str(home.path), *chosen]
    print(processes.background(command, home.path, "the device"))


def _serve(home: Home, options: argparse.Namespace) -> None:
    from fedrec.device.grpc_service import serve
    from fedrec.device.supervisor import say_here

    serve(home, options.address, say_here)


def _down(home: Home, options: argparse.Namespace) -> None:
    processes.down(home.path, "this device")
    print(f"{home.path} stopped.")


def _health(home: Home, options: argparse.Namespace) -> None:
    if not processes.running(home.path):
        raise FedrecError(f"{home.path}: not up")


def _status(home: Home, options: argparse.Namespace) -> None:
    from fedrec.device.status import in_words, status

    values = status(home)
    print(json.dumps(values, indent=2) if options.json else "\n".join(in_words(values)))
