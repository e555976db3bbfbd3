"""`fedrec server ...`: a server for real devices."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fedrec.errors import FedrecError
from fedrec.ops import processes
from fedrec.server.home import Address, ServerHome


def parser() -> argparse.ArgumentParser:
    """Return the grammar of `fedrec server`."""
    root = argparse.ArgumentParser(prog="fedrec server", description="A server for real devices.")
    commands = root.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="listen for devices until stopped; makes certificates the first time")
    up.add_argument("--host", default="127.0.0.1", help="the name or address under which devices reach it (127.0.0.1)")
    up.add_argument("--port", type=int, default=processes.port(), help=f"{processes.port()} (FEDREC_PORT)")
    up.add_argument("--insecure", action="store_true", help="without TLS and keys; on loopback only")
    up.add_argument("--background", action="store_true", help="come back once it is up; fedrec server down stops it")
    up.add_argument("--metrics", type=int, metavar="PORT", help="Prometheus metrics on loopback")
    commands.add_parser("down", help="stop what up --background started")
    admit = commands.add_parser("admit", help="let devices take part")
    admit.add_argument("keys", nargs="+", metavar="KEY.pub", help="device.pub, as fedrec client enroll made it")
    start = commands.add_parser("start", help="train on the admitted devices")
    start.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. dataset.path=items.csv model=mf")
    start.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    status = commands.add_parser("status", help="devices admitted, and how the last run goes")
    status.add_argument("--json", action="store_true", help="as JSON")
    for command in commands.choices.values():
        command.add_argument("--home", metavar="FOLDER", help="the server's folder (FEDREC_SERVER)")
    return root


def run(arguments: Sequence[str]) -> None:
    """Run one command; mistakes are `FedrecError`s."""
    options = parser().parse_args(arguments)
    home = ServerHome.at(options.home)
    processes.check_owner(home.path)
    {"up": _up, "down": _down, "admit": _admit, "start": _start, "status": _status}[options.command](home, options)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, file=sys.stdout, flush=True)


def _up(home: ServerHome, options: argparse.Namespace) -> None:
    from fedrec.server.supervisor import up

    if not 0 < options.port < 65536:
        raise FedrecError(f"--port {options.port}: a number from 1 to 65535 expected")
    if not options.background:
        up(home, Address(options.host, options.port, options.insecure), say, options.metrics)
        return
    line = ["server", "up", "--home", str(home.path), "--host", options.host, "--port", str(options.port)]
    line += ["--insecure"] if options.insecure else []
    line += [] if options.metrics is None else ["--metrics", str(options.metrics)]
    say(processes.background(line, home.path, "the server"))


def _down(home: ServerHome, options: argparse.Namespace) -> None:
    processes.down(home.path, "the server")
    say(f"{home.path} stopped.")


def _admit(home: ServerHome, options: argparse.Namespace) -> None:
    from fedrec.server.registry import Registry
    from fedrec.server.supervisor import register

    files = [Path(name) for name in options.keys]
    for file in files:
        if not file.is_file():
            raise FedrecError(f"{file}: no such file; device.pub from the device's home is expected")
    registry = Registry(home)
    for file in files:
        device, new = registry.admit(file.read_bytes())
        say(f"device {device.device} {'admitted' if new else 'was admitted before'}, number {device.row + 1}")
        address = home.address() if (home.path / "address.json").exists() else None
        if address and not address.insecure and not device.registered and processes.listens(address.port):
            register(home, registry, device.device, device.key)


def _start(home: ServerHome, options: argparse.Namespace) -> None:
    from fedrec.server.runs import prepare, start

    if not processes.listens(home.address().port):
        raise FedrecError(f"the server is not up at {home.address()}: fedrec server up --home {home.path}")
    began = time.monotonic()
    folder = prepare(home, options.overrides, options.resume)
    start(home, folder, say)
    values = json.loads((folder.path / "metrics.json").read_text())
    say(f"{values['rounds']} rounds in {time.monotonic() - began:.0f} s. Run folder: {folder.path.resolve()}")


def _status(home: ServerHome, options: argparse.Namespace) -> None:
    from fedrec.server.status import in_words, summary

    values = summary(home)
    say(json.dumps(values, indent=2) if options.json else "\n".join(in_words(values)))
