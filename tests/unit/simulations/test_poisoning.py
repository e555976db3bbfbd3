"""The attacks of `simulations.poisoning` reach their end where nothing stops them, and not where the bound does."""

import numpy as np
import pytest

from fedrec.algorithms.item_counts import ItemCounts
from fedrec.algorithms.transition_counts import TransitionCounts
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load
from simulations.poisoning.__main__ import draw, knows, play
from simulations.poisoning.attacks import AUDIENCE, Knowledge, counts_alone, embeddings, pairs_tied
from tests.support.tiny import SMALL

LITTLE_NOISE = [*SMALL, "dataset.items=300", "privacy.epsilon=1000"]


def test_counts_alone_win_without_the_bound_and_lose_with_it() -> None:
    free, _ = play("popularity", counts_alone, 0.1, 0, [*LITTLE_NOISE, "algorithm.shortest_history=null"])
    bound, hits = play("popularity", counts_alone, 0.1, 0, [*LITTLE_NOISE, "algorithm.shortest_history=20"])
    assert free == 1.0 and bound < 0.2 and 0 <= hits <= 1  # near the tenth place noise decides for some


def test_fewer_hostile_users_are_among_more_and_the_target_is_rare() -> None:
    dataset = load_dataset(load(SMALL).experiment)
    (few, target), (many, same) = draw(dataset, 0.1, 3), draw(dataset, 0.4, 3)
    assert len(few) == 4 and len(many) == 16 and set(few) <= set(many) and target == same
    counts = dataset.devices.known_counts()
    assert counts[target] <= max(5, counts.min())
    users = np.arange(len(dataset.devices))
    have = [target in (*d.history, *d.validation, *d.test) for d in dataset.devices]
    assert knows(dataset, users, target).tolist() == have


def test_a_hostile_device_stays_within_what_it_knows_to_be_allowed() -> None:
    """What the server would cut anyway is not sent, so that the table shows the best that is left to it."""
    size = 12
    algorithm = TransitionCounts(head=size, shortest_history=4)
    broadcast = {
        "counts": np.arange(size, dtype=np.float32),
        "head_items": np.arange(size, dtype=np.float32),
        "stage/order": np.ones(1, np.float32),
    }
    sent = pairs_tied(Knowledge(algorithm, broadcast, 5, 1.0, 0))
    assert np.count_nonzero(sent["symmetric"]) == min(size - 1, AUDIENCE)
    assert (np.abs(sent["antisymmetric"]) <= sent["symmetric"] * algorithm.direction * 1.0001).all()
    assert sum(float((a**2).sum()) for a in sent.values()) <= 1.0001
    with pytest.raises(TypeError, match="transition counts"):
        pairs_tied(Knowledge(ItemCounts(), broadcast, 5, 1.0, 0))


@pytest.mark.parametrize("shortest", ["null", "20"])
def test_every_round_of_order_is_attacked_within_its_bounds(shortest: str) -> None:
    """Four rounds are played; what comes of them is a share of users."""
    found, hits = play("order", pairs_tied, 0.2, 0, [*LITTLE_NOISE, f"algorithm.shortest_history={shortest}"])
    assert 0 <= found <= 1 and 0 <= hits <= 1


def test_the_attack_that_knows_embeddings_points_where_users_are() -> None:
    """Users of both signs cancel; users on one side don't, and the target's row moves towards them."""
    random = np.random.default_rng(0)
    table = random.normal(0, 0.1, (40, 3)).astype(np.float32)
    table[:30, 0] += 1.0
    bias = np.where(np.arange(40) < 30, 3.0, 0.0).astype(np.float32)[:, None]
    known = Knowledge(ItemCounts(), {"item.weight": table, "item_bias.weight": bias}, 35, 0.5, 1)
    sent = embeddings(known)
    moved = sent["item.weight"][35]
    length = float(np.sqrt(np.square(moved).sum() + sent["item_bias.weight"][35, 0] ** 2))
    assert length == pytest.approx(0.5, rel=1e-5) and np.count_nonzero(sent["item.weight"].any(1)) == 1
    assert sent["item_bias.weight"][35, 0] > 0
