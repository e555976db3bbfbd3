"""`fedrec server up`: a SuperLink on loopback and the front before it, until they are told to stop."""

import contextlib
import getpass
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from fedrec.errors import FedrecError
from fedrec.flower import superlink
from fedrec.ops import processes
from fedrec.ops.connections import Limits
from fedrec.ops.prometheus import serve_metrics
from fedrec.server import certificates, front
from fedrec.server.home import Address, Registry, ServerHome
from fedrec.server.status import page
from fedrec.storage.run_folder import atomic_write

WATCH_SECONDS = 0.2
# What a thread's own arena of glibc once held is not given back: an hour of hostile replies would stay in memory.
ONE_ARENA = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072"}


def up(home: ServerHome, address: Address, say: Callable[[str], None], metrics: int | None = None) -> None:
    """Run the server until SIGTERM or SIGINT; leave nothing behind. `metrics` is a loopback port for Prometheus."""
    if address.insecure and address.host not in superlink.LOOPBACK:
        raise FedrecError(
            f"--insecure --host {address.host}: without TLS only this machine's own devices may connect; "
            "leave out --insecure, or use --host 127.0.0.1"
        )
    if processes.listens(address.port):
        raise FedrecError(f"--port {address.port} is taken: is a server up already? Another one: --port")
    Limits.read(home.limits)
    home.make()
    if home.protect():
        say(f"{home.path} was open to other users of this machine; it no longer is")
    if not address.insecure:
        for line in certificates.ensure(home.certificates, [address.host]):
            say(line)
    with processes.only_one(home.path, "the server"), processes.stoppable():
        home.ended.unlink(missing_ok=True)
        with contextlib.ExitStack() as stopping:
            stopping.callback(processes.say_down, home.path)
            parts = start(home, address, stopping)
            for line in greeting(home, address):
                say(line)
            processes.say_up(home.path)  # last: `up --background` comes back with what was said until then
            with serve_metrics(metrics, lambda: page(home)):
                watch(home, parts)
    say("Stopped.")


def start(
    home: ServerHome, address: Address, stopping: contextlib.ExitStack
) -> "dict[str, tuple[subprocess.Popen[bytes], Path]]":
    """Start the SuperLink on a free loopback port, and the front before it; return both, each with its log."""
    port = processes.free_port()
    home.write_address(address, port)
    variables = processes.environment(home.flower) | own(home) | ONE_ARENA
    certified = None if address.insecure else home.certificates
    link = processes.start(superlink.command_line(port, home.database, certified), variables, home.log)
    stopping.callback(processes.stop, link)
    superlink.wait_until_up(link, port, home.log)
    register_all(home, address)
    home.counted.unlink(missing_ok=True)
    outside = processes.start(front.command(home, port), variables, home.front_log)
    stopping.callback(processes.stop, outside)
    superlink.wait_until_up(outside, address.port, home.front_log, "the front")
    return {"the SuperLink": (link, home.log), "the front": (outside, home.front_log)}


def watch(home: ServerHome, parts: "Mapping[str, tuple[subprocess.Popen[bytes], Path]]") -> NoReturn:
    """Wait until a part ends by itself; write down why and raise, whereupon the other is stopped."""
    while True:
        for name, (process, log) in parts.items():
            if (status := process.poll()) is not None:
                reason = f"{name} ended by itself (status {status}): {superlink.read_tail(log)}"
                atomic_write(home.ended, f"{reason}\n".encode(), 0o600)
                raise FedrecError(reason)
        time.sleep(WATCH_SECONDS)


def own(home: ServerHome) -> dict[str, str]:
    """Return what tells the ServerApp, which the SuperLink starts, whose it is."""
    return {"FEDREC_SERVER": str(home.path)}


def register_all(home: ServerHome, address: Address) -> None:
    """Tell Flower of keys that were admitted while it was not up; without TLS it asks for none."""
    registry = Registry(home)
    for device in registry.admitted():
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
    safety = (
        "without TLS and keys, this machine only" if address.insecure else "TLS; nothing but devices of admitted keys"
    )
    give = "" if address.insecure else f" --ca {home.authority}"
    told = [
        f"Server {address} is up ({safety}); {len(Registry(home).admitted())} devices admitted; Ctrl-C stops it; "
        f"Flower's log: {home.log}",
        f"A device: fedrec client enroll --server {address}{give}; then here: fedrec server admit device.pub",
        "Training: fedrec server start dataset.path=items.csv model=mf",
    ]
    if not superlink.keeps_others_out():
        told.append(
            "WARNING: this system doesn't tell whose a loopback connection is: its other users can start runs as "
            f"{getpass.getuser()}; let nobody else log in here, or run the server in a container"
        )
    return told
