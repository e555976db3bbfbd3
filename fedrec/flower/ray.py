"""`flwr run .` on Ray, with everything around it: a SuperLink of its own on loopback, offline, stopped at the end.

    python -m fedrec.flower.ray --nodes 2 dataset=ml-100k dataset.path=DIR rounds=3

runs the same two apps as `fedrec simulate`, a shard of the devices on each simulated node; with --cluster, on the
workers of a Ray cluster that runs already, on one machine or several. Needs `pip install 'fedrec[ray]'` and a
checkout, whose pyproject.toml `flwr run` reads.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.simulation import validate

ROOT = Path(__file__).parents[2]
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
START_SECONDS = 60.0


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def superlink(environment: dict[str, str], home: Path) -> Iterator[None]:
    """Run a SuperLink for simulations, known to `flwr` as "sim"; stop it and what it started at the end."""
    address = f"127.0.0.1:{free_port()}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "sim"\n\n[superlink.sim]\naddress = "{address}"\ninsecure = true\n'
    )
    host, port = address.split(":")
    command = [program("flower-superlink"), "--insecure", "--simulation", "--host", host, "--port", port]
    command.append("--disable-runtime-dependency-installation")
    with (home / "superlink.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(int(port), process, home / "superlink.log")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the SuperLink listens."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the SuperLink did not start:\n{log.read_text()[-2000:]}")


def program(name: str) -> str:
    """Return the path of a command of this Python's environment."""
    return str(Path(sys.executable).parent / name)


def flower(command: str, environment: dict[str, str], *arguments: str) -> int:
    """Run a `flwr` command and return its exit status."""
    return subprocess.run([program("flwr"), *command.split(), *arguments], env=environment, check=False).returncode


def main() -> None:
    """Run the apps and return Flower's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2, help="shards, one Ray actor each")
    parser.add_argument("--cluster", help="address of a Ray cluster that runs already, such as 10.0.0.1:6379")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    overrides = list(options.overrides)
    if any(set(override) & set(" '\"\\") for override in overrides):
        parser.error("overrides with spaces, quotes or backslashes can't travel through `flwr run`")
    try:
        document = validate(load(overrides)).document
    except FedrecError as error:
        parser.error(str(error))
    name, output = document["name"] or time.strftime("%Y-%m-%dT%H-%M-%S"), Path(document["output"]).resolve()
    overrides += [f"name={name}", f"output={output}"]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, **OFFLINE, "FLWR_HOME": folder, "PATH": path}
        with superlink(environment, Path(folder)):
            size = f"--num-supernodes {options.nodes} --client-resources-num-cpus 1"
            if options.cluster:
                environment["RAY_ADDRESS"] = options.cluster  # where Ray itself looks for a cluster that runs already
            else:
                size += f" --init-args-num-cpus {options.nodes}"
            status = flower(f"federation simulation-config @none/default sim {size}", environment)
            text = f"overrides='{' '.join(overrides)}'"
            status = status or flower("run", environment, str(ROOT), "sim", "--stream", "-c", text)
    # `flwr run` ends with status 0 whatever became of the run.
    raise SystemExit(status or int(not (output / name / "metrics.json").exists()))


if __name__ == "__main__":
    main()
