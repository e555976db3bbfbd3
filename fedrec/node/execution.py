"""Which engine trains the devices of an experiment: many at once where that is exact, else one by one."""

import copy

from fedrec.algorithms.fedavg import FedAvg
from fedrec.algorithms.sequence_sgd import SequenceGradients
from fedrec.experiment.experiment import Experiment
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.models.sequential import SequentialRecommender
from fedrec.node.groups import Groups
from fedrec.training.sequences import PART, SequenceEngine
from fedrec.training.vectorized.engine import CohortEngine, own_noise, why_not


def reason_for_one_by_one(experiment: Experiment, model: Recommender) -> str | None:
    """Return why the devices of this experiment are trained one by one, or None where all are trained at once."""
    algorithm = experiment.algorithm
    if experiment.engine == "reference":
        return "engine=reference"
    if isinstance(algorithm, SequenceGradients):
        return own_noise(experiment.mechanism)
    if not isinstance(algorithm, FedAvg):
        return f"{type(algorithm).__name__} does not train"
    return why_not(model, algorithm, experiment.mechanism)


def groups_for(experiment: Experiment, model: Recommender) -> Groups | None:
    """Return what trains all devices of a node at once, None where they are trained one by one."""
    algorithm = experiment.algorithm
    if reason_for_one_by_one(experiment, model) is not None:
        return None
    if isinstance(algorithm, SequenceGradients) and isinstance(model, SequentialRecommender):
        return Groups(lambda: SequenceEngine(copy.deepcopy(model), algorithm.negatives), most=PART)
    if isinstance(algorithm, FedAvg) and isinstance(model, TrainableRecommender):
        return Groups(lambda: CohortEngine(model, algorithm))
    return None
