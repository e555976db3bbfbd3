"""`fedrec server up`: a SuperLink with TLS and node authentication, until it is told to stop."""

from collections.abc import Callable, Sequence

from fedrec.errors import FedrecError
from fedrec.flower import superlink
from fedrec.ops import processes
from fedrec.ops.prometheus import serve_metrics
from fedrec.server import certificates
from fedrec.server.home import Address, Registry, ServerHome
from fedrec.server.status import page


def up(home: ServerHome, address: Address, say: Callable[[str], None], metrics: int | None = None) -> None:
    """Run the SuperLink until SIGTERM or SIGINT; leave nothing behind. `metrics` is a loopback port for Prometheus."""
    if address.insecure and address.host not in superlink.LOOPBACK:
        raise FedrecError(
            f"--insecure --host {address.host}: without TLS only this machine's own devices may connect; "
            "leave out --insecure, or use --host 127.0.0.1"
        )
    if processes.listens(address.port):
        raise FedrecError(f"--port {address.port} is taken: is a server up already? Another one: --port")
    home.make()
    if not address.insecure:
        for line in certificates.ensure(home.certificates, [address.host]):
            say(line)
    with processes.only_one(home.path, "the server"), processes.stoppable():
        home.write_address(address)
        process = processes.start(command(home, address), processes.environment(home.flower) | own(home), home.log)
        try:
            superlink.wait_until_up(process, address.port, home.log)
            register_all(home, address)
            processes.say_up(home.path)
            for line in greeting(home, address):
                say(line)
            with serve_metrics(metrics, lambda: page(home)):
                status = process.wait()
            raise FedrecError(f"the SuperLink ended by itself (status {status}): {superlink.read_tail(home.log)}")
        finally:
            processes.say_down(home.path)
            processes.stop(process)
    say("Stopped.")


def own(home: ServerHome) -> dict[str, str]:
    """Return what tells the ServerApp, which the SuperLink starts, whose it is."""
    return {"FEDREC_SERVER": str(home.path)}


def command(home: ServerHome, address: Address) -> list[str]:
    """Return the SuperLink's command line."""
    certified = None if address.insecure else home.certificates
    return superlink.command_line(address.host, address.port, home.path / "flower.sqlite", certified)


def register_all(home: ServerHome, address: Address) -> None:
    """Tell Flower of keys that were admitted while it was not up; without TLS it asks for none."""
    registry = Registry(home)
    for device in registry.devices().values():
        if not address.insecure and not device.registered:
            register(home, registry, device.device, device.key)


def register(home: ServerHome, registry: Registry, device: str, key: bytes) -> None:
    """Tell Flower of one key."""
    file = home.path / "register.pub"
    file.write_bytes(key + b"\n")
    try:
        superlink.register(home.flower, str(file))
    except FedrecError as error:
        if "already" not in str(error).lower():
            raise
    finally:
        file.unlink()
    registry.registered(device)


def greeting(home: ServerHome, address: Address) -> Sequence[str]:
    """Return what an operator needs to know now."""
    safety = "without TLS, this machine only" if address.insecure else "TLS, admitted keys only"
    give = "" if address.insecure else f" --ca {home.authority}"
    return [
        f"Server {address} is up ({safety}); {len(Registry(home).devices())} devices admitted; Ctrl-C stops it; "
        f"Flower's log: {home.log}",
        f"A device: fedrec client enroll --server {address}{give}; then here: fedrec server admit device.pub",
        "Training: fedrec server start dataset.path=items.csv model=mf",
    ]
