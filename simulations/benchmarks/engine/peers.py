"""Peers of the bench, each by its own script and environment: 100 devices a round, as they are written."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
SECONDS = 900


def peer(python: str, name: str, data: str, work: Path, rounds: int) -> dict[str, Any]:
    """Return what a peer's script measured; raises `RuntimeError` with the end of its output where it did not."""
    command = [python, f"{name}.py", data, "--rounds", str(rounds)]
    environment = {**os.environ, **QUIET}
    environment.pop("PYTHONPATH", None)
    folder = work / "bench"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)} in {folder} failed:\n{done.stderr[-1500:]}")
    rate = float(json.loads(lines[-1])["clients_per_second"])
    return {"wall": [rate], "cpu": [], "torch_threads": 1, "threads": 1}
