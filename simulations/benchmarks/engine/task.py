"""What is measured: some devices of the job a round, on some threads, with DP-SGD or without privacy."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.interactions import DeviceTable
from fedrec.experiment import instantiate
from fedrec.experiment.experiment import Experiment
from simulations.benchmarks.engine.job import arrays

instantiate.allow("simulations")
Play = Callable[[], int]  # plays a round and returns how many examples its devices have


@dataclass(frozen=True)
class Task:
    """`devices` of the job `data` a round, with DP-SGD where `private`, on `threads` where ours has a choice."""

    work: Path
    data: str
    devices: int
    private: bool
    threads: int

    @property
    def path(self) -> Path:
        """The job's arrays."""
        return self.work / "bench" / f"job-{self.data}.npz"

    def table(self) -> DeviceTable:
        """Return the job's devices."""
        return arrays(self.path)

    def experiment(self, engine: str = "auto") -> Experiment:
        """Return the job as an experiment of ours; DP-SGD takes as many steps as the peers do, on Poisson samples."""
        privacy: dict[str, Any] = {"_target_": "fedrec.privacy.mechanisms.none.NoPrivacy"}
        if self.private:
            steps = int(np.rint(np.ceil(np.diff(self.table().start) / 64).mean()))
            privacy = {
                "_target_": "fedrec.privacy.mechanisms.interaction.InteractionLevel",
                "noise_multiplier": 1.0,
                "clip": 1.0,
            }
            privacy |= {"sample_rate": 1 / steps, "local_steps": steps, "denominator": 64.0, "epsilon": 1000.0}
        ours = "simulations.benchmarks.engine.job"
        document = {
            "dataset": {"_target_": f"{ours}.Job", "path": str(self.path.resolve())},
            "model": {"_target_": f"{ours}.Network", "_partial_": True},
            "algorithm": {"_target_": "fedrec.algorithms.fedavg.FedAvg", "negatives": 0},
            "privacy": privacy,
            "cohort": {"_target_": "fedrec.experiment.cohort.CohortConfig", "size": float(self.devices)},
            "evaluation": {"_target_": "fedrec.evaluation.config.EvaluationConfig", "baselines": []},
            "rounds": 100,
            "seed": 0,
            "accelerator": "cpu",
            "engine": engine,
        }
        return Experiment.from_json(json.dumps(document))
