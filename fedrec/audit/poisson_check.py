"""Whether draws are Poisson: each unit by itself with the accounted rate, whatever other units and rounds did."""

import json
from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from fedrec.audit.threat_model import Canaries
from fedrec.experiment.experiment import Experiment
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, Mechanism, TrainingPlan
from fedrec.rng import Stream
from fedrec.training.batches import Histories, samples

UNITS, DRAWS = 400, 4000

Draws = NDArray[np.bool_]


def find_deviations(document: Mapping[str, Any], draws: int = DRAWS) -> tuple[float, float, str]:
    """Return the accounted rate, the least p-value of the tests times their number, and which test gave it."""
    node = dict(document)
    if "noise_multiplier" in node["privacy"]:
        node["privacy"] = {**node["privacy"], "noise_multiplier": 1.0}  # draws don't depend on it
    experiment = Experiment.from_json(json.dumps(node))
    rate, drawn = draw(experiment, draws)
    found = p_values(drawn, rate)
    worst = min(found, key=lambda name: found[name])
    return rate, found[worst] * len(found), worst


def draw(experiment: Experiment, draws: int) -> tuple[float, Draws]:
    """Return the rate and who was drawn [draws, units], by the code that draws in a run."""
    mechanism, drawn = experiment.mechanism, np.zeros((draws, UNITS), bool)
    if (public := mechanism.dp_sgd()) is not None:
        for number, rows in enumerate(islice(batches(mechanism, public), draws)):
            drawn[number, rows] = True
        return public.sample_rate, drawn
    plan = TrainingPlan(UNITS, UNITS, experiment.cohort.rate(UNITS), draws, trains=True)
    for number in range(draws):
        drawn[
            number, mechanism.sample_cohort(plan, number, mechanism.random(experiment.seed, number, Stream.COHORT))
        ] = True
    return plan.cohort_rate, drawn


def batches(mechanism: Mechanism, public: DPSGDConfig) -> Iterator[NDArray[np.int64]]:
    """Yield the rows that a device with UNITS examples draws, step by step, participation by participation."""
    histories = Histories.of(Canaries(1, UNITS, each=UNITS).load().devices[0])
    for number in count():
        random = mechanism.random(0, number, Stream.TRAIN)
        for drawn in samples(histories, public, 0, UNITS, random):
            yield drawn.order[0, : drawn.count[0]]


def p_values(drawn: Draws, rate: float) -> dict[str, float]:
    """Return the p-value of each test of independent draws with this rate."""
    rounds, units = drawn.shape
    centred = (drawn - rate) / np.sqrt(rate * (1 - rate))
    sizes = centred.sum(axis=1) / np.sqrt(units)
    each = centred.sum(axis=0) / np.sqrt(rounds)
    return {
        "overall rate": two_sided(float(centred.sum()) / np.sqrt(centred.size)),
        "rate of each unit": spread(each),
        "spread of the size": spread(sizes),
        "units next to each other": correlation(centred[:, 1:] * centred[:, :-1]),
        "rounds next to each other": correlation(centred[1:] * centred[:-1]),
    }


def two_sided(score: float) -> float:
    """Return the p-value of a standard normal score."""
    return float(2 * norm.sf(abs(score)))


def spread(scores: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the variance of scores that should be standard normal."""
    total = float(np.square(scores).sum())
    return float(2 * min(chi2.sf(total, len(scores)), chi2.cdf(total, len(scores))))


def correlation(products: NDArray[np.float64]) -> float:
    """Return the p-value of products of independent standardised draws, whose mean is 0 and variance 1."""
    return two_sided(float(products.sum()) / np.sqrt(products.size))
