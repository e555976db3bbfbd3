"""Kernels against many devices at once: devices a second of processor time, the engines taking turns in one process.

    python -m simulations.benchmarks.kernels
    python -m simulations.benchmarks.kernels dataset=ml-1m dataset.path=ml-1m.zip

One thread each. What is timed is a round of a node: training, bounds, the sum and its release, no messages.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load
from fedrec.federated.node import ThreadedExecutor
from fedrec.models.base import TrainableRecommender
from fedrec.storage.private_arrays import MmapPrivateStore
from fedrec.testing.engines import ENGINES

NOISE = ["privacy=interaction", "privacy.noise_multiplier=1.0", "privacy.epsilon=1000"]
JOBS = {
    "mf, FedAvg": ["model=mf", "algorithm=fedavg", "privacy=none"],
    "mf, 5 full passes": ["model=mf", "algorithm.epochs=5", "algorithm.batch_size=100000", "privacy=none"],
    "mf, user level": ["model=mf", "privacy=user"],
    "mf, DP-SGD": ["model=mf", *NOISE],
    "mf, DP-SGD of 3 steps": ["model=mf", *NOISE, "privacy.local_steps=3", "privacy.sample_rate=0.34"],
    "content, DP-SGD": ["model=content", *NOISE],
    "neumf, FedAvg": ["model=neumf", "algorithm=fedavg", "privacy=none"],
    "neumf, DP-SGD": ["model=neumf", *NOISE],
    "neumf, DP-SGD of 3 steps": ["model=neumf", *NOISE, "privacy.local_steps=3", "privacy.sample_rate=0.34"],
}


def play(overrides: list[str], devices: int, folder: Path) -> dict[str, Callable[[int], int]]:
    """Return by engine what plays round n and returns how many devices it had."""
    experiment = load([*overrides, "evaluation.baselines=[]"]).experiment
    dataset = load_dataset(experiment)
    experiment = experiment.calibrated(dataset)
    model, algorithm = experiment.build_model(dataset.catalogue), experiment.algorithm
    if not isinstance(model, TrainableRecommender) or not isinstance(algorithm, FedAvg):
        raise TypeError("the jobs are models that train by federated averaging")
    sent = model.shared_arrays()

    def player(engine: str) -> Callable[[int], int]:
        nodes = ThreadedExecutor(lambda: ENGINES[engine](model, algorithm), threads=1)
        store = MmapPrivateStore(folder / engine, len(dataset.devices), model.private_arrays())

        def play_round(number: int) -> int:
            rng = np.random.default_rng(number)
            users = np.sort(rng.choice(len(dataset.devices), min(devices, len(dataset.devices)), replace=False))
            context = RoundContext(number, 0, experiment.mechanism)
            nodes.contribute(store, dataset.devices, (users, sent), context)[0].total()
            return len(users)

        return play_round

    return {engine: player(engine) for engine in ENGINES}


def measure(overrides: list[str], devices: int, rounds: int) -> dict[str, list[float]]:
    """Return by engine the devices a second of processor time of each round after the first."""
    with tempfile.TemporaryDirectory() as folder:
        players, found = play(overrides, devices, Path(folder)), {engine: list[float]() for engine in ENGINES}
        for number in range(1, rounds + 2):
            for engine, play_round in players.items():
                before = time.process_time()
                trained = play_round(number)
                if number > 1:
                    found[engine].append(trained / (time.process_time() - before))
    return found


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of the data, such as dataset=ml-1m (default: the shipped data)")
    parser.add_argument("--devices", type=int, default=500, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="jobs whose name holds one of these words")
    parser.add_argument("--json", type=Path, default=Path("bench_kernels.json"), help="where the figures are written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    written, load_before = dict[str, dict[str, list[float]]](), os.getloadavg()[0]
    print("| job | kernel, devices/s | vectorized | ratio, and of single rounds |\n|---|---|---|---|")
    for job, overrides in JOBS.items():
        if options.only and not any(word in job for word in options.only):
            continue
        found = written[job] = measure([*overrides, *options.overrides], options.devices, options.rounds)
        fast, slow = (statistics.median(found[engine]) for engine in ("kernel", "vectorized"))
        ratios = [a / b for a, b in zip(found["kernel"], found["vectorized"], strict=True)]
        print(f"| {job} | {fast:,.0f} | {slow:,.0f} | {fast / slow:.1f} ({min(ratios):.1f} to {max(ratios):.1f}) |")
    print(f"\nof processor time, one thread; load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after")
    options.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
