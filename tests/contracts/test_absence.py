"""Drop-outs change no mechanism's noise, and no mechanism's epsilon: each is seen to fail once the fault is planted.

Invariants I6, I7. What counts is the noise that stands between one unit and the mechanism's adversary: on the
sum of a round where the server adds it, on each device's or gateway's update where they do.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fedrec.federated import loop
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.testing.mechanisms import PLANS, MechanismCase, flat, vector
from tests.contracts.test_mechanisms import made
from tests.properties.test_mechanism_invariants import PRIVATE, played

OWN = {"interaction": "all, statistic", "gateway": "all, statistic"}  # trained, their noise falls inside the training
ARRIVED = (0, 6, 30, 60)  # of 60 devices: drop-outs of 100, 90, 50 and 0 %
DRAWS = 600


def noise_std(case: MechanismCase, arrived: int) -> float:
    """Return the standard deviation of the noise that the adversary sees where so many of the invited answered."""
    mechanism, plan = case.mechanism, case.plan

    def seen() -> np.ndarray:
        nothing = vector(np.zeros(6))
        sent = mechanism.privatize_update(nothing, mechanism.random())
        if mechanism.terms.trust == "device":
            return flat(sent)
        if mechanism.terms.trust == "sums":  # below the least nothing is seen
            return flat(sent) * math.sqrt(max(arrived, mechanism.least_devices) - cast(Any, mechanism).colluding)
        total = replace(sent, count=arrived)
        if mechanism.terms.trust == "gateway":
            return flat(mechanism.privatize_node_sum(total, mechanism.random()))
        aggregate = mechanism.privatize_aggregate(total, plan, 1, mechanism.random())
        return flat(replace(nothing, arrays=aggregate.arrays))

    return float(np.stack([seen() for _ in range(DRAWS)]).std())


def calibrated_std(case: MechanismCase) -> float:
    mechanism: Any = case.mechanism
    bound = getattr(mechanism, "sensitivity", None) or mechanism.clip
    return mechanism.noise_multiplier * bound


def holds(case: MechanismCase) -> bool:
    """Say whether the noise is at least the calibrated one at every rate of absence."""
    return all(noise_std(case, arrived) > 0.94 * calibrated_std(case) for arrived in ARRIVED)


def quieter(mechanism: Any, share: float) -> Any:
    return replace(mechanism, noise_multiplier=mechanism.noise_multiplier * math.sqrt(max(share, 1e-9)))


def plant(patch: pytest.MonkeyPatch, case: MechanismCase) -> None:
    """Let the noise follow who arrived; where devices or gateways add it, let each add its share of one noise."""
    kind, expected = type(case.mechanism), case.plan.expected_cohort
    name = {
        "device": "privatize_update",
        "sums": "privatize_update",
        "gateway": "privatize_node_sum",
        "server": "privatize_aggregate",
    }[case.mechanism.terms.trust]
    right: Callable[..., Any] = getattr(kind, name)

    def shared(self: Any, total: Any, *rest: Any) -> Any:
        share = total.count / expected if name == "privatize_aggregate" else 1 / expected
        return right(quieter(self, share), total, *rest)

    patch.setattr(kind, name, shared)


@pytest.mark.parametrize("name", PRIVATE)
def test_noise_does_not_follow_who_arrived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = made(name, PLANS[OWN.get(name, "some, trained")])
    assert holds(case)
    plant(monkeypatch, case)
    assert not holds(case)


@pytest.mark.parametrize("name", ["interaction", "user_local", "user_secure", "gateway"])
def test_a_device_counts_once_it_was_invited(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each device is charged for itself, absence must not be a discount; counted on arrival, it is one."""

    def spent(place: str) -> set[float | None]:
        # Where all take part in every secure sum, rounds are charged to all alike.
        some, rates = ["cohort.size=30"] if name == "user_secure" else [], ([], ["cohort.dropout=0.9999"])
        return {played(tmp_path / f"{place}-{n}", name, *some, *rate)[0][-1].epsilon for n, rate in enumerate(rates)}

    assert len(spent("right")) == 1
    there, commit = list[np.ndarray](), Ledger.commit
    present = loop.simulate_dropout

    def noted(*arguments: Any) -> np.ndarray:
        there.append(present(*arguments))
        return there[-1]

    monkeypatch.setattr(loop, "simulate_dropout", noted)
    monkeypatch.setattr(Ledger, "commit", lambda self, number, cohort: commit(self, number, there[-1]))  # pyright: ignore
    assert len(spent("wrong")) == 2
