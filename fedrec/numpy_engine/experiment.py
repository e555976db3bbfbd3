"""What a device without torch needs of an experiment, built from the JSON document that every message carries.

Its mechanisms are none and user level, whose noise falls at the trusted server. Interaction level is not among them:
its noise falls on the device, inside the training of every example.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.instantiate import call_or_refuse, canonical, canonical_node, instantiate
from fedrec.messages import ModelUpdate
from fedrec.numpy_engine.models import LightModel
from fedrec.privacy.clipping import NormClipper
from fedrec.privacy.contributions import OneUpdate
from fedrec.privacy.grid import Grid, reach
from fedrec.privacy.release import GridRule, Release, Released, bounded
from fedrec.training.batches import LocalTrainingConfig


class UpdatePrivatizer(GridRule, Protocol):
    """What becomes of an update before it leaves."""

    def privatize_update(self, update: ModelUpdate) -> Released:
        """Return what may leave the device of one device's update."""
        ...


@dataclass(frozen=True, slots=True)
class NoPrivacy:
    """Updates leave as they are."""

    def grid(self, shapes: dict[str, tuple[int, ...]]) -> Grid | None:
        """Return None: what is sent is floating point."""
        return None

    def reach(self, count: int, grid: Grid) -> int:
        """Return what so many contributions come to."""
        return reach(count, grid.length, 0)

    def privatize_update(self, update: ModelUpdate) -> ModelUpdate:
        """Return the update as it is; one that holds NaN or infinity is an error, for nothing here would bound it."""
        if not update.finite():
            raise FedrecError("an update holds NaN or infinity: training diverged; try a smaller learning rate")
        return update


@dataclass(frozen=True, slots=True)
class UserLevel:
    """A device's whole update is clipped, on the grid; the server adds the noise."""

    rule: NormClipper
    noise_multiplier: float = 0.0

    def grid(self, shapes: dict[str, tuple[int, ...]]) -> Grid:
        """Return the grid for this clip and so many numbers."""
        return Grid.of(self.rule.norm, sum(map(math.prod, shapes.values())), self.noise_multiplier)

    def reach(self, count: int, grid: Grid) -> int:
        """Return what so many contributions come to; the server's noise comes later."""
        return reach(count, grid.length, 0)

    def privatize_update(self, update: ModelUpdate) -> Release:
        """Return the update of count 1, clipped, on the grid; a non-finite one becomes zero."""
        one = OneUpdate(update)
        return bounded(one, self.rule, self.grid(one.shapes()))


def mechanism(node: Mapping[str, Any]) -> UpdatePrivatizer:
    """Return the light side of the mechanism that an experiment's document describes; others are refused by name."""
    name = canonical(str(node["_target_"]))
    if name == "fedrec.privacy.mechanisms.none.NoPrivacy":
        return NoPrivacy()
    if name == "fedrec.privacy.mechanisms.user.UserLevel":
        rule = NormClipper(node["clip"], node["clipping"], node["dense_share"])
        return UserLevel(rule, float(node.get("noise_multiplier") or 0.0))
    raise RefusedError(
        f"the light engine carries NoPrivacy and UserLevel, not {name.rpartition('.')[2]}: "
        "choose privacy=none or privacy=user, or run this device with torch"
    )


TRAINING = tuple(f"fedrec.algorithms.fedavg.{name}" for name in ("FedAvg", "FedAdam", "FedAdagrad"))
MODELS = ("fedrec.models.mf.MatrixFactorization", "fedrec.models.neumf.NeuMF")


@dataclass(frozen=True, slots=True)
class LightExperiment:
    """The model's settings, how to train it, what to do to an update, and the seed."""

    document: dict[str, Any]
    hash: str
    settings: LocalTrainingConfig
    mechanism: UpdatePrivatizer
    seed: int

    @classmethod
    def from_json(cls, text: str) -> "LightExperiment":
        """Build from an experiment's document; what the light engine lacks is refused by name."""
        node = json.loads(text)
        canonical = json.dumps(node, sort_keys=True)
        return cls(
            document=node,
            hash=hashlib.sha256(canonical.encode()).hexdigest(),
            settings=local_training_config(node["algorithm"]),
            mechanism=mechanism(node["privacy"]),
            seed=node["seed"],
        )

    def model(self, items: int) -> LightModel:
        """Return the model for a catalogue of that many items."""
        return light_model(self.document["model"], items)


def has_light_model(node: Mapping[str, Any]) -> bool:
    """Return whether the model that a document describes has a NumPy twin."""
    return canonical(str(node["_target_"])) in MODELS


def light_model(node: Mapping[str, Any], items: int) -> LightModel:
    """Return the NumPy twin of the model that a document describes; one that has none is refused by name."""
    name = canonical(str(node["_target_"])).rpartition(".")[2]
    if not has_light_model(node):
        known = ", ".join(target.rpartition(".")[2] for target in MODELS)
        raise RefusedError(f"the light engine has {known}, not {name}: run this device with torch")
    twin = {**canonical_node(node), "_target_": f"fedrec.numpy_engine.models.{name}", "_partial_": True}
    return call_or_refuse("model", partial(instantiate(twin, "model"), items))


def local_training_config(node: Mapping[str, Any]) -> LocalTrainingConfig:
    """Return how a device trains; an algorithm that asks for anything but gradient descent is refused by name."""
    node = canonical_node(node)
    name = str(node["_target_"])
    if name not in TRAINING:
        raise RefusedError(f"the light engine trains for fedavg, fedadam and fedadagrad, not {name.rpartition('.')[2]}")
    if node["optimizer"] != "sgd":
        raise RefusedError(
            f"algorithm.optimizer={node['optimizer']}: the light engine has sgd; run this device with torch"
        )
    return LocalTrainingConfig(**{field.name: node[field.name] for field in fields(LocalTrainingConfig)})
