"""PFedRec as it is published and as it is: the same model and training, with the leaking protocol and with ours.

    python -m simulations.paper.pfedrec_leak dataset=ml-100k dataset.path=DIR --rounds 100

The published protocol (in its authors' code) draws training negatives outside of *all* of a user's items, the
held-out ones included, and ranks by the device's own copy of the item table, which was trained on them: the held-out
item is the only one that was never pushed down. Ours draws them outside of the train items alone. Both rank the test
item against 99 sampled ones, after the round that is best on validation. "alone" is each device by itself, nothing
exchanged, on the first --alone users: chance is HR@10 0.100. Prints one JSON object a row.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.interactions import DeviceTable
from fedrec.evaluation.batched import evaluate_users
from fedrec.evaluation.candidates import CandidateBook
from fedrec.evaluation.per_user import PerUserResults
from fedrec.evaluation.summary import intervals
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.settings import load
from fedrec.messages import Arrays
from fedrec.models.pfedrec import PFedRec
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.training.batches import CohortData, Histories, Keyed, NegativeSampler
from fedrec.training.vectorized.engine import VectorizedEngine
from fedrec.training.vectorized.updates import Contributions, StackedUpdates

Floats = NDArray[np.float32]
EVERY = 5  # rounds between two looks at validation


class OutsideOfAll(NegativeSampler):
    """The leak: negatives avoid the held-out items too."""

    def __init__(self, devices: DeviceTable) -> None:
        super().__init__(devices.items)
        self._devices = devices

    def draw(self, random: Keyed, histories: Histories, number: int, k: int) -> NDArray[np.int64]:
        """Return item rows [C, n, k]."""
        devices = [self._devices[int(user)] for user in histories.users]
        held = np.stack([np.concatenate([one.validation, one.test]) for one in devices])
        items = np.concatenate([held, histories.items], axis=1)
        more = replace(histories, items=items, sizes=histories.sizes + held.shape[1])
        return super().draw(random, more, number, k)[:, : histories.items.shape[1]]


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    experiment: Experiment
    devices: DeviceTable
    model: PFedRec
    rounds: int

    def engine(self, leaky: bool) -> VectorizedEngine:
        """Return what trains the devices, with or without the leak."""
        algorithm = self.experiment.algorithm
        if not isinstance(algorithm, FedAvg):
            raise TypeError("only fedavg is published")
        return VectorizedEngine(self.model, algorithm, OutsideOfAll(self.devices) if leaky else None)

    def train(
        self, engine: VectorizedEngine, table: Arrays, users: NDArray[np.int64], private: Arrays, number: int
    ) -> Contributions[StackedUpdates]:
        """Train the devices of some users on an item table."""
        return engine.train(
            table, CohortData(self.devices, users), private, NoPrivacy(), (self.experiment.seed, number)
        )

    def scores(self, table: Arrays, made: Contributions[StackedUpdates], users: int) -> Floats:
        """Return scores [users, V] by each device's own copy of the item table: what it got and what it changed."""
        own, bias = made.private["score.weight"][:, 0], made.private["score_bias.weight"][:, 0]
        found = np.zeros((users, self.devices.items), np.float32)
        found[made.users] = np.float32(self.model.stretch) * (own @ table["item.weight"].T) + bias
        for tile, first in zip(made.stack.tiles, made.stack.starts, strict=False):
            owner = tile.owner.numpy() + first
            moved = (tile.rows["item.weight"].numpy() * own[owner]).sum(1) * self.model.stretch
            found[made.users[owner], tile.items.numpy()] += moved
        return found


def together(setting: Setting, leaky: bool) -> Callable[[int], Floats]:
    """Return what plays a round with everybody and gives the scores after it."""
    engine, users = setting.engine(leaky), np.arange(len(setting.devices))
    table, private = setting.model.shared_arrays(), engine.first_private(setting.experiment.seed, users)

    def play(number: int) -> Floats:
        made = setting.train(engine, table, users, private, number)
        found = setting.scores(table, made, len(users))
        for name, array in made.private.items():
            private[name][made.users] = array
        change = made.stack.weighted_sum(np.ones(made.stack.count)).arrays["item.weight"]
        table["item.weight"] = (table["item.weight"] + change / len(users)).astype(np.float32)
        return found

    return play


def alone(setting: Setting, leaky: bool, users: int) -> Callable[[int], Floats]:
    """Return what plays a round of each of the first users by itself, and gives the scores after it."""
    engine, some = setting.engine(leaky), np.arange(users)
    tables = [setting.model.shared_arrays() for _ in some]
    private = engine.first_private(setting.experiment.seed, some)

    def play(number: int) -> Floats:
        found = np.zeros((users, setting.devices.items), np.float32)
        for user in some.tolist():
            mine = {name: array[user : user + 1] for name, array in private.items()}
            made = setting.train(engine, tables[user], some[user : user + 1], mine, number)
            found[user] = setting.scores(tables[user], made, users)[user]
            for name, array in made.private.items():
                private[name][user] = array[0]
            tables[user]["item.weight"] = tables[user]["item.weight"] + made.stack.update_of(0).arrays["item.weight"]
        return found

    return play


def best(setting: Setting, play: Callable[[int], Floats], users: int) -> tuple[int, PerUserResults]:
    """Return the round that is best on validation, by HR@10 against 99, and its test rows."""
    book, top = CandidateBook(setting.devices, setting.experiment.evaluation), (-1.0, 0, PerUserResults())
    everyone = np.arange(users)
    for number in range(1, setting.rounds + 1):
        scores = play(number)
        if number % EVERY and number < setting.rounds:
            continue
        valid = evaluate_users(lambda some, s=scores: s[some], everyone, "validation", book)
        score = float(valid["sampled_hr@10"].mean())
        if score > top[0]:
            top = score, number, evaluate_users(lambda some, s=scores: s[some], everyone, "test", book)
    return top[1], top[2]


def row(protocol: str, exchange: str, number: int, test: PerUserResults) -> dict[str, Any]:
    """Return a line of the table, with 95 % intervals over users."""
    names = ("sampled_hr@10", "sampled_ndcg@10", "full_hr@10", "full_ndcg@10")
    found = intervals(np.stack([test[name] for name in names], axis=1))
    values = {
        name: [round(one.mean, 4), round(one.low, 4), round(one.high, 4)]
        for name, one in zip(names, found, strict=True)
    }
    return {"protocol": protocol, "exchange": exchange, "users": len(test["user"]), "round": number, **values}


def main() -> None:
    """Play all rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--alone", type=int, default=200)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    experiment = load([*options.overrides, "model=pfedrec", "privacy=none"]).experiment
    dataset = load_dataset(experiment)
    model = experiment.build_model(dataset.catalogue)
    if not isinstance(model, PFedRec):
        raise TypeError("model=pfedrec is what is published")
    setting = Setting(experiment, dataset.devices, model, options.rounds)
    few = min(options.alone, len(dataset.devices))
    for protocol, leaky in (("published", True), ("ours", False)):
        play = together(setting, leaky)
        print(json.dumps(row(protocol, "federated", *best(setting, play, len(dataset.devices)))), flush=True)
        shorter = replace(setting, rounds=min(options.rounds, 50))
        print(json.dumps(row(protocol, "alone", *best(shorter, alone(shorter, leaky, few), few))), flush=True)


if __name__ == "__main__":
    main()
