"""Every mechanism can be audited by what it promises, and what is measured agrees: no yaml is forgotten."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.audit.auditor import audit
from fedrec.experiment.settings import load
from fedrec.messages import ModelUpdate
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from tests.support.tiny import SMALL

CONF = Path(__file__).parents[2] / "conf" / "privacy"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
CANARIES = {"none": 100, "interaction": 20_000, "user": 1600}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_every_mechanism_is_audited(name: str) -> None:
    """With few canaries: the bound lies below what is reported, and not far below."""
    experiment = load([*SMALL, f"privacy={name}", "model=mf"]).experiment
    found = audit(experiment, (8.0,), CANARIES[experiment.mechanism.terms.unit], 1, numbers=2000)
    if name == "none":
        assert found.verdict == "no claim" and found.findings[0].measured > 8
        return
    assert found.verdict in ("holds", "loose")
    noise = found.findings[0]
    # Not far below: the bound itself lies a fifth below the truth with so few canaries.
    assert 0.7 * noise.reported < noise.measured <= noise.reported <= 8.0


@pytest.mark.filterwarnings("ignore")
def test_counts_are_audited_where_a_user_is_replaced() -> None:
    """Counts can't be negative: what is summed in their place must lie twice the clip apart, as is accounted."""
    experiment = load([*SMALL, "privacy=user_local", "model=popularity"]).experiment
    (noise,) = audit(experiment, points=(8.0,), canaries=1600, jobs=1, numbers=0).findings
    assert 0.7 * noise.reported < noise.measured <= noise.reported <= 8.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["mf", "popularity"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_every_mechanism_is_tight(name: str, model: str) -> None:
    """Invariant M14 in full: at least 0.95 of the reported epsilon, at 4 and 8."""
    assert audit(load([*SMALL, f"privacy={name}", f"model={model}"]).experiment).verdict == "holds"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_every_round_is_noised(name: str) -> None:
    """What an audit of all rounds together can't see: two rounds of a hundred with too little noise, or none."""
    plan = TrainingPlan(population=10_000, interactions=10_000, cohort_rate=1.0, rounds=200, trains=True)
    build_ = load([*SMALL, f"privacy={name}", "model=mf"]).experiment.mechanism
    mechanism: Any = build_.calibrated(plan, math.inf)
    shapes = {"item.weight": (300, 1)}
    memory = mechanism.init_state(shapes)
    expected = list[float]()
    for number in range(1, plan.rounds + 1):
        now = mechanism.with_round_params(mechanism.round_params(memory))
        zeros = {n: np.zeros(shape, np.float32) for n, shape in now.shapes(shapes).items()}
        left = now.privatize_node_sum(
            now.privatize_update(ModelUpdate(zeros, 1), now.random(number)), now.random(number)
        )
        done = now.privatize_aggregate(left, plan, number, now.random(number), memory)
        memory = done.mechanism_state
        if mechanism.dp_sgd() is not None:
            assert not done.arrays["item.weight"].any()  # its noise falls in every step of training
            return
        share = getattr(now, "honest", 1) ** -0.5  # of the noise, which a device of a secure sum adds
        expected.append(float(done.arrays["item.weight"].std()) / (now.multiplier() * now.clip * share))
    typical = np.median(expected)
    assert 0.9 < typical < 1.1 and np.all(np.abs(np.array(expected) / typical - 1) < 6 / 600**0.5)
