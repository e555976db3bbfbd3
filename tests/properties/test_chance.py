"""Two runs of a test draw the same, and two tests do not; the source itself is left alone where a test is about it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

from fedrec.privacy.noise import SystemNoise
from tests.support.chance import drawn_for, fresh


def draws(name: str, system_noise: bool = False) -> list[float]:
    with drawn_for(name, system_noise):
        short, long = SystemNoise().gaussian((1,), 1.0), SystemNoise().gaussian((500,), 1.0)
        return [random.random(), np.random.random(), float(torch.rand(())), float(short[0]), float(long[-1])]


@pytest.mark.skipif(fresh(), reason="draws afresh")
def test_draws_follow_from_the_name() -> None:
    assert draws("one") == draws("one")
    assert not set(draws("one")) & set(draws("other"))
    assert len({float(SystemNoise().gaussian((1,), 1.0)[0]) for _ in range(100)}) == 100
    assert settings().derandomize and settings().deadline is None


def test_tests_of_the_source_draw_from_it() -> None:
    first, second = (draws("one", system_noise=True) for _ in range(2))
    assert not set(first[3:]) & set(second[3:])
