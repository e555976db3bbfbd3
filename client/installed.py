"""`flwr-clientapp` on a device: runs the client app that is installed here, never one that a server sent.

Flower delivers an app with each run and runs what it delivered. A device's own promises (its policy, one answer a
round) would then hold as long as the server likes. `fedrec client up` therefore puts programs of its own before those
of Flower in the SuperNode's path: this one, and for every other kind of task one that refuses.
"""

import os
import shlex
import sys
from pathlib import Path

from client.home import Home

REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
RUN = "from fedrec.apps import put_app_on_path; put_app_on_path(); from client.installed import main; main()"


def main() -> None:
    """Run one message's task, Flower's way but for where the app comes from."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp

    from client.app import app

    def nothing(*_: object, **__: object) -> None:
        """Leave the delivered app where it is."""

    def ours(*_: object, **__: object) -> object:
        return lambda *_: app

    run_clientapp.install_from_fab = nothing  # type: ignore[assignment]
    run_clientapp.get_load_client_app_fn = ours  # type: ignore[assignment]
    flwr_clientapp()


def write_programs(home: Home) -> Path:
    """Write the programs that the SuperNode finds first; return their folder."""
    folder = home.path / "programs"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / "flwr-clientapp", f'exec {shlex.quote(sys.executable)} -c {shlex.quote(RUN)} "$@"')
    for name in REFUSED:
        _write(folder / name, f"echo {name} is refused: a device runs its own client app alone >&2; exit 1")
    return folder


def _write(path: Path, line: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w") as file:
        file.write(f"#!/bin/sh\n{line}\n")


def environment(home: Home, variables: dict[str, str]) -> dict[str, str]:
    """Return the SuperNode's environment with our programs first."""
    return {**variables, "PATH": f"{write_programs(home)}{os.pathsep}{variables['PATH']}"}
