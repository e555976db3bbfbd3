"""A SuperNode that runs the client app that is installed here, never one that a server sent.

Flower delivers an app with each run and runs what it delivered. A device's own promises (its policy, one answer a
round) would then hold as long as the server likes. `fedrec client up` therefore puts programs of its own before those
of Flower in the SuperNode's path: one for `flwr-clientapp`, and for every other kind of task one that refuses.
"""

import importlib
import os
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedrec.errors import FedrecError
from fedrec.ops import processes

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

LEFT_OUT = ("flwr.supernode.cli", "fastapi", "flwr.supercore.error.http", "flwr.supercore.error")
REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
RUN = "from fedrec.device.client_app import run_pinned; run_pinned()"
NOT_ADMITTED = "305"  # Flower's code where a server does not admit a key, or takes it for one that is online still
EXIT_CODE = re.compile(r"Exit Code: (\d+)")
LOG_TAIL = 4000  # characters


def command_line(server: str, home: Path, certificate: str | None, key: Path) -> list[str]:
    """Return the SuperNode's command line; its own interface is on a free loopback port."""
    if '"' in str(home) or "\\" in str(home):
        raise FedrecError(f"{home}: a home without quotes and backslashes in its path is needed")
    line = [processes.program("flower-supernode"), "--superlink", server, "--host", "127.0.0.1"]
    line += ["--port", str(processes.free_port()), "--node-config", f'home="{home}"']
    if certificate is None:
        return [*line, "--insecure"]
    return [*line, "--root-certificates", certificate, "--auth-supernode-private-key", str(key)]


def explain_exit(log: Path, status: int) -> str:
    """Return in words why a SuperNode ended: its status is always 1, its log says more."""
    codes = EXIT_CODE.findall(log.read_text(errors="replace")[-LOG_TAIL:])
    if status == 1 and codes and codes[-1] == NOT_ADMITTED:
        return "the server did not admit this key, or still holds its last session"
    return f"the SuperNode ended with status {status}, Flower's code {codes[-1] if codes else 'none'}: see {log}"


def run_task(app: "ClientApp") -> None:
    """Run one message's task with this app, Flower's way but for where the app comes from."""
    program, run_clientapp = load_task_program()

    def nothing(*_: object, **__: object) -> None:
        """Leave the delivered app where it is."""

    def ours(*_: object, **__: object) -> object:
        def load(*_: object) -> "ClientApp":
            return app

        return load

    run_clientapp.install_from_fab = nothing
    run_clientapp.get_load_client_app_fn = ours
    program.flwr_clientapp()


def load_task_program() -> tuple[Any, Any]:
    """Import Flower's program for one task and the module that carries it out, without the servers beside them.

    A device starts this process anew for every message. What a task never uses (the SuperNode with its data base, the
    HTTP server) would take 34 MiB and half a second of a desktop's processor each time; where a Flower that is arranged
    in another way wants it after all, it is loaded.
    """
    names = "flwr.supernode.cli.flwr_clientapp", "flwr.supernode.runtime.run_clientapp"
    leave_out()
    try:
        program, run = (importlib.import_module(name) for name in names)
    except (ImportError, AttributeError):
        for name in LEFT_OUT:
            sys.modules.pop(name, None)
        program, run = (importlib.import_module(name) for name in names)
    return program, run


def leave_out() -> None:
    """Put empty modules where the servers would be loaded; those that are there already stay."""
    import starlette.status

    if "flwr.supernode.cli" not in sys.modules and (spec := find_spec("flwr.supernode.cli")) is not None:
        sys.modules[spec.name] = module_from_spec(spec)  # a package whose own file was not run
    if "fastapi" not in sys.modules:
        web = ModuleType("fastapi")  # of it, Flower's list of errors takes the names of HTTP's status codes
        web.status = starlette.status  # type: ignore[attr-defined]
        sys.modules["fastapi"] = web
    if "flwr.supercore.error.http" not in sys.modules:
        answers = ModuleType("flwr.supercore.error.http")  # how a server tells of an error
        answers.BearerAuthenticationError = type("BearerAuthenticationError", (Exception,), {})  # type: ignore[attr-defined]
        answers.http_error_translator = None  # type: ignore[attr-defined]
        sys.modules[answers.__name__] = answers


def write_programs(home: Path) -> Path:
    """Write the programs that the SuperNode finds first; return their folder."""
    folder = home / "programs"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / "flwr-clientapp", f'exec {shlex.quote(sys.executable)} -c {shlex.quote(RUN)} "$@"')
    for name in REFUSED:
        _write(folder / name, f"echo {name} is refused: a device runs its own client app alone >&2; exit 1")
    return folder


def _write(path: Path, line: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w") as file:
        file.write(f"#!/bin/sh\n{line}\n")


def environment(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the SuperNode's environment with our programs first."""
    return {**variables, "PATH": f"{write_programs(home)}{os.pathsep}{variables['PATH']}"}
