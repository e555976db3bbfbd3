"""Federated against centralised for closed forms: sums over devices, and one place that holds all histories.

    python -m simulations.paper.exact dataset=ml-1m dataset.path=DIR model=ease      (or model=ials)

plays the federated rounds without privacy over three nodes, solves the same problem (same user weights, same head, same
start) from the pooled matrix by another route, and prints how far the two solutions are apart, in double precision: the
length of the difference over the length of the solution, and the largest difference over the largest value.
"""

import argparse
import json
import secrets
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.gram_matrix import GramMatrix, solve
from fedrec.algorithms.ials import FACTORS, IALSStatistics
from fedrec.data.dataset import Dataset
from fedrec.errors import FedrecError
from fedrec.evaluation.baselines.base import pooled
from fedrec.evaluation.baselines.pooled import Ials, Weights
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.settings import Settings, load
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.state import init_algorithm_state, load_released_state, open_run_context
from fedrec.messages import Arrays
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.storage.run_folder import RunFolder

Floats = NDArray[np.float64]
NODES = 3


@dataclass(frozen=True, slots=True)
class Unrounded(GramMatrix):
    """EASE whose server keeps the weights as it solved for them, not rounded to single precision."""

    def weights(self, flat: NDArray[np.floating], size: int) -> NDArray[np.float32]:
        """Return the weights [H, H] in double precision."""
        return solve(flat, size, self.regularization)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class Apart:
    """How far a federated solution is from the centralised one, both over the size of the latter."""

    length: float
    largest: float


def federated(settings: Settings, folder: Path) -> tuple[Experiment, Dataset, Arrays, Arrays]:
    """Play all rounds over three nodes; return the experiment, its data, and the first and the last state."""
    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    algorithm = cast(object, experiment.algorithm)
    if type(algorithm) is GramMatrix:
        values = {name: getattr(algorithm, name) for name in ("head", "regularization", "count_share", "user_exponent")}
        experiment = replace(experiment, algorithm=Unrounded(**values))
    place, plan = RunFolder(folder / "run"), experiment.plan(dataset)
    place.create(settings.yaml())
    name = f"exact-{secrets.token_hex(8)}"
    ledger = Ledger.open(dataset.population, name, experiment.mechanism, plan, plan.population)
    context = open_run_context(experiment, dataset, LocalTransport(NODES), place, ledger, "refit")
    for report in run(context):
        if not report.released:
            raise RuntimeError(f"round {report.round} was not released")
    return experiment, dataset, init_algorithm_state(context), load_released_state(context)[1]


def apart(settings: Settings, folder: Path) -> Apart:
    """Return how far the federated solution is from the centralised one."""
    experiment, dataset, first, last = federated(settings, folder)
    algorithm = cast(object, experiment.algorithm)
    match algorithm:
        case GramMatrix():
            found, expected = last["weights"], central_ease(algorithm, dataset, last["head_items"].astype(np.int64))
        case IALSStatistics():
            weights = Weights(algorithm.unobserved_weight, algorithm.regularization)
            found, expected = last[FACTORS], central_ials(weights, dataset, first[FACTORS], experiment.rounds)
        case other:
            raise FedrecError(
                f"{type(other).__name__} has no centralised solution here: model=ease and model=ials have"
            )
    difference = np.abs(found - expected)
    return Apart(
        float(np.linalg.norm(difference) / np.linalg.norm(expected)), float(difference.max() / np.abs(expected).max())
    )


def central_ease(algorithm: GramMatrix, dataset: Dataset, head: NDArray[np.int64]) -> Floats:
    """Return EASE's weights [H, H] from the pooled matrix, by the inverse (Steck 2019, eq. 8)."""
    rows = pooled(dataset.devices.refitted())[:, head]
    size = np.maximum(np.asarray(rows.sum(axis=1)).ravel(), 1)
    gram = (rows.T @ (rows.multiply((size**-algorithm.user_exponent)[:, None]))).toarray()
    inverse = np.linalg.inv(gram + algorithm.regularization * np.trace(gram) / len(gram) * np.eye(len(gram)))
    weights = -inverse / inverse.diagonal()
    np.fill_diagonal(weights, 0.0)
    return weights


def central_ials(weights: Weights, dataset: Dataset, items: NDArray[np.floating], rounds: int) -> Floats:
    """Return the item vectors [V, d] after alternating from `items` between all users and all items."""
    matrix = pooled(dataset.devices.refitted())
    found = items.astype(np.float64)
    for _ in range(rounds):
        users = Ials(found, weights).folded(matrix)
        found = Ials(users, weights).folded(matrix.T.tocsr())
    return found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    settings = load([*parser.parse_args().overrides, "privacy=none"])
    with tempfile.TemporaryDirectory() as folder:
        found = apart(settings, Path(folder))
    print(json.dumps({"relative length": found.length, "largest, relative": found.largest}))


if __name__ == "__main__":
    main()
