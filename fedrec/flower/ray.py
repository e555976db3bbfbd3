"""`flwr run .` on Ray, with everything around it: a SuperLink of its own on loopback, offline, stopped at the end.

    python -m fedrec.flower.ray --nodes 2 dataset=ml-100k dataset.path=DIR rounds=3

runs the same two apps as `fedrec simulate`, a shard of the devices on each simulated node; with --cluster, on the
workers of a Ray cluster that runs already, on one machine or several. Needs `pip install 'fedrec[ray]'`.
"""

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from pathlib import Path

from fedrec.errors import FedrecError
from fedrec.experiment.instantiate import environment as allowed_environment
from fedrec.experiment.settings import load
from fedrec.flower import superlink
from fedrec.ops import processes
from fedrec.paths import app_dir
from fedrec.simulation import validate

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # where ray.init looks for the configuration of a job


@contextlib.contextmanager
def simulation_superlink(environment: Mapping[str, str], home: Path) -> Generator[None]:
    """Run a SuperLink for simulations, known to `flwr` as "sim"; stop it and what it started at the end."""
    port, log = processes.free_port(), home / "superlink.log"
    superlink.write_connection(home, "sim", port, None)
    process = processes.start(superlink.simulation_command_line(port), environment, log)
    try:
        superlink.wait_until_up(process, port, log)
        yield
    finally:
        processes.stop(process)


def flower(command: str, environment: Mapping[str, str], *arguments: str) -> int:
    """Run a `flwr` command and return its exit status."""
    return subprocess.run(
        [processes.program("flwr"), *command.split(), *arguments], env=environment, check=False
    ).returncode


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
        environment = {**processes.environment(Path(folder)), **allowed_environment()}
        with simulation_superlink(environment, Path(folder)):
            size = f"--num-supernodes {options.nodes} --client-resources-num-cpus 1"
            if options.cluster:
                environment["RAY_ADDRESS"] = options.cluster  # where Ray itself looks for a cluster that runs already
                # A cluster's workers don't inherit from this process; Ray gives them what a job's own environment says.
                environment[JOB_CONFIG] = json.dumps({"runtime_env": {"env_vars": allowed_environment()}})
            else:
                size += f" --init-args-num-cpus {options.nodes}"
            status = flower(f"federation simulation-config @none/default sim {size}", environment)
            text = f"overrides='{' '.join(overrides)}'"
            status = status or flower("run", environment, str(app_dir()), "sim", "--stream", "-c", text)
    # `flwr run` ends with status 0 whatever became of the run.
    raise SystemExit(status or int(not (output / name / "metrics.json").exists()))


if __name__ == "__main__":
    main()
