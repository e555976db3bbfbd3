"""One experiment as a frozen value: everything that decides a result, built from one JSON document."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from fedrec.algorithms.base import Algorithm, RoundContext, StatisticAlgorithm
from fedrec.algorithms.item_bounds import find_shortest_history
from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset, DataSource
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError, RefusedError, suggest
from fedrec.evaluation.config import EvaluationConfig
from fedrec.experiment.cohort import CohortConfig
from fedrec.experiment.instantiate import call_or_refuse, check_allowed, instantiate
from fedrec.messages import Arrays
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.models.sequential import SequentialRecommender
from fedrec.privacy.clipping import check_groups
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.base import check_compatible
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.rng import Stream

# In compiled loops; all devices of a node at once; one by one, as a check. `auto` is settled where a run begins.
ENGINES = ("auto", "kernel", "vectorized", "reference")


@dataclass(frozen=True, slots=True)
class Experiment:
    """`document` is the resolved configuration as canonical JSON; the rest is built from it."""

    document: str
    dataset: DataSource
    model: Callable[[Catalogue], Recommender]
    algorithm: Algorithm
    mechanism: Mechanism
    cohort: CohortConfig
    evaluation: EvaluationConfig
    rounds: int
    seed: int
    accelerator: str
    engine: str

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Build an experiment from its document, over the allow-list of this process.

        `allow` in the document records whose packages it was made with; it grants nothing here.
        """
        node = json.loads(text)
        check_allowed(node)
        algorithm: Algorithm = instantiate(node["algorithm"], "algorithm")
        return cls(
            document=json.dumps(node, sort_keys=True),
            dataset=instantiate(node["dataset"], "dataset"),
            model=instantiate(node["model"], "model"),
            algorithm=algorithm,
            mechanism=instantiate(node["privacy"], "privacy"),
            cohort=instantiate(node["cohort"], "cohort"),
            evaluation=instantiate(node["evaluation"], "evaluation"),
            rounds=algorithm.rounds(node["rounds"]),
            seed=node["seed"],
            accelerator=accelerator(node["accelerator"]),
            engine=checked_engine(node["engine"]),
        )

    @property
    def hash(self) -> str:
        """A name for exactly this experiment."""
        return hashlib.sha256(self.document.encode()).hexdigest()

    def names(self) -> dict[str, str]:
        """Return what results call the model, the algorithm and the mechanism."""
        model = cast("partial[Recommender]", self.model).func
        return {
            "model": cast("type[Recommender]", model).name,
            "algorithm": self.algorithm.name,
            "mechanism": self.mechanism.name,
        }

    def node(self) -> dict[str, Any]:
        """Return the document as a fresh dictionary."""
        return json.loads(self.document)

    def varied(self, changes: Mapping[str, Any]) -> "Experiment":
        """Return the experiment with some of the document's top-level entries replaced."""
        return Experiment.from_json(json.dumps({**self.node(), **changes}))

    def plan(self, dataset: Dataset) -> TrainingPlan:
        """Return the public plan: the data set's published sizes, the cohort's rate, the rounds."""
        users = dataset.interactions.users
        plan = TrainingPlan(
            population=users,
            interactions=dataset.published_interactions,
            cohort_rate=self.cohort.rate(users),
            rounds=self.rounds,
            trains=self.algorithm.trains,
            shares=self.algorithm.budget_shares(self.rounds),
        )
        return self.mechanism.with_sampling_rate(plan)

    def calibrated(self, dataset: Dataset) -> "Experiment":
        """Return the experiment with the noise that its epsilon asks for written into the document.

        Parts that don't fit together are refused by name.
        """
        algorithm, mechanism = self.algorithm, self.mechanism
        self.check_parts(self.build_model(dataset.catalogue))
        if self.evaluation.select == "best" and mechanism.terms.protects:
            raise RefusedError("evaluation.select=best looks at exact validation figures: it needs privacy=none")
        privacy = mechanism.calibrated(self.plan(dataset), algorithm.sensitivity(mechanism.terms.unit))
        ready = self._with_sizes(self.plan(dataset))
        values = {f.name: getattr(privacy, f.name) for f in fields(privacy) if f.init}  # pyright: ignore[reportArgumentType]
        return ready.varied({"privacy": {"_target_": self.node()["privacy"]["_target_"], **values}})

    def check_parts(self, model: Recommender) -> None:
        """Refuse by name a model that the algorithm can't take, and a mechanism without an argument with it."""
        algorithm, mechanism = self.algorithm, self.mechanism
        if isinstance(model, SequentialRecommender):
            model.ready()
        if not isinstance(model, algorithm.accepts):
            takes = ", ".join(kind.__name__ for kind in algorithm.accepts)
            raise RefusedError(
                f"algorithm={type(algorithm).__name__} works for {takes}, not for {type(model).__name__}"
            )
        if algorithm.trains:
            check_groups(mechanism.clipping, model.shared_arrays(), type(model).__name__)
        unit = mechanism.terms.unit
        check_compatible(type(algorithm).__name__, mechanism, algorithm.sensitivity(unit), unit)
        if mechanism.pools_users and algorithm.trains and not algorithm.pools_users:
            raise RefusedError(
                f"{type(algorithm).__name__} can't train the users of a gateway as one: take privacy=user, or "
                "another model="
            )
        if unit == Unit.INTERACTION and self.node()["dataset"].get("minimum", 1) > 1:
            raise RefusedError(
                "dataset.minimum drops users by how many interactions they have: at interaction level a single one "
                "could decide that; use dataset.minimum=1 or privacy=user"
            )

    def _with_sizes(self, plan: TrainingPlan) -> "Experiment":
        """Return the experiment with the bounds that follow from the plan's public sizes written into the document."""
        algorithm = self.node()["algorithm"]
        name, kind = algorithm.get("shortest_history"), self.algorithm
        if not isinstance(kind, StatisticAlgorithm) or name not in kind.history_shares:
            return self
        found = find_shortest_history(kind.history_shares[name], plan.population, plan.interactions)
        return self.varied({"algorithm": {**algorithm, "shortest_history": found}})

    def build_model(self, catalogue: Catalogue) -> Recommender:
        """Return the model with its first values, which the seed alone decides."""
        seed = np.random.SeedSequence((self.seed, Stream.INIT)).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed >> np.uint64(1)))
            return call_or_refuse("model", lambda: self.model(catalogue)).to(self.accelerator)


def train_newcomer(
    experiment: Experiment, model: Recommender, arrays: Arrays, device: DeviceData, number: int
) -> Arrays:
    """Return the private arrays of a device that joins after round `number`, which broadcast `arrays`.

    It trains once, and what it would send is thrown away. Empty for a model that has no private arrays.
    """
    if not isinstance(model, TrainableRecommender) or not model.private_arrays():
        return {}
    context = RoundContext(number + 1, experiment.seed, NoPrivacy())
    return experiment.algorithm.contribute(model, arrays, device, {}, context).private


def checked_engine(name: str) -> str:
    """Return the name of an engine; refuse one that does not exist."""
    if name not in ENGINES:
        raise FedrecError(f"engine={name} does not exist.{suggest(name, ENGINES)}")
    return name


def accelerator(name: str) -> str:
    """Return the name of the device to compute on; refuse one that is not there."""
    if name not in ("cpu", "cuda"):
        raise FedrecError(f"accelerator={name} must be cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise FedrecError("accelerator=cuda: torch finds no CUDA device here; use accelerator=cpu")
    return name


_datasets: dict[str, Dataset] = {}


def load_dataset(experiment: Experiment) -> Dataset:
    """Return the data set of an experiment; the last one loaded is kept, since runs of one command share it."""
    key = str(sorted(experiment.node()["dataset"].items(), key=str))
    if key not in _datasets:
        _datasets.clear()
        _datasets[key] = experiment.dataset.load()
    return _datasets[key]
