"""What to read results against: centralised baselines, which need pooled data, and a device on its own."""

from collections.abc import Callable, Mapping
from functools import partial

from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceTable
from fedrec.errors import FedrecError, suggest
from fedrec.evaluation.baselines import base, pooled
from fedrec.evaluation.baselines.base import Scorer, over_head
from fedrec.evaluation.batched import Tell, evaluate_many
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.per_device import Part
from fedrec.evaluation.per_user import PerUserResults

POOLED: Mapping[str, Callable[[DeviceTable], Scorer]] = {
    "popularity": base.fit_popularity,
    "item_knn": pooled.fit_item_knn,
    "ease": pooled.fit_ease,
    "ials": pooled.fit_ials,
}

LOCAL = "local"


def fit(name: str, devices: DeviceTable) -> Scorer:
    """Return the baseline of that name fitted, with its published settings, to the pooled histories of all devices."""
    if name not in POOLED:
        raise FedrecError(f"no baseline '{name}'.{suggest(name, POOLED)}")
    return POOLED[name](devices)


def evaluate(
    name: str, devices: DeviceTable, part: Part, options: EvaluationConfig, tell: Tell | None = None
) -> PerUserResults:
    """Return the rows of a baseline, fitted to train for the validation and to train + validation for the test.

    With `options.head` it covers that many items, the most popular ones. `tell(done, users)` hears how far it is.
    """
    given = devices if part == "validation" else devices.refitted()
    covers_all = options.head is None or options.head >= devices.items or name == "popularity"
    scorer = fit(name, given) if covers_all else over_head(partial(fit, name), given, options.head or 0)
    return evaluate_many(scorer.scores_many, devices, part, options, name, tell)


def evaluate_alone(
    catalogue: Catalogue, devices: DeviceTable, part: Part, options: EvaluationConfig, tell: Tell | None = None
) -> PerUserResults:
    """Return the rows of devices that rank with what each alone knows."""
    return evaluate_many(base.fit_local(catalogue).scores_many, devices, part, options, LOCAL, tell)
