"""What real devices cost on this machine: a server and N devices over TLS, from nothing to a trained model.

    python -m simulations.devices --nodes 10 --engine light --rounds 5

prints one JSON object: seconds of every step, seconds a round, bytes down and up of one device in one round.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from fedrec.ops.processes import environment, free_port


class Walk:
    """A folder in which `fedrec` commands run one after the other, each timed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.port = folder, dict[str, float](), free_port()
        self._variables = environment(folder / "flower") | {
            "FEDREC_SERVER": str(folder / "server"),
            "FEDREC_STATE": str(folder / "state"),
            "FEDREC_PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }

    def fedrec(self, step: str, *arguments: str) -> None:
        """Run one command; its time is added to the step's."""
        start, process = time.monotonic(), self.began(*arguments)
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"fedrec {' '.join(arguments)}: {said}")
        self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - start

    def began(self, *arguments: str) -> "subprocess.Popen[str]":
        """Begin one command."""
        return subprocess.Popen(
            [sys.executable, "-m", "fedrec", *arguments], cwd=self.folder, env=self._variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


@contextlib.contextmanager
def settle(steps: Walk, nodes: int, engine: str) -> Generator[list[Path]]:
    """Bring up a server and as many devices, each with the films of one real user; stop them at the end."""
    homes = [steps.folder / f"device-{n:02d}" for n in range(1, nodes + 1)]
    steps.fedrec("split", "data", "split", "ml-latest-small", "--devices", str(nodes), "--to", "files")
    files = sorted(path for path in (steps.folder / "files").glob("*.csv") if path.name != "items.csv")
    try:
        steps.fedrec("server up", "server", "up", "--background")
        authority = "server/certificates/ca.crt"
        for home, file in zip(homes, files, strict=True):
            more = ["--ca", authority, "--engine", engine, "--allow-unprotected", "--home", str(home)]
            steps.fedrec("enroll", "client", "enroll", *more)
            steps.fedrec("import", "client", "import", str(file), "--home", str(home))
        steps.fedrec("admit", "server", "admit", *(f"{home}/device.pub" for home in homes))
        for home in homes:
            steps.fedrec("client up", "client", "up", "--background", "--always", "--home", str(home))
        yield homes
    finally:
        for home in homes:
            if (home / "up.json").exists():
                steps.fedrec("down", "client", "down", "--home", str(home))
        steps.fedrec("down", "server", "down")


def walk(folder: Path, nodes: int, engine: str, rounds: int, model: str) -> dict[str, Any]:
    """Walk from a data set to a trained model on real devices; return what it took."""
    steps, start = Walk(folder), time.monotonic()
    with settle(steps, nodes, engine):
        settings = [f"model={model}", "privacy=none", f"rounds={rounds}", "name=real"]
        steps.fedrec("train", "server", "start", "dataset.path=files/items.csv", *settings)
        whole = time.monotonic() - start
    return {
        "nodes": nodes,
        "engine": engine,
        "model": model,
        "seconds": steps.seconds,
        "walk_seconds": whole,
    } | figures(folder / "runs" / "real")


def figures(run: Path) -> dict[str, Any]:
    """Return what a run folder says of its rounds."""
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    answered = max(1, sum(line["answered"] for line in lines))
    return {
        "round_seconds": [round(line["seconds"], 2) for line in lines],
        "median_round_seconds": statistics.median(line["seconds"] for line in lines),
        "answered": answered,
        "bytes_down_per_device_and_round": sum(line["bytes_down"] for line in lines) / answered,
        "bytes_up_per_device_and_round": sum(line["bytes_up"] for line in lines) / answered,
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--engine", default="auto", help="auto, torch or light")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="mf")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = walk(Path(folder), options.nodes, options.engine, options.rounds, options.model)
    print(json.dumps({**found, "load_average": os.getloadavg()[0], "processors": os.cpu_count()}, indent=2))


if __name__ == "__main__":
    main()
