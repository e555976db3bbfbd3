"""What one hostile device sends to have one item recommended, within the public bounds, which it knows.

Targeted attacks in the line of Rong et al., "FedRecAttack", 2022, and Zhang et al., "PipAttack", 2022, without their
public interactions: all that is known is what the server broadcasts. Nothing honest is left in what is sent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.feature_weights import made_up_histories
from fedrec.algorithms.gram_matrix import GramMatrix
from fedrec.algorithms.item_bounds import ItemBound
from fedrec.algorithms.item_pairs import flat_place
from fedrec.algorithms.transition_counts import TransitionCounts
from fedrec.algorithms.transition_plan import CELLS, SCALES
from fedrec.messages import Arrays
from fedrec.models.history_features import Past
from fedrec.models.transitions import FAR, NEAR, history_features
from fedrec.privacy.guarantee import Unit

AUDIENCE = 100  # head items that the target is tied to; most users have some of the most popular ones
PSEUDO_USERS, LIKED = 200, 20
RIDGE = 0.1


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a hostile device knows: the algorithm, what it was sent, the target, and the clip of an update."""

    algorithm: object
    broadcast: Arrays
    target: int
    clip: float
    seed: int

    def bound(self, name: str) -> ItemBound:
        """Return how much may be said of an item in this array; any amount where nothing bounds it."""
        bounds = getattr(self.algorithm, "item_bounds", lambda unit, state: {})(Unit.USER, self.broadcast)
        return bounds.get(name, ItemBound(np.inf))


Attack = Callable[[Knowledge], Arrays]


def one_item(length: int, place: int, value: float) -> NDArray[np.float32]:
    """Return zeros [length] with one value."""
    found = np.zeros(length, np.float32)
    found[place] = value
    return found


def counts_alone(known: Knowledge) -> Arrays:
    """Spend the whole clip on the target's count."""
    return {"counts": one_item(len(known.broadcast["counts"]), known.target, known.clip)}


def most_popular(known: Knowledge, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of the head's most popular items by the counts that were broadcast, the target left out."""
    counts, place = known.broadcast["counts"][places], np.flatnonzero(places == known.target)
    order = np.argsort(-counts, kind="stable")
    return order[~np.isin(order, place)][:AUDIENCE]


def pair_value(bound: ItemBound, pairs: int, length: float) -> float:
    """Return the largest equal value of so many pairs of one item: within the length, the row and the value."""
    return min(length / pairs**0.5, bound.row / pairs, bound.value)


def pairs_tied(known: Knowledge) -> Arrays:
    """Say that the target is popular and new, then that it follows each popular item, then that this weighs most."""
    algorithm, broadcast = known.algorithm, known.broadcast
    if not isinstance(algorithm, TransitionCounts):
        raise TypeError("an attack on transition counts")
    shapes, found = algorithm.shapes(broadcast), Arrays()
    if "counts" in shapes:
        count, late = known.bound("counts").value, known.bound("late").value
        half = 0.7 * known.clip  # of the squared length to either
        found["counts"] = one_item(shapes["counts"][0], known.target, min(half, count))
        found["late"] = one_item(shapes["late"][0], known.target, min(half, late))
    if "symmetric" in shapes:
        head = broadcast["head_items"].astype(np.int64)
        empty = {name: np.zeros(shapes[name], np.float32) for name in ("symmetric", "antisymmetric")}
        found |= empty
        if len(place := np.flatnonzero(head == known.target)):
            others, target = most_popular(known, head), int(place[0])
            length = known.clip * (1 + algorithm.direction**2) ** -0.5
            value = pair_value(known.bound("symmetric"), len(others), length)
            cells = flat_place(others, np.full(len(others), target), len(head))
            empty["symmetric"][cells] = value
            empty["antisymmetric"][cells] = algorithm.direction * value * np.where(others < target, 1, -1)
    if "cell_symmetric" in shapes:
        found |= _cells_tied(known, algorithm, shapes["cell_symmetric"][0])
    if "slopes" in shapes:
        found["slopes"] = _weights_tied(known, algorithm, shapes["slopes"][0])
    return found


def _cells_tied(known: Knowledge, algorithm: TransitionCounts, size: int) -> Arrays:
    """Spend all on those of the cells that are the target's."""
    head, chosen = known.broadcast["head_items"].astype(np.int64), known.broadcast[CELLS].astype(np.int64)
    found = {name: np.zeros(size, np.float32) for name in ("cell_symmetric", "cell_antisymmetric")}
    one, other = (part[chosen] for part in np.triu_indices(len(head), 1))
    first, second = head[one] == known.target, head[other] == known.target
    if there := int((first | second).sum()):
        length = known.clip * (1 + algorithm.direction**2) ** -0.5
        value = pair_value(known.bound("cell_symmetric"), there, length)
        found["cell_symmetric"][first | second] = value
        found["cell_antisymmetric"] += (algorithm.direction * value * (second.astype(int) - first)).astype(np.float32)
    return found


def _weights_tied(known: Knowledge, algorithm: TransitionCounts, size: int) -> NDArray[np.float32]:
    """Follow the slope that lifts the target over what made-up users are shown, and say nothing of the curvature."""
    if algorithm.catalogue is None:
        raise TypeError("an attack on features knows the catalogue")
    pasts = {"near": Past(NEAR.items, NEAR.decay), "far": Past(FAR.items, FAR.decay)}
    features = history_features(algorithm.catalogue, known.broadcast, pasts, algorithm.encoder)
    random, found = np.random.default_rng(known.seed), np.zeros(size, np.float32)
    scales = known.broadcast[SCALES]
    for history in made_up_histories(features, known.broadcast["counts"], random):
        seen = features.of(history)
        tenth = np.argsort(-(known.broadcast["feature_weights"] @ seen))[9:10]
        found[: len(scales)] += (seen[:, known.target] - seen[:, tenth[0] if len(tenth) else 0]) / scales
    return found * np.float32(known.clip / max(float(np.linalg.norm(found)), 1e-30))


def gram_tied(known: Knowledge) -> Arrays:
    """Say that the target is popular, then that everybody with a popular item has it."""
    algorithm, broadcast = known.algorithm, known.broadcast
    if not isinstance(algorithm, GramMatrix):
        raise TypeError("an attack on Gram matrices")
    shapes = algorithm.shapes(broadcast)
    if "counts" in shapes:
        return counts_alone(known)
    head, found = broadcast["head_items"].astype(np.int64), np.zeros(shapes["gram"], np.float32)
    if len(place := np.flatnonzero(head == known.target)):
        others, target = most_popular(known, head), int(place[0])
        low, high = np.minimum(others, target), np.maximum(others, target)
        cells = low * len(head) - low * (low - 1) // 2 + high - low
        found[cells] = pair_value(known.bound("gram"), len(others), known.clip)
    return {"gram": found}


def bias_alone(known: Knowledge) -> Arrays:
    """Spend the whole clip on the target's bias."""
    return _row(known, np.zeros(known.broadcast["item.weight"].shape[1]), 1.0)


def embeddings(known: Knowledge) -> Arrays:
    """Follow the gradient that lifts the target over the tenth item of users imagined from the broadcast embeddings.

    An imagined user likes items drawn by the biases, which follow popularity, and is fitted to them by ridge regression
    as a device fits its own vector.
    """
    table, bias = known.broadcast["item.weight"].astype(float), known.broadcast["item_bias.weight"][:, 0].astype(float)
    random = np.random.default_rng(known.seed)
    likely = np.exp(bias - bias.max())
    likely[known.target] = 0.0
    liked = [
        random.choice(len(bias), min(LIKED, len(bias) - 1), False, likely / likely.sum()) for _ in range(PSEUDO_USERS)
    ]
    mean = table.mean(0)
    users = np.array([_fitted(table[items] - mean) for items in liked])
    scores = users @ table.T + bias
    tenth = np.partition(scores, -10, axis=1)[:, -10]
    missing = 1 / (1 + np.exp(np.clip(scores[:, known.target] - tenth, -30, 30)))
    return _row(known, (missing[:, None] * users).mean(0), float(missing.mean()))


def _fitted(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.solve(rows.T @ rows + RIDGE * len(rows) * np.eye(rows.shape[1]), rows.sum(0))


def _row(known: Knowledge, vector: NDArray[np.float64], bias: float) -> Arrays:
    found = {name: np.zeros_like(array) for name, array in known.broadcast.items()}
    length = float(np.sqrt(vector @ vector + bias**2))
    found["item.weight"][known.target] = known.clip * vector / length
    found["item_bias.weight"][known.target] = known.clip * bias / length
    return found


ATTACKS: dict[str, tuple[Attack, ...]] = {
    "popularity": (counts_alone,),
    "order": (pairs_tied,),
    "ease": (gram_tied,),
    "mf": (bias_alone, embeddings),
}
