"""What to read results against: centralised baselines, which need pooled data, and a device on its own."""

from collections.abc import Callable, Mapping
from functools import partial

from fedrec.data.catalogue import Catalogue
from fedrec.data.devices import DeviceTable
from fedrec.errors import FedrecError, nearest
from fedrec.evaluation.baselines import ease, ials, item_knn, local, popularity
from fedrec.evaluation.baselines.base import Scorer
from fedrec.evaluation.baselines.head import over_head
from fedrec.evaluation.config import Evaluation
from fedrec.evaluation.per_device import Part
from fedrec.evaluation.per_user import Table
from fedrec.evaluation.scoring import evaluate_many

POOLED: Mapping[str, Callable[[DeviceTable], Scorer]] = {
    "popularity": popularity.fit,
    "item_knn": item_knn.fit,
    "ease": ease.fit,
    "ials": ials.fit,
}

LOCAL = "local"


def fit(name: str, devices: DeviceTable) -> Scorer:
    """Return the baseline of that name fitted, with its published settings, to the pooled histories of all devices."""
    if name not in POOLED:
        raise FedrecError(f"no baseline '{name}'.{nearest(name, POOLED)}")
    return POOLED[name](devices)


def evaluate(name: str, devices: DeviceTable, part: Part, options: Evaluation) -> Table:
    """Return the rows of a baseline, fitted to train for the validation and to train + validation for the test.

    With `options.head` it covers that many items, the most popular ones.
    """
    given = devices if part == "validation" else devices.refitted()
    covers_all = options.head is None or options.head >= devices.items or name == "popularity"
    scorer = fit(name, given) if covers_all else over_head(partial(fit, name), given, options.head or 0)
    return evaluate_many(scorer.scores_many, devices, part, options, name)


def evaluate_alone(catalogue: Catalogue, devices: DeviceTable, part: Part, options: Evaluation) -> Table:
    """Return the rows of devices that rank with what each alone knows."""
    return evaluate_many(local.fit(catalogue).scores_many, devices, part, options, LOCAL)
