"""`flwr run .` on Ray, with everything around it: a SuperLink of its own on loopback, offline, stopped at the end.

`fedrec ray` runs the same two apps as `fedrec simulate`, a shard of the devices on each simulated node; with --cluster,
on the workers of a Ray cluster that runs already, on one machine or several. Needs `pip install 'fedrec[ray]'`.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from fedrec.errors import FedrecError
from fedrec.experiment.automatic import load_chosen
from fedrec.experiment.instantiate import environment as allowed_environment
from fedrec.experiment.overrides import find_overruled
from fedrec.experiment.settings import validate
from fedrec.flower import superlink
from fedrec.ops import processes
from fedrec.paths import app_dir

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


def run_on_ray(overrides: Sequence[str], nodes: int, cluster: str | None) -> int:
    """Run the apps on so many nodes and return the exit status: 0 where the run has ended with its metrics.

    `cluster` is the address of a Ray cluster that runs already, such as 10.0.0.1:6379.
    """
    for override in overrides:
        if set(override) & set(" '\"\\"):
            raise FedrecError(f"{override}: spaces, quotes and backslashes can't travel through `flwr run`")
    asked = load_chosen(overrides)
    if asked.chosen:
        print(asked.chosen, file=sys.stderr)
    settings = validate(asked)
    if settings.document["privacy"].get("secure") == "real":
        raise FedrecError("privacy.secure=real plays its messages in one process: use fedrec simulate, or secure=ideal")
    for line in find_overruled(settings.experiment, overrides):
        print(line, file=sys.stderr)
    document = settings.document
    name, output = document["name"] or time.strftime("%Y-%m-%dT%H-%M-%S"), Path(document["output"]).resolve()
    text = f"overrides='{' '.join([*overrides, f'name={name}', f'output={output}'])}'"
    size = f"--num-supernodes {nodes} --client-resources-num-cpus 1"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**processes.environment(Path(folder)), **allowed_environment()}
        if cluster:
            environment["RAY_ADDRESS"] = cluster  # where Ray itself looks for a cluster that runs already
            # A cluster's workers don't inherit from this process; Ray gives them what a job's own environment says.
            environment[JOB_CONFIG] = json.dumps({"runtime_env": {"env_vars": allowed_environment()}})
        else:
            size += f" --init-args-num-cpus {nodes}"
        with simulation_superlink(environment, Path(folder)):
            status = flower(f"federation simulation-config @none/default sim {size}", environment)
            status = status or flower("run", environment, str(app_dir()), "sim", "--stream", "-c", text)
    # `flwr run` ends with status 0 whatever became of the run.
    return status or int(not (output / name / "metrics.json").exists())
