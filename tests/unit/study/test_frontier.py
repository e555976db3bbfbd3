"""Epsilon of one run at two deltas."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from fedrec.cli.study import run
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.study import frontier
from tests.support.tiny import FREE, SMALL


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return delta of a Gaussian mechanism (Balle & Wang 2018, theorem 8), by the closed form."""
    return float(norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


def test_two_rounds_of_everybody_are_one_gaussian_at_either_delta() -> None:
    settings = load([*SMALL, "model=ease", "privacy=user", "privacy.epsilon=2", "privacy.delta=1e-4"])
    found = frontier.costs_of(settings)
    shares = np.linspace(0.1, 2.0, 2000)
    mu = float(shares[np.argmin([abs(gaussian_delta(mu, found.epsilon) - 1e-4) for mu in shares])])
    assert found.delta == 1e-4
    assert found.epsilon == pytest.approx(2, rel=2e-3)
    assert found.delta_by_users == pytest.approx(40**-1.1)
    assert gaussian_delta(mu, found.epsilon_by_users) == pytest.approx(found.delta_by_users, rel=0.02)


def test_a_line_for_each_epsilon(capsys: pytest.CaptureFixture[str]) -> None:
    run(["deltas", *SMALL, "model=ease", "privacy=user", "--epsilons", "1,4"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [round(row["epsilon"], 1) for row in rows] == [1.0, 4.0]
    assert all(row["epsilon_by_users"] < row["epsilon"] for row in rows)


def test_without_users_as_units_there_is_no_such_delta() -> None:
    with pytest.raises(FedrecError, match="privacy=user"):
        frontier.costs_of(load([*FREE, "model=ease"]))
