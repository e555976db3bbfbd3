"""Centralised baselines to read results against: each needs pooled data, none is private."""

from collections.abc import Callable, Mapping

from fedrec.data.devices import DeviceTable
from fedrec.errors import FedrecError, nearest
from fedrec.evaluation.baselines import ease, ials, item_knn, popularity
from fedrec.evaluation.baselines.scorer import Scorer
from fedrec.evaluation.device import Part
from fedrec.evaluation.options import Evaluation
from fedrec.evaluation.scoring import evaluate_many
from fedrec.evaluation.table import Table

POOLED: Mapping[str, Callable[[DeviceTable], Scorer]] = {
    "popularity": popularity.fit,
    "item_knn": item_knn.fit,
    "ease": ease.fit,
    "ials": ials.fit,
}


def fit(name: str, devices: DeviceTable) -> Scorer:
    """Return the baseline of that name fitted, with its published settings, to the pooled histories of all devices."""
    if name not in POOLED:
        raise FedrecError(f"no baseline '{name}'.{nearest(name, POOLED)}")
    return POOLED[name](devices)


def evaluate(name: str, devices: DeviceTable, part: Part, options: Evaluation) -> Table:
    """Return the rows of a baseline, fitted to train for the validation and to train + validation for the test."""
    scorer = fit(name, devices if part == "validation" else devices.refitted())
    return evaluate_many(scorer.scores_many, devices, part, options, name)
