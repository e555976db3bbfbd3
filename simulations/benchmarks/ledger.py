"""What the ledger costs a round: each step timed on a real file, beside the checkpoint that a round writes anyway.

    python -m simulations.benchmarks.ledger --users 6040 --rate 0.0166

prints the median and the largest of each step, in milliseconds. Timings of a shared machine: read the ratios.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.noise import SystemNoise
from fedrec.storage.private_arrays import MmapPrivateStore
from fedrec.storage.run_folder import Checkpoint, save_checkpoint

Times = dict[str, list[float]]


def timed(times: Times, name: str, call: Callable[[], object]) -> None:
    """Call, and note how many milliseconds it took."""
    start = time.perf_counter()
    call()
    times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))


def measured(plan: TrainingPlan, rounds: int, folder: Path) -> Times:
    """Return the times of each step over so many rounds of user level on this plan."""
    mechanism = UserLevel(epsilon=4.0).calibrated(plan, float("inf"))
    times, rng = Times(), np.random.default_rng(0)
    state = {"item": np.zeros((3706, 32), np.float32)}
    vectors = MmapPrivateStore(folder / "private", plan.population, {"user": np.zeros((1, 32), np.float32)})
    timed(times, "open (once a run)", lambda: Ledger.open("bench", "first", mechanism, plan, plan.population).close())
    ledger = Ledger.open("bench", "run", mechanism, plan, plan.population)
    for number in range(1, rounds + 1):
        cohort = np.flatnonzero(rng.random(plan.population) < plan.cohort_rate)
        timed(times, "reserve (accounting, commit, anchor)", lambda n=number: ledger.reserve(n))
        checkpoint = Checkpoint(number, state, {"ledger": ledger.head})
        for user in cohort.tolist():
            vectors.save(user, {"user": np.ones((1, 32), np.float32)}, number)
        timed(times, "private vectors to disk", vectors.flush)
        timed(times, "secure noise on 118,592 numbers", lambda: SystemNoise().gaussian((3706, 32), 1.0))
        timed(times, "the same from torch's generator", lambda: torch.empty(3706, 32).normal_())
        timed(times, "checkpoint of 0.5 MB", lambda c=checkpoint: save_checkpoint(folder / "checkpoint", c))
        timed(times, "commit (counts, cohort hash, anchor)", lambda n=number, c=cohort: ledger.commit(n, c))
        timed(times, "epsilon to show", ledger.epsilon)
    ledger.close()
    timed(
        times, "open again, every entry verified", lambda: Ledger.open("bench", "run", mechanism, plan, plan.population)
    )
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the ledger costs a round.")
    parser.add_argument("--users", type=int, default=6040)
    parser.add_argument("--rate", type=float, default=100 / 6040)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    plan = TrainingPlan(options.users, 1_000_000, options.rate, max(200, options.rounds), trains=True)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        os.environ["FEDREC_STATE"] = f"{folder}/state"
        times = measured(plan, options.rounds, Path(folder))
    print(f"{'milliseconds':<40}{'median':>8}{'largest':>9}")
    for name, values in times.items():
        print(f"{name:<40}{statistics.median(values):>8.1f}{max(values):>9.1f}")


if __name__ == "__main__":
    main()
