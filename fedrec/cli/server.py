"""`fedrec server ...`: a server for real devices."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrec.cli.grammar import Command, Group, examples, run_command
from fedrec.cli.options import Json, Overrides, check_output, check_overrides, going_on, print_json
from fedrec.errors import FedrecError

if TYPE_CHECKING:
    from fedrec.server.home import ServerHome

app = typer.Typer(
    name="server",
    cls=Group,
    help="Real devices, the server: listen, admit, train.",
    epilog=examples("fedrec server up --background", "fedrec server status"),
)
HomeFolder = Annotated[
    str | None, typer.Option("--home", metavar="FOLDER", help="the server's folder [default: FEDREC_SERVER]")
]


def run(arguments: Sequence[str]) -> None:
    """Carry out `fedrec server ...`; mistakes are `FedrecError`s."""
    run_command(typer.main.get_command(app), arguments, "fedrec server")


def open_home(folder: str | None) -> "ServerHome":
    """Return the server's home; one that belongs to another user is refused."""
    from fedrec.ops import processes
    from fedrec.server.home import ServerHome

    home = ServerHome.at(folder)
    processes.check_owner(home.path)
    return home


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


@app.command(
    "up",
    cls=Command,
    epilog=examples("fedrec server up --background", "fedrec server up --host server.example --metrics 9100"),
)
def up_command(
    host: Annotated[str, typer.Option("--host", help="name or address under which devices reach it")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", help="[default: FEDREC_PORT, else 8000]")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="without TLS and keys; on loopback only")] = False,
    background: Annotated[bool, typer.Option("--background", help="come back once it is up; down stops it")] = False,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="Prometheus metrics on loopback")
    ] = None,
    home: HomeFolder = None,
) -> None:
    """Listen for devices until stopped; make certificates the first time."""
    here = open_home(home)
    from fedrec.ops import processes
    from fedrec.server.home import Address
    from fedrec.server.supervisor import up

    port = processes.port() if port is None else port
    if not 0 < port < 65536:
        raise FedrecError(f"--port {port}: a number from 1 to 65535 expected")
    if not background:
        up(here, Address(host, port, insecure), say, metrics)
        return
    line = ["server", "up", "--home", str(here.path), "--host", host, "--port", str(port)]
    line += ["--insecure"] if insecure else []
    line += [] if metrics is None else ["--metrics", str(metrics)]
    say(processes.background(line, here.path, "the server"))


@app.command("down", cls=Command, epilog=examples("fedrec server down", "fedrec server down --home server"))
def down_command(home: HomeFolder = None) -> None:
    """Stop what up --background started."""
    here = open_home(home)
    from fedrec.ops import processes

    processes.down(here.path, "the server")
    say(f"{here.path} stopped.")


@app.command(
    "admit", cls=Command, epilog=examples("fedrec server admit device.pub", "fedrec server admit keys/1.pub keys/2.pub")
)
def admit_command(
    keys: Annotated[
        list[Path], typer.Argument(metavar="KEY.pub...", help="device.pub, as fedrec client enroll made it")
    ],
    home: HomeFolder = None,
) -> None:
    """Let devices take part."""
    here = open_home(home)
    from fedrec.ops import processes
    from fedrec.server.home import Registry
    from fedrec.server.supervisor import register

    for file in keys:
        if not file.is_file():
            raise FedrecError(f"{file}: no such file; device.pub from the device's home is expected")
    registry = Registry(here)
    for file in keys:
        device, new = registry.admit(file.read_bytes())
        say(f"device {device.device} {'admitted' if new else 'was admitted before'}, number {device.row + 1}")
        address = here.address() if (here.path / "address.json").exists() else None
        if address and not address.insecure and not device.registered and processes.listens(address.port):
            register(here, registry, device.device, device.key)


@app.command(
    "revoke", cls=Command, epilog=examples("fedrec server revoke 0f3c...", "fedrec server revoke 0f3c... 77ab...")
)
def revoke_command(
    devices: Annotated[list[str], typer.Argument(metavar="DEVICE...", help="as server status --json names them")],
    home: HomeFolder = None,
) -> None:
    """Let devices take part no more, from their next request on; admit lets them in again."""
    here = open_home(home)
    from fedrec.server.home import Registry

    here.address()
    registry = Registry(here)
    for device in devices:
        registry.revoke(device)
        say(f"device {device} revoked; what was spent on its data stays on the books")


@app.command(
    "start",
    cls=Command,
    epilog=examples(
        "fedrec server start dataset.path=items.csv model=mf privacy=user privacy.population_epsilon=8",
        "fedrec server start --resume runs/real",
    ),
)
def start_command(
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option("--resume", metavar="RUN", help="go on with the run here")] = None,
    home: HomeFolder = None,
) -> None:
    """Train on the admitted devices."""
    given = check_overrides(overrides)
    check_output(given)
    here = open_home(home)
    from fedrec.experiment.overrides import find_overruled
    from fedrec.experiment.settings import read
    from fedrec.ops import processes
    from fedrec.server.runs import prepare, start

    if not processes.listens(here.address().port):
        raise FedrecError(f"the server is not up at {here.address()}: fedrec server up --home {here.path}")
    began = time.monotonic()
    folder = prepare(here, given, resume)
    for line in find_overruled(read(folder.config).experiment, given):
        say(line)
    with going_on(folder.path, f"fedrec server start --resume {folder.path}"):
        start(here, folder, say)
    values = json.loads((folder.path / "metrics.json").read_text())
    say(f"{values['rounds']} rounds in {time.monotonic() - began:.0f} s. Run folder: {folder.path.resolve()}")


@app.command("status", cls=Command, epilog=examples("fedrec server status", "fedrec server status --json"))
def status_command(as_json: Json = False, home: HomeFolder = None) -> None:
    """Say which devices are admitted, and how the last run goes."""
    here = open_home(home)
    from fedrec.server.status import in_words, summary

    values = summary(here)
    print_json(values) if as_json else say("\n".join(in_words(values)))
