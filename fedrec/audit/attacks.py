"""Two attacks on real data, from what a mechanism's adversary sees: which items did a device use; was a user there.

Both subtract popularity, so that what everybody would guess counts for nothing, and both are reported as AUC and as
the true-positive rate at 1 % false alarms, never as an epsilon: an attack that fails proves nothing. Where the claim
bounds them, the bound of the accounted curve stands beside.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fedrec.audit.execution import EavesdroppedNode, durable, in_groups, own_state
from fedrec.data.dataset import Dataset
from fedrec.errors import RefusedError
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.federated.loop import run_round
from fedrec.federated.state import initial_state, open_run_context
from fedrec.messages import unpack
from fedrec.privacy.accounting.composition import Composition
from fedrec.privacy.accounting.interpretation import trade_off
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.wording import NO_GUARANTEE, format_terms
from fedrec.storage.run_folder import RunFolder

Numbers = NDArray[np.float64]
FALSE_ALARMS = 0.01
MEANS = (
    "items: which items did this device use. membership: was this user among those trained on. AUC 0.5 is chance;",
    "TPR: the share found at 1 % false alarms. at most: what the accounted curve allows, - where nothing is promised.",
)


@dataclass(frozen=True, slots=True)
class Success:
    """How well an attack did: AUC, TPR at 1 % false alarms, and what the claim allows of both, None where nothing."""

    attack: str
    auc: float
    tpr: float
    largest_auc: float | None
    largest_tpr: float | None


def attacks(experiment: Experiment, gateways: int = 1) -> list[Success]:
    """Train on the experiment's own data as often as the attacks need, and return how they did.

    Where gateways are trusted, there are `gateways` of them, with as many users each as comes out even.
    """
    dataset = load_dataset(experiment)
    ready = experiment.calibrated(dataset)
    terms, everybody = ready.mechanism.terms, np.arange(len(dataset.devices))
    updates, spent = capture_updates(ready, dataset, behind(terms, everybody, gateways))
    members = used(dataset)
    unit = Unit.USER if terms.unit == Unit.INTERACTION else terms.unit
    first = success("items", *items_guessed(updates, members), spent, terms.relation, terms.unit)
    parts = np.array_split(np.random.default_rng(0).permutation(everybody), 3)
    models = [capture_updates(ready, dataset, [np.sort(part)]) for part in parts[:2]]
    fits = [fit(model, members) for model, _ in models]
    gain = fits[0] - fits[1]
    second = success("membership", gain[parts[2]], gain[parts[0]], models[0][1], Relation.ADD_REMOVE, unit)
    if terms.unit == Unit.INTERACTION:
        second = Success(second.attack, second.auc, second.tpr, None, None)
    return [first, second]


def behind(terms: PrivacyGuarantee, devices: NDArray[np.int64], gateways: int) -> list[NDArray[np.int64]]:
    """Return the devices in groups: each is behind one message that the adversary reads."""
    if terms.trust == Trust.GATEWAY:
        return np.array_split(devices, min(gateways, len(devices)))
    return in_groups(devices, 1 if terms.trust in (Trust.DEVICE, Trust.NONE) else None)


def capture_updates(
    experiment: Experiment, dataset: Dataset, groups: list[NDArray[np.int64]]
) -> tuple[Numbers, Composition]:
    """Return what is heard of each device's items over all rounds [devices or 1, items], and what was spent.

    A row is a device's: what its group sent. One group alone shares the one row of the released model.
    """
    mechanism, plan = experiment.mechanism, experiment.plan(dataset)
    nodes, rows = EavesdroppedNode(groups), np.zeros((len(dataset.devices), dataset.interactions.items))
    with tempfile.TemporaryDirectory() as name, own_state(name):
        folder = RunFolder(Path(name) / "run")
        folder.create("{}\n")
        ledger = Ledger.open("attacked", "run", mechanism, plan, plan.population, None)
        context = open_run_context(experiment, dataset, nodes, folder, ledger, "train")
        at = first = initial_state(context)
        for number in range(1, plan.rounds + 1):
            ledger.reserve(number)
            nodes.captured.clear()
            run_round(context, at, number)
            at = durable(context)
            for node, content in nodes.captured.items() if len(groups) > 1 else ():
                rows[groups[node - 1]] += by_item(unpack(content).arrays, dataset.interactions.items)
        spent = ledger.total
        ledger.close()
    whole = by_item(at.algorithm_state, rows.shape[1]) - by_item(first.algorithm_state, rows.shape[1])
    return (rows if len(groups) > 1 else whole[None]), spent


def by_item(arrays: Mapping[str, NDArray[Any]], items: int) -> Numbers:
    """Return the one number an item [items] that a model shares: its biases, or its counts."""
    found = [a for name, a in sorted(arrays.items()) if a.size == items and not name.startswith("head")]
    if not found:
        raise RefusedError(
            "the attacks read one number an item, a bias or a count: use model=content, mf or popularity"
        )
    return found[0].ravel().astype(np.float64)


def used(dataset: Dataset) -> NDArray[np.bool_]:
    """Return which device used which item [devices, items] in what it trains on."""
    mask = np.zeros((len(dataset.devices), dataset.interactions.items), bool)
    user, item, _ = dataset.devices.train_rows()
    mask[user, item] = True
    return mask


def items_guessed(heard: Numbers, members: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Return the scores of pairs that are not there and of those that are: popularity cancels within each item."""
    absent, present = list[Numbers](), list[Numbers]()
    for item in range(members.shape[1]):
        there, column = members[:, item], np.broadcast_to(heard[:, item], len(members))
        if 0 < there.sum() < len(there):
            centre = np.median(column[~there])  # exactly the score of all, where all are equal
            spread = max(column[~there].std(), 1e-9 * (abs(centre) + 1e-9))
            absent.append((column[~there] - centre) / spread)
            present.append((column[there] - centre) / spread)
    return np.concatenate(absent), np.concatenate(present)


def fit(model: Numbers, members: NDArray[np.bool_]) -> Numbers:
    """Return how well a model's items fit each device's [devices], in standard deviations of all items."""
    scores = (model[0] - model[0].mean()) / (model[0].std() + 1e-12)
    return (members @ scores) / np.maximum(members.sum(axis=1), 1)


def success(
    attack: str, absent: Numbers, present: Numbers, spent: Composition, relation: Relation, unit: Unit
) -> Success:
    """Measure an attack, and read from the accounted curve what it could reach at most."""
    ranks = rankdata(np.concatenate([absent, present]))[len(absent) :]
    auc = (ranks.sum() - len(present) * (len(present) + 1) / 2) / (len(present) * len(absent))
    tpr = float(np.mean(present > np.quantile(absent, 1 - FALSE_ALARMS)))
    if unit == Unit.NONE:
        return Success(attack, float(auc), tpr, None, None)
    # One item more or less of a user replaces that user's data.
    replaced = attack == "items" and unit == Unit.USER and relation == Relation.ADD_REMOVE
    curve = trade_off(spent, Relation.REPLACE_ONE if replaced else Relation.ADD_REMOVE)
    return Success(attack, float(auc), tpr, curve.largest_auc(), float(curve.largest_tpr(FALSE_ALARMS)[0]))


def lines(found: list[Success], terms: PrivacyGuarantee) -> Iterator[str]:
    """Yield the attacks as a table, after what they attacked and before what each tells."""
    yield NO_GUARANTEE if not terms.protects else format_terms(terms, None)
    yield ""
    yield f"{'attack':12}{'AUC':>7}{'at most':>9}{'TPR at 1 %':>12}{'at most':>9}"
    for one in found:
        bounds = ["-" if bound is None else f"{bound:.3f}" for bound in (one.largest_auc, one.largest_tpr)]
        yield f"{one.attack:12}{one.auc:7.3f}{bounds[0]:>9}{one.tpr:12.3f}{bounds[1]:>9}"
    yield ""
    yield from MEANS
