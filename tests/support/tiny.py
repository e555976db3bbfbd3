"""Small experiments that the tests build on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrec.data.dataset import Dataset
from fedrec.data.interactions import Interactions
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.settings import load
from fedrec.federated.exchange import LocalTransport, Transport
from fedrec.federated.state import RunContext, open_run_context
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.storage.run_folder import RunFolder
from fedrec.testing.models import catalogue

__all__ = ["FREE", "SMALL", "catalogue", "session", "small"]

SMALL = ["dataset=synthetic", "dataset.users=40", "dataset.items=60", "dataset.interactions=900"]
FREE = [*SMALL, "privacy=none"]


def interactions_of(dataset: Dataset) -> Interactions:
    """Return the interactions of a data set small enough to keep time and value."""
    assert isinstance(dataset.interactions, Interactions)
    return dataset.interactions


def small(*overrides: str, base: list[str] | None = None) -> tuple[Experiment, Dataset]:
    """Return a calibrated small experiment and its data."""
    experiment = load([*(FREE if base is None else base), *overrides]).experiment
    dataset = load_dataset(experiment)
    return experiment.calibrated(dataset), dataset


@contextmanager
def session(
    experiment: Experiment, dataset: Dataset, path: Path, nodes: Transport | None = None, run: str = "run"
) -> Iterator[RunContext]:
    """Open a session in a folder of its own."""
    folder = RunFolder(path)
    if not folder.config.exists():
        folder.create("{}\n")
    plan, mechanism = experiment.plan(dataset), experiment.mechanism
    ledger = Ledger.open(dataset.population, run, mechanism, plan, plan.population)
    part = "refit" if experiment.algorithm.refit else "train"
    yield open_run_context(experiment, dataset, nodes or LocalTransport(2), folder, ledger, part)
