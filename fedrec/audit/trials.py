"""The trials of an audit: each plays one game as often as its canaries need, and counts an attacker's errors.

From counted errors follow a lower bound on epsilon and a verdict against the accounted curve.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.audit.execution import AdversaryView, observe
from fedrec.audit.findings import ALPHA, Errors, Finding, beats, epsilon_at_least, errors
from fedrec.audit.poisson_check import UNITS, find_deviations
from fedrec.audit.possibility import judge
from fedrec.audit.threat_model import ThreatModel, threat_model_of
from fedrec.experiment.instantiate import instantiate
from fedrec.privacy.accounting.interpretation import TradeOff, trade_off
from fedrec.privacy.mechanisms.protocol import Mechanism

THRESHOLDS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)  # of the log-likelihood ratio, fixed before any run
TIGHT = 0.95
RELEASED, FEW = 100_000, 500  # numbers that one round of the attack on released numbers has, and users in it

Document = Mapping[str, Any]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: its kind, the experiment's document at its audit point, how many canaries, and over how many rounds.

    For "possible", `canaries` is how many numbers are released. `rate` is that of the sampling; `turns` is how many
    rounds lie between two turns of a device.
    """

    kind: str  # "noise", "sampled", "sampler" or "possible"
    document: dict[str, Any]
    trains: bool
    canaries: int
    rounds: int = 2  # enough that what was not composed shows
    rate: float = 1.0
    turns: int = 1

    def run(self) -> Finding:
        """Return what was found; what speaks against the claim is believed once it came up twice, on fresh noise."""
        found = KINDS[self.kind](self)
        return KINDS[self.kind](self) if found.verdict in ("contradicted", "loose") else found

    def json(self) -> dict[str, Any]:
        """Return the trial for another process."""
        return asdict(self)


def plays(trial: Trial) -> tuple[ThreatModel, list[AdversaryView]]:
    """Return the game and what was seen in as many runs as the canaries need."""
    mechanism: Mechanism = instantiate(trial.document["privacy"], "privacy")
    # Fewer privacy units than 1 / delta, or the mechanism refuses them.
    most = max(1, int(0.9 / (trial.document["privacy"].get("delta") or 1e-6)) // trial.turns)
    if trial.kind == "possible":
        played = wide_game(trial, mechanism, most)
        runs = math.ceil(trial.canaries / (played.numbers * trial.rounds))
    else:
        held = threat_model_of(mechanism.terms, min(trial.canaries, most), trial.turns)
        runs = math.ceil(trial.canaries / held.canaries)
        played = threat_model_of(mechanism.terms, math.ceil(trial.canaries / runs), trial.turns)
    document = at_rate(trial.document, trial.rate / trial.turns, played.devices)
    return played, [observe(document, played, trial.rounds, trial.trains) for _ in range(runs)]


def wide_game(trial: Trial, mechanism: Mechanism, most: int) -> ThreatModel:
    """Return a game of at most so many canaries whose rounds release many numbers each, most of them nobody's."""
    numbers, held = min(RELEASED, trial.canaries // 4), min(most, max(1, trial.canaries // 20))
    game = threat_model_of(mechanism.terms, held, trial.turns)
    if not game.alone:  # a device takes its time, and the longer the more numbers there are
        return threat_model_of(mechanism.terms, min(held, FEW), trial.turns).widened(numbers)
    # A reply takes its time however short it is: where each device sends one, they are longer.
    return game.widened(min(4 * RELEASED, trial.canaries // 4) if game.devices > 1 else numbers)


def scores(
    played: ThreatModel, seen: list[AdversaryView], score: Callable[[AdversaryView], Numbers]
) -> tuple[Numbers, Numbers]:
    """Return the scores without and with a unit over all runs."""
    absent = [score(one)[played.absent(one.hosted)] for one in seen]
    present = [score(one)[played.present(one.hosted)] for one in seen]
    return np.concatenate(absent), np.concatenate(present)


def noise(trial: Trial) -> Finding:
    """Every unit takes part every time: the matched filter, the threshold halfway, a Gaussian lower bound."""
    played, seen = plays(trial)
    first = seen[0]
    absent, present = scores(played, seen, lambda one: one.observations.sum(axis=0))
    found = errors(absent, present, sum(played.ends) / 2)
    measured = epsilon_at_least(found, first.delta)
    detail = (
        f"{found.absent:,} scores without and {found.present:,} with a unit; FPR "
        f"{found.false_positives / found.absent:.4f}, FNR {found.false_negatives / found.present:.4f}"
    )
    return Finding("noise", noise_verdict(first.epsilon, measured), first.epsilon, measured, detail)


def noise_verdict(reported: float, measured: float) -> str:
    """Compare a lower bound with the epsilon that was reported."""
    if math.isinf(reported):
        return "no claim"
    if measured > reported:
        return "contradicted"
    return "holds" if measured >= TIGHT * reported else "loose"


def sampled(trial: Trial) -> Finding:
    """Units take part at random: the log-likelihood ratio over the rounds, held against the accounted curve."""
    played, seen = plays(trial)
    first = seen[0]
    ((multiplier, rate, count),) = first.spent
    absent, present = scores(played, seen, lambda one: likelihood_ratio(one, multiplier, rate))
    curve = trade_off(first.spent)
    tests = [errors(absent, present, threshold) for threshold in THRESHOLDS]
    better = [t for t, test in zip(THRESHOLDS, tests, strict=True) if beats(test, curve, ALPHA / len(THRESHOLDS))]
    detail = f"{count} rounds at rate {rate:.3g}; {sharpest(tests, curve)}" + (
        f"; better than the curve allows at thresholds {better}" if better else ""
    )
    return Finding("sampled", "contradicted" if better else "holds", first.epsilon, 0.0, detail)


def likelihood_ratio(seen: AdversaryView, multiplier: float, rate: float) -> Numbers:
    """Return log(p_with / p_without) of each number heard [nodes, items], of a unit drawn with `rate` each round.

    A round shows N(0, z^2) without the unit, and with it N(1, z^2) where it was drawn.
    """
    rounds = seen.observations * len(seen.observations)
    return np.log1p(rate * np.expm1((rounds - 0.5) / multiplier**2)).sum(axis=0)


def sharpest(tests: list[Errors], curve: TradeOff) -> str:
    """Return how near the best of the tests with enough false positives to count came to the curve."""
    counted = [t for t in tests if t.false_positives >= 400] or tests
    rates = [
        (1 - t.false_negatives / t.present, float(curve.largest_tpr(t.false_positives / t.absent)[0])) for t in counted
    ]
    found, allowed = max(rates, key=lambda pair: pair[0] / pair[1])
    return f"TPR {found:.3f} where the curve allows {allowed:.3f}"


def sampler(trial: Trial) -> Finding:
    """The draws themselves: each unit by itself, at the accounted rate, independent of others and of other rounds."""
    document = at_rate(trial.document, trial.rate, UNITS)
    rate, worst, what = find_deviations(document, trial.canaries)
    verdict = "contradicted" if worst < ALPHA else "holds"
    detail = f"rate {rate:.3g}; least p-value of all tests for Poisson draws {min(1.0, worst):.2g} ({what})"
    return Finding("sampler", verdict, math.inf, 0.0, detail)


def possible(trial: Trial) -> Finding:
    """Every unit takes part every time: each released number by itself, and whether it is possible at all."""
    return judge(*plays(trial))


KINDS: dict[str, Callable[[Trial], Finding]] = {
    "noise": noise,
    "sampled": sampled,
    "sampler": sampler,
    "possible": possible,
}


def at_rate(document: Document, rate: float, devices: int) -> dict[str, Any]:
    """Return the document with this rate: of a device's examples where the mechanism samples them, else of devices."""
    privacy, cohort = dict(document["privacy"]), {**document["cohort"], "size": None}
    if "sample_rate" in privacy:
        return {**document, "privacy": {**privacy, "sample_rate": rate}, "cohort": cohort}
    return {**document, "cohort": {**cohort, "size": rate * devices if rate < 1 else None}}
