"""Rounds of ours: the engine alone, and the whole round through Flower's apps."""

from pathlib import Path

import numpy as np
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.device.client_app import make_client_app
from fedrec.experiment.experiment import load_dataset
from fedrec.federated import node
from fedrec.federated.loop import run_round
from fedrec.federated.state import initial_state, open_run_context
from fedrec.flower.transport import FlowerTransport, InProcessGrid
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.privacy.release import worth
from fedrec.storage.private_arrays import MmapPrivateStore
from fedrec.storage.run_folder import RunFolder
from simulations.benchmarks.engine.task import Play, Task


def alone(task: Task, folder: Path, engine: str) -> Play:
    """Return rounds of an engine alone: no messages, no ledger, no checkpoint, no files brought to disk."""
    node.THREADS = task.threads
    dataset, table, rng = load_dataset(task.experiment()), task.table(), np.random.default_rng(0)
    experiment = node.settled(task.experiment(engine), dataset)
    model, algorithm = experiment.build_model(dataset.catalogue), experiment.algorithm
    nodes = node.make_executor(experiment, model)
    if nodes is None or not isinstance(algorithm, FedAvg):
        raise TypeError("the job is one network, trained by federated averaging on many devices at once")
    store, states = MmapPrivateStore(folder, len(table), model.private_arrays()), [model.shared_arrays()]
    torch.set_num_threads(1)

    def one() -> int:
        users = np.sort(rng.choice(len(table), min(task.devices, len(table)), replace=False))
        context = RoundContext(len(states), 0, experiment.mechanism)
        update = nodes.contribute(store, table, (users, states[-1]), context)[0].total()
        states.append(algorithm.step(states[-1], Aggregate(worth(update), float(update.count))))
        return int((table.start[users + 1] - table.start[users]).sum())

    return one


def engine(task: Task, folder: Path) -> Play:
    """Return rounds of the engine that a new run takes."""
    return alone(task, folder, "auto")


def vectorized(task: Task, folder: Path) -> Play:
    """Return rounds of the engine of stacked layers."""
    return alone(task, folder, "vectorized")


def flower(task: Task, folder: Path) -> Play:
    """Return whole rounds through Flower's apps on the in-process grid, ledger, messages and checkpoint included."""
    node.THREADS = task.threads
    dataset = load_dataset(task.experiment())
    experiment = node.settled(task.experiment().calibrated(dataset), dataset)
    plan, run, table = experiment.plan(dataset), RunFolder(folder), task.table()
    run.create("{}\n")
    ledger = Ledger.open(dataset.population, "bench", experiment.mechanism, plan, plan.population)
    context = open_run_context(
        experiment, dataset, FlowerTransport(InProcessGrid(make_client_app(), 1)), run, ledger, "train"
    )
    at = [initial_state(context)]
    mean = (table.start[1:] - table.start[:-1]).mean()

    def one() -> int:
        number = len(at)
        ledger.reserve(number)
        standing, report = run_round(context, at[-1], number)
        at.append(standing)
        if report.answered != report.cohort:
            raise RuntimeError(f"{report.cohort - report.answered} devices did not answer: {report.rejected}")
        return round(report.answered * mean)

    return one
