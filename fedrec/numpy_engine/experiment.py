"""What a light device needs of an experiment, built from the same JSON document that every message carries."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from fedrec.errors import FedrecError, Refused
from fedrec.experiment.instantiate import build, made
from fedrec.numpy_engine.mechanisms import Release, mechanism
from fedrec.numpy_engine.model import LightModel
from fedrec.privacy.mechanisms.protocol import LocalSettings

TRAINING = tuple(f"fedrec.algorithms.{name}" for name in ("fedavg.FedAvg", "fedopt.FedAdam", "fedadagrad.FedAdagrad"))
MODELS = ("mf", "neumf")


@dataclass(frozen=True, slots=True)
class LightExperiment:
    """The model's settings, how to train it, what to do to an update, and the seed."""

    document: dict[str, Any]
    hash: str
    settings: LocalSettings
    mechanism: Release
    seed: int

    @classmethod
    def from_json(cls, text: str) -> "LightExperiment":
        """Build from an experiment's document; what the light engine lacks is refused by name."""
        node = json.loads(text)
        canonical = json.dumps(node, sort_keys=True)
        return cls(
            document=node,
            hash=hashlib.sha256(canonical.encode()).hexdigest(),
            settings=local_settings(node["algorithm"]),
            mechanism=mechanism(node["privacy"]),
            seed=node["seed"],
        )

    def model(self, items: int) -> LightModel:
        """Return the model for a catalogue of that many items."""
        return light_model(self.document["model"], items)


def light_model(node: Mapping[str, Any], items: int) -> LightModel:
    """Return the NumPy twin of the model that a document describes; one that has none is refused by name."""
    module, _, name = str(node["_target_"]).removeprefix("fedrec.models.").rpartition(".")
    if module not in MODELS:
        raise Refused(f"the light engine has {', '.join(MODELS)}, not {name}: run this device with torch")
    found = getattr(importlib.import_module(f"fedrec.numpy_engine.{module}"), name, None)
    if found is None:
        raise FedrecError(f"model._target_={node['_target_']} is no class of fedrec.models.{module}")
    return made(
        "model",
        partial(build({**node, "_target_": f"fedrec.numpy_engine.{module}.{name}", "_partial_": True}, "model"), items),
    )


def local_settings(node: Mapping[str, Any]) -> LocalSettings:
    """Return how a device trains; an algorithm that asks for anything but gradient descent is refused by name."""
    name = str(node["_target_"])
    if name not in TRAINING:
        raise Refused(f"the light engine trains for fedavg, fedadam and fedadagrad, not {name.rpartition('.')[2]}")
    if node["optimiser"] != "sgd":
        raise Refused(f"algorithm.optimiser={node['optimiser']}: the light engine has sgd; run this device with torch")
    return LocalSettings(**{field.name: node[field.name] for field in fields(LocalSettings)})
