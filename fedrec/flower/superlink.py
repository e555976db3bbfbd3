"""The SuperLink: how it is started, and Flower's own commands called on one that runs.

`flower_home` is the folder of Flower's configuration, which names the SuperLink as `CONNECTION`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fedrec.errors import FedrecError
from fedrec.flower import own_superlink
from fedrec.ops import processes
from fedrec.paths import app_dir

CONNECTION = "fedrec"  # what Flower's configuration calls this server
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CALL_SECONDS, START_SECONDS = 120.0, 60.0


def command_line(port: int, database: Path, certificates: Path | None) -> list[str]:
    """Return the command of a SuperLink on loopback, TLS and keys asked for where there are certificates.

    It answers this user's processes alone where the system tells whose a connection is.
    """
    line = [sys.executable, "-m", "fedrec.flower.own_superlink", "--host", "127.0.0.1", "--port", str(port)]
    line += ["--database", str(database), "--disable-runtime-dependency-installation"]
    if certificates is None:
        return [*line, "--insecure"]
    files = ("--ssl-ca-certfile", "ca.crt"), ("--ssl-certfile", "server.crt"), ("--ssl-keyfile", "server.key")
    named = (text for option, name in files for text in (option, str(certificates / name)))
    return [*line, "--enable-supernode-auth", *named]


def keeps_others_out() -> bool:
    """Say whether a SuperLink of `command_line` answers this user's processes alone."""
    return own_superlink.can_tell()


def simulation_command_line(port: int) -> list[str]:
    """Return the command of a SuperLink on loopback whose SuperNodes are simulated on Ray."""
    line = [processes.program("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1"]
    return [*line, "--port", str(port), "--disable-runtime-dependency-installation"]


def write_connection(flower_home: Path, name: str, port: int, authority: Path | None) -> None:
    """Write Flower's configuration: the SuperLink `name` on this machine, over TLS where `authority` certifies it."""
    how = "insecure = true" if authority is None else f'root-certificates = "{authority}"'
    text = f'[superlink]\ndefault = "{name}"\n\n[superlink.{name}]\naddress = "127.0.0.1:{port}"\n{how}\n'
    flower_home.mkdir(parents=True, exist_ok=True, mode=0o700)
    (flower_home / "config.toml").write_text(text)


def wait_until_up(process: "subprocess.Popen[bytes]", port: int, log: Path, name: str = "the SuperLink") -> None:
    """Wait until a process that was started listens; raise with its name and the end of its log where it does not."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if processes.listens(port):
            return
        time.sleep(0.1)
    raise FedrecError(f"{name} did not start: {read_tail(log)}")


def read_tail(log: Path) -> str:
    """Return the end of Flower's log as one line."""
    return " ".join(log.read_text(errors="replace")[-600:].split())


def call(flower_home: Path, *arguments: str) -> dict[str, Any]:
    """Run `flwr ARGUMENTS... --format json` and return what it says; a failure is an error with Flower's words."""
    command = [processes.program("flwr"), *arguments, "--format", "json"]
    done = subprocess.run(
        command, env=processes.environment(flower_home), capture_output=True, text=True, timeout=CALL_SECONDS,
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


def register(flower_home: Path, key_file: str) -> None:
    """Let a key's SuperNode connect."""
    call(flower_home, "supernode", "register", key_file, CONNECTION)


def start_run(flower_home: Path, folder: str) -> str:
    """Start our app on a run folder and return Flower's name of the run."""
    return str(call(flower_home, "run", str(app_dir()), CONNECTION, "-c", f'resume="{folder}"')["run-id"])


def run_status(flower_home: Path, run: str) -> str:
    """Return what Flower says of a run: pending, starting, running, finished:completed, finished:failed ..."""
    return str(call(flower_home, "list", CONNECTION, "--run-id", run)["runs"][0]["status"])


def stop_run(flower_home: Path, run: str) -> None:
    """Stop a run."""
    call(flower_home, "stop", run, CONNECTION)
