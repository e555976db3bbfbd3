"""New items on their first day: how models rank items that nobody had used while they were trained.

    python -m simulations.paper.cold_start dataset=ml-100k dataset.path=DIR --models two_tower sasrec --new 0.1

A share of the catalogue, drawn by the seed, is new: devices train without every interaction with these items, and are
then asked to rank the new items that their users did use, from the rest of their histories. Prints one JSON object a
model: HR@10 and NDCG@10 with 95 % intervals over users, among all new items (chance is 10 over their number), and in
full ranking among all items.
"""

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.algorithms.sequence_sgd import FedSGDSequences
from fedrec.data.interactions import DeviceTable
from fedrec.evaluation.batched import evaluate_users
from fedrec.evaluation.candidates import CandidateBook
from fedrec.evaluation.summary import intervals
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.settings import load
from fedrec.models.sequential import SequentialRecommender
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.training.batches import CohortData
from fedrec.training.sequences import SequenceEngine

OLD = 1e4  # taken off the scores of old items where new ones are ranked among themselves


def without(devices: DeviceTable, new: NDArray[np.bool_]) -> DeviceTable:
    """Return the same devices: a history of old items only, and as test every new item that the user used."""
    user = np.repeat(np.arange(len(devices)), np.diff(devices.start))
    order = np.lexsort((np.arange(len(user)), new[devices.item], user))  # old first, both in the order of time
    old = np.bincount(user[~new[devices.item]], minlength=len(devices))
    bytes_in_flight = devices.start[:-1] + old
    return DeviceTable(
        devices.start, bytes_in_flight, bytes_in_flight, devices.item[order], devices.value[order], devices.items
    )


@dataclass(frozen=True)
class Trained:
    """A model after its last round."""

    model: SequentialRecommender
    devices: DeviceTable

    @torch.no_grad()
    def scores(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return scores [B, V]."""
        histories = [torch.from_numpy(self.devices[user].history.astype(np.int64)) for user in users.tolist()]
        return self.model.scores_many(histories, {}).numpy()


def trained(experiment: Experiment, model: SequentialRecommender, devices: DeviceTable) -> Trained:
    """Train as the round loop does, without privacy."""
    algorithm = experiment.algorithm
    if not isinstance(algorithm, FedSGDSequences):
        raise TypeError("only models that are trained by windows are compared here")
    state = algorithm.init(model, load_dataset(experiment).catalogue)
    engine, generator = SequenceEngine(model, algorithm.negatives), np.random.default_rng(experiment.seed)
    rate = experiment.cohort.rate(len(devices))
    for number in range(1, experiment.rounds + 1):
        cohort = np.flatnonzero(generator.random(len(devices)) < rate)
        key = (experiment.seed, number)
        made = engine.train(algorithm.broadcast(state), CohortData(devices, cohort), {}, NoPrivacy(), key)
        update = made.stack.weighted_sum(np.ones(len(cohort)))
        state = algorithm.step(state, Aggregate(update.arrays, float(max(len(cohort), 1))))
    model.load(algorithm.broadcast(state))
    return Trained(model, devices)


def row(name: str, found: Trained, experiment: Experiment, new: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a line of the table."""
    book, users = CandidateBook(found.devices, experiment.evaluation), np.arange(len(found.devices))
    apart = evaluate_users(lambda some: found.scores(some) - OLD * ~new, users, "test", book)
    whole = evaluate_users(found.scores, users, "test", book)
    values = [kind[f"full_{metric}@10"] for kind in (apart, whole) for metric in ("hr", "ndcg")]
    names = ("among new hr@10", "among new ndcg@10", "full hr@10", "full ndcg@10")
    shown = {
        key: [round(one.mean, 4), round(one.low, 4), round(one.high, 4)]
        for key, one in zip(names, intervals(np.stack(values, axis=1)), strict=True)
    }
    return {"model": name, "users": len(whole["user"]), "new items": int(new.sum()), **shown}


def main() -> None:
    """Train and compare the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["two_tower", "sasrec"])
    parser.add_argument("--new", type=float, default=0.1)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    for name in options.models:
        experiment = load([*options.overrides, f"model={name}", "privacy=none"]).experiment
        dataset = load_dataset(experiment)
        new = np.random.default_rng(experiment.seed).random(len(dataset.catalogue)) < options.new
        model = experiment.build_model(dataset.catalogue)
        if not isinstance(model, SequentialRecommender):
            raise TypeError(f"{name} is not trained by windows")
        found = trained(experiment, model, without(dataset.devices, new))
        print(json.dumps(row(name, found, experiment, new)), flush=True)


if __name__ == "__main__":
    main()
