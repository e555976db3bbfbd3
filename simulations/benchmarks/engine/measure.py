"""One measurement of one system, in a process of its own: prints one JSON line.

Devices a second count examples: examples a second over the mean number of a device, so that they don't hang on who was
drawn.
"""

import argparse
import importlib
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return devices a second by the clock and by processor time over the rounds after the first."""
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEDREC_STATE"] = str(Path(folder) / "state")
        from simulations.benchmarks.engine.task import Task  # after the state folder is set

        room, _, name = str(options.system).partition(":")
        task = Task(Path(options.work), options.data, options.devices, options.private, options.threads)
        module = importlib.import_module(f"simulations.benchmarks.engine.{room}")
        play = getattr(module, name)(task, Path(folder) / "run")
        mean = float(np.diff(task.table().start).mean())
        play()
        wall, cpu = list[float](), list[float]()
        for _ in range(options.rounds):
            clock, processor = time.perf_counter(), time.process_time()
            devices = play() / mean
            wall.append(devices / (time.perf_counter() - clock))
            cpu.append(devices / (time.process_time() - processor))
    return {"wall": wall, "cpu": cpu, "torch_threads": torch.get_num_threads(), "threads": options.threads}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", help="module:function, such as ours:engine")
    for name, kind in (("work", str), ("data", str), ("devices", int), ("threads", int), ("rounds", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--private", action="store_true")
    print(json.dumps(measured(parser.parse_args())))


if __name__ == "__main__":
    main()
