"""`fedrec client ...`: one device, from its key to its training. Light: a device without torch runs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrec.cli.grammar import Command, Group, examples, run_command
from fedrec.cli.options import Json, print_json
from fedrec.errors import FedrecError

if TYPE_CHECKING:
    from fedrec.device.home import Home

app = typer.Typer(
    name="client",
    cls=Group,
    help="Real devices, a device: its key, its store, its training.",
    epilog=examples("fedrec client enroll", "fedrec client up --background"),
)
HomeFolder = Annotated[
    str | None, typer.Option("--home", metavar="FOLDER", help="the device's folder [default: FEDREC_HOME]")
]


def run(arguments: Sequence[str]) -> None:
    """Carry out `fedrec client ...`; mistakes are `FedrecError`s."""
    run_command(typer.main.get_command(app), arguments, "fedrec client")


def open_home(folder: str | None) -> "Home":
    """Return the device's home; one that belongs to another user is refused."""
    from fedrec.device.home import Home
    from fedrec.ops import processes

    home = Home.at(folder)
    processes.check_owner(home.path)
    return home


@app.command(
    "enroll",
    cls=Command,
    epilog=examples("fedrec client enroll", "fedrec client enroll --server server.example:8000 --ca ca.crt"),
)
def enroll_command(
    server: Annotated[
        str | None, typer.Option("--server", metavar="HOST:PORT", help="[default: this machine, FEDREC_PORT or 8000]")
    ] = None,
    certificate: Annotated[
        str | None, typer.Option("--ca", metavar="FILE", help="the server's ca.crt; on loopback it may be left out")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="what trains: auto, torch or light")] = "auto",
    trust: Annotated[
        str, typer.Option("--trust", metavar="LIST", help="who sees it before noise: of device,gateway,server")
    ] = "device",
    allow_unprotected: Annotated[
        bool, typer.Option("--allow-unprotected", help="trust everybody, rounds without privacy pass: to try things")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="change where it belongs; key and store stay")] = False,
    home: HomeFolder = None,
) -> None:
    """Make this device's key and say where it belongs."""
    from fedrec.device.home import Enrolment, enroll
    from fedrec.ops import processes
    from fedrec.privacy.wording import TRUST

    enrolment = Enrolment(server or f"127.0.0.1:{processes.port()}", None, engine)
    trusts = list(TRUST) if allow_unprotected else [name.strip() for name in trust.split(",")]
    print("\n".join(enroll(open_home(home), enrolment, certificate, again, trusts)))


@app.command(
    "import",
    cls=Command,
    epilog=examples(
        "fedrec client import history.csv", "fedrec client import log.csv --columns item=movieId,time=timestamp"
    ),
)
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a CSV")],
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="LIST", help="what the file calls them, such as item=movieId")
    ] = None,
    home: HomeFolder = None,
) -> None:
    """Take interactions from a CSV: item, and maybe time, value, kind."""
    here = open_home(home)
    from fedrec.data.io.csv_files import mapping, read_device_file
    from fedrec.device.saved_state import expire
    from fedrec.device.store import Event

    here.enrolment()
    rows = read_device_file(file, mapping(columns))
    store = here.store()
    try:
        new = store.log_events(Event(row.item, row.time, row.kind, row.value) for row in rows)
        expire(here, store)
        kept = f"{len(store.history()):,} kept in {store.path}"
        print(f"{new:,} new interactions of {len(rows):,} in {file}; {kept}")
    finally:
        store.close()


@app.command(
    "forget", cls=Command, epilog=examples("fedrec client forget --item 1210", "fedrec client forget --everything")
)
def forget_command(
    item: Annotated[str | None, typer.Option("--item", metavar="ID", help="as the catalogue calls it")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="all that the device keeps")] = False,
    home: HomeFolder = None,
) -> None:
    """Forget one item or everything, and what was learned from it."""
    if everything == (item is not None):
        raise FedrecError("fedrec client forget takes one of --item ID and --everything")
    here = open_home(home)
    here.enrolment()
    from fedrec.device.saved_state import forget

    store = here.store()
    try:
        gone, found = forget(store, item)
        if not gone and not everything:
            raise FedrecError(f"--item {item}: this device knows of no such item; nothing was changed")
        private = "found again from those that are left" if found else "forgotten too: training begins it afresh"
        print(f"{gone:,} interactions forgotten, {len(store.history()):,} kept; the private vector is {private}")
    finally:
        store.close()


@app.command("up", cls=Command, epilog=examples("fedrec client up", "fedrec client up --only-when idle,hours=22-6"))
def up_command(
    only_when: Annotated[
        str | None,
        typer.Option("--only-when", metavar="LIST", help="not policy.toml's: of idle,charging,unmetered,hours=22-6"),
    ] = None,
    always: Annotated[bool, typer.Option("--always", help="take part whatever policy.toml asks for")] = False,
    background: Annotated[bool, typer.Option("--background", help="come back once it is up; down stops it")] = False,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="Prometheus counts on loopback; no items in them")
    ] = None,
    home: HomeFolder = None,
) -> None:
    """Take part until stopped."""
    here = open_home(home)
    from fedrec.device.availability import AvailabilityPolicy
    from fedrec.device.supervisor import say_here, up
    from fedrec.ops import processes

    if always and only_when:
        raise FedrecError("--always and --only-when contradict each other: give one of them")
    conditions = "always" if always else only_when
    if not background:
        up(here, conditions, say_here, metrics)
        return
    here.enrolment()
    AvailabilityPolicy.of(here).overridden(conditions)
    chosen = [] if conditions is None else ["--only-when", conditions]
    chosen += [] if metrics is None else ["--metrics", str(metrics)]
    print(processes.background(["client", "up", "--home", str(here.path), *chosen], here.path, "the device"))


@app.command(
    "serve", cls=Command, epilog=examples("fedrec client serve", "fedrec client serve --address 127.0.0.1:50051")
)
def serve_command(
    address: Annotated[
        str | None, typer.Option("--address", help="unix:PATH or 127.0.0.1:PORT [default: recommend.sock in the home]")
    ] = None,
    home: HomeFolder = None,
) -> None:
    """Recommend to apps on this device, over gRPC, until stopped."""
    here = open_home(home)
    from fedrec.device.grpc_service import serve
    from fedrec.device.supervisor import say_here

    serve(here, address, say_here)


@app.command("down", cls=Command, epilog=examples("fedrec client down", "fedrec client down --home device-1"))
def down_command(home: HomeFolder = None) -> None:
    """Stop what up --background started."""
    here = open_home(home)
    from fedrec.ops import processes

    processes.down(here.path, "this device")
    print(f"{here.path} stopped.")


@app.command("status", cls=Command, epilog=examples("fedrec client status", "fedrec client status --json"))
def status_command(as_json: Json = False, home: HomeFolder = None) -> None:
    """Say whether it trains, and why not."""
    here = open_home(home)
    from fedrec.device.status import in_words, status

    values = status(here)
    print_json(values) if as_json else print("\n".join(in_words(values)))


@app.command(
    "catalogue",
    cls=Command,
    epilog=examples("fedrec client catalogue", "fedrec client catalogue --accept 3f2a9c01d2e3f4a5"),
)
def catalogue_command(
    accept: Annotated[
        str | None, typer.Option("--accept", metavar="HASH", help="take the one that the server offers instead")
    ] = None,
    home: HomeFolder = None,
) -> None:
    """Show which list of items it has taken, and which other one is offered."""
    here = open_home(home)
    here.enrolment()
    from fedrec.device import catalogue

    store = here.store()
    try:
        pin = catalogue.pinned(store) if accept is None else catalogue.accept(store, accept)
        print("\n".join(catalogue.in_words(pin)))
    finally:
        store.close()


@app.command("health", cls=Command, epilog=examples("fedrec client health", "fedrec client health --home device-1"))
def health_command(home: HomeFolder = None) -> None:
    """End with status 0 where it is up: for a container's health check."""
    here = open_home(home)
    from fedrec.ops import processes

    if not processes.running(here.path):
        raise FedrecError(f"{here.path}: not up")
