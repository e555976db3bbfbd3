"""How many neighbours a cohort needs, against tails counted one by one and drawn at random."""

import math
from itertools import combinations

import numpy as np
import pytest

from fedrec.errors import RefusedError
from fedrec.secure.graph import ALL_PAIRS, Graph, arrange_circle, is_safe, plan_graph, tail


def test_tails_are_those_of_counting_every_choice() -> None:
    for of, marked, drawn in ((7, 3, 4), (8, 0, 3), (6, 6, 2), (9, 5, 5)):
        for least in range(drawn + 2):
            counted = sum(sum(one < marked for one in chosen) >= least for chosen in combinations(range(of), drawn))
            assert tail(of, marked, drawn, least) == counted


def test_up_to_a_bound_everybody_is_a_neighbour() -> None:
    for devices in (3, 10, ALL_PAIRS):
        graph = plan_graph(devices, 0.05, 0.2)
        assert graph.neighbours == devices - 1 and graph.threshold > (devices - 1) / 2
        assert graph.quorum > (devices + math.floor(0.05 * devices)) / 2


@pytest.mark.parametrize(
    ("devices", "corrupt", "dropped", "neighbours"),
    [(1_000, 0.05, 0.05, 58), (1_000, 0.05, 0.3, 222), (10_000, 0.05, 0.05, 72), (10_000, 0.1, 0.3, 306)],
)
def test_the_fewest_neighbours_that_are_safe(devices: int, corrupt: float, dropped: float, neighbours: int) -> None:
    graph = plan_graph(devices, corrupt, dropped)
    assert graph == Graph(devices, neighbours, neighbours // 2 + 1, (devices + math.floor(corrupt * devices)) // 2 + 1)
    bad = math.floor(corrupt * devices), math.floor(dropped * devices)
    assert is_safe(devices, *bad, neighbours) and not is_safe(devices, *bad, neighbours - 2)
    assert graph.threshold > bad[0] * neighbours / devices and graph.least == graph.quorum


def test_the_three_tails_are_what_is_held_down() -> None:
    """Each alone, by its chance in floating point; the graph has no neighbour to spare in one of them."""
    devices, corrupt, dropped = 1_000, 50, 300
    k = plan_graph(devices, 0.05, 0.3).neighbours
    row = devices * math.comb(corrupt + dropped, k // 2) / math.comb(devices, k // 2)
    held = devices * tail(999, corrupt, k, k // 2 + 1) / math.comb(999, k)
    gone = devices * tail(999, dropped, k, k // 2) / math.comb(999, k)
    assert row < 2**-80 and held < 2**-80 and gone < 2**-30
    less = k - 2
    assert devices * tail(999, dropped, less, less // 2) / math.comb(999, less) >= 2**-30


def test_neighbours_of_a_circle_are_mutual_and_those_beside() -> None:
    graph, circle = Graph(50, 8, 5, 30), arrange_circle(50, b"root")
    near = [circle.neighbours_of(device, graph) for device in range(50)]
    for device, others in enumerate(near):
        assert len(others) == 8 and list(others) == sorted(others) and device not in others
        assert all(device in near[other] for other in others)
        distances = [abs(circle.seats[device] - circle.seats[other]) for other in others]
        assert all(min(distance, 50 - distance) <= 4 for distance in distances)
    assert arrange_circle(50, b"another").order != circle.order == arrange_circle(50, b"root").order


def test_the_order_on_the_circle_is_uniform() -> None:
    """Over many roots, device 0's neighbours are any others alike."""
    graph, counts = Graph(20, 4, 3, 11), np.zeros(20)
    for root in range(2_000):
        counts[list(arrange_circle(20, root.to_bytes(4)).neighbours_of(0, graph))] += 1
    expected = 2_000 * 4 / 19
    assert counts[0] == 0 and np.abs(counts[1:] - expected).max() < 6 * math.sqrt(expected)


@pytest.mark.parametrize(
    ("devices", "corrupt", "dropped", "said"),
    [
        (2, 0.0, 0.0, "2 devices have no secure sum"),
        (100, 0.5, 0.0, "privacy.corrupt=0.5"),
        (100, -0.1, 0.0, "privacy.corrupt=-0.1"),
        (100, 0.2, 0.4, "less than half of a cohort"),
        (100, 0.0, float("nan"), "privacy.dropped=nan"),
        (5, 0.0, 0.45, "have no secure sum"),
    ],
)
def test_what_no_graph_can_do_is_named(devices: int, corrupt: float, dropped: float, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        plan_graph(devices, corrupt, dropped)
