"""`fedrec server up`: a SuperLink with TLS and node authentication, until it is told to stop."""

import subprocess
import time
from collections.abc import Callable, Sequence

from fedrec.errors import FedrecError
from fedrec.ops import processes
from fedrec.ops.prometheus import serve_metrics
from fedrec.server import certificates, superlink
from fedrec.server.home import Address, ServerHome
from fedrec.server.registry import Registry
from fedrec.server.status import page

LOOPBACK = ("127.0.0.1", "localhost", "::1")
START_SECONDS = 60.0


def up(home: ServerHome, address: Address, say: Callable[[str], None], metrics: int | None = None) -> None:
    """Run the SuperLink until SIGTERM or SIGINT; leave nothing behind. `metrics` is a loopback port for Prometheus."""
    if address.insecure and address.host not in LOOPBACK:
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
            wait_for(process, address, home)
            register_all(home, address)
            processes.say_up(home.path)
            for line in greeting(home, address):
                say(line)
            with serve_metrics(metrics, lambda: page(home)):
                status = process.wait()
            raise FedrecError(f"the SuperLink ended by itself (status {status}): {tail(home)}")
        finally:
            processes.say_down(home.path)
            processes.stop(process)
    say("Stopped.")


def own(home: ServerHome) -> dict[str, str]:
    """Return what tells the ServerApp, which the SuperLink starts, whose it is."""
    return {"FEDREC_SERVER": str(home.path)}


def command(home: ServerHome, address: Address) -> list[str]:
    """Return the SuperLink's command line."""
    bind = "127.0.0.1" if address.host in LOOPBACK else "0.0.0.0"
    line = [processes.program("flower-superlink"), "--host", bind, "--port", str(address.port)]
    line += ["--database", str(home.path / "flower.sqlite"), "--disable-runtime-dependency-installation"]
    if address.insecure:
        return [*line, "--insecure"]
    folder = home.certificates
    files = ("--ssl-ca-certfile", "ca.crt"), ("--ssl-certfile", "server.crt"), ("--ssl-keyfile", "server.key")
    return [
        *line,
        "--enable-supernode-auth",
        *(text for option, name in files for text in (option, str(folder / name))),
    ]


def wait_for(process: "subprocess.Popen[bytes]", address: Address, home: ServerHome) -> None:
    """Wait until the SuperLink listens."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if processes.listens(address.port):
            return
        time.sleep(0.1)
    raise FedrecError(f"the SuperLink did not start: {tail(home)}")


def tail(home: ServerHome) -> str:
    """Return the end of Flower's log as one line."""
    return " ".join(home.log.read_text(errors="replace")[-600:].split())


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
        superlink.register(home, str(file))
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
