"""Which devices a node hosts: by arithmetic what going through all of them would give."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import FedrecError
from fedrec.federated.exchange import NOBODY, Hosted, are_disjoint, first_row, hosted_by, intersect
from fedrec.messages import Message

RANGES = st.builds(range, st.integers(0, 20), st.integers(0, 60), st.integers(1, 6))
ROWS = st.lists(st.integers(0, 70), unique=True).map(lambda rows: np.array(sorted(rows), np.int64))
HOSTED = st.one_of(RANGES, ROWS)


@given(HOSTED, ROWS)
def test_among_is_the_intersection(hosted: Hosted, devices: np.ndarray) -> None:
    assert intersect(hosted, devices).tolist() == sorted(set(hosted) & set(devices.tolist()))


@given(st.lists(HOSTED, min_size=1, max_size=4))
def test_apart_and_first_are_those_of_the_lists(hosted: list[Hosted]) -> None:
    everyone = [row for rows in hosted for row in rows]
    assert are_disjoint(hosted) == (len(set(everyone)) == len(everyone))
    assert [first_row(rows) for rows in hosted] == [min(rows, default=NOBODY) for rows in hosted]


def test_a_node_of_a_simulation_says_a_range_and_ten_million_devices_cost_nothing() -> None:
    parts = [hosted_by(Message({"range": [n, 10**7, 4]}), n) for n in range(4)]
    assert are_disjoint(parts) and not are_disjoint([*parts, range(7, 8, 4)])
    assert intersect(parts[1], np.array([0, 5, 9_999_997])).tolist() == [5, 9_999_997]


@pytest.mark.parametrize("said", [None, 3, [0, 5], [0, 5, 0], [-1, 5, 1], [0, 1.5, 1], [0, 1 << 63, 1], ["0", 5, 1]])
def test_a_hello_that_names_no_devices_is_an_error_that_names_the_node(said: Any) -> None:
    with pytest.raises(FedrecError, match="node 7"):
        hosted_by(Message({"range": said}), 7)


def test_rows_that_are_listed_count() -> None:
    found = hosted_by(Message({"range": [0, 5, 1]}, {"devices": np.array([3, 1])}), 1)
    assert isinstance(found, np.ndarray) and found.tolist() == [3, 1]
