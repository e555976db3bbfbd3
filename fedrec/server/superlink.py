"""Flower's own commands, called on this server's SuperLink."""

import json
import subprocess
from typing import Any

from fedrec.errors import FedrecError
from fedrec.ops import processes
from fedrec.server.home import CONNECTION, ServerHome

CALL_SECONDS = 120.0


def call(home: ServerHome, *arguments: str) -> dict[str, Any]:
    """Run `flwr ARGUMENTS... --format json` and return what it says; a failure is an error with Flower's words."""
    command = [processes.program("flwr"), *arguments, "--format", "json"]
    done = subprocess.run(
        command, env=processes.environment(home.flower), capture_output=True, text=True, timeout=CALL_SECONDS,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    start = done.stdout.find("{")
    try:
        said = json.loads(done.stdout[start:]) if start >= 0 else {}
    except ValueError:
        said = {}
    if done.returncode or not said.get("success", bool(said)):
        text = said.get("error-message") or (done.stderr or done.stdout).strip()[-400:]
        raise FedrecError(f"flwr {arguments[0]}: {' '.join(str(text).split())}")
    return said


def register(home: ServerHome, key_file: str) -> None:
    """Let a key's SuperNode connect."""
    call(home, "supernode", "register", key_file, CONNECTION)


def start_run(home: ServerHome, app: str, folder: str) -> str:
    """Start the app on a run folder and return Flower's name of the run."""
    return str(call(home, "run", app, CONNECTION, "-c", f'resume="{folder}"')["run-id"])


def run_status(home: ServerHome, run: str) -> str:
    """Return what Flower says of a run: pending, starting, running, finished:completed, finished:failed ..."""
    return str(call(home, "list", CONNECTION, "--run-id", run)["runs"][0]["status"])


def stop_run(home: ServerHome, run: str) -> None:
    """Stop a run."""
    call(home, "stop", run, CONNECTION)
