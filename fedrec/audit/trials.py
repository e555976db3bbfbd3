"""The trials of an audit: each plays one game as often as its canaries need, and counts an attacker's errors.

From counted errors follow a lower bound on epsilon and a verdict against the accounted curve.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from numpy.typing import NDArray
from scipy.stats import beta, norm

from fedrec.audit.execution import AdversaryView, observe
from fedrec.audit.poisson_check import UNITS, find_deviations
from fedrec.audit.threat_model import ThreatModel, threat_model_of
from fedrec.experiment.instantiate import instantiate
from fedrec.privacy.accounting.interpretation import TradeOff, trade_off
from fedrec.privacy.mechanisms.protocol import Mechanism

ALPHA = 1e-3  # chance that a bound of a true claim fails, before its one repetition


@dataclass(frozen=True, slots=True)
class Errors:
    """How a test with a threshold fixed beforehand erred: of `absent` units and of `present` ones."""

    false_positives: int
    absent: int
    false_negatives: int
    present: int

    def fpr_at_most(self, alpha: float) -> float:
        """Return the upper end of the Clopper-Pearson interval of the false-positive rate."""
        return _at_most(self.false_positives, self.absent, alpha)

    def fnr_at_most(self, alpha: float) -> float:
        """Return the upper end of the Clopper-Pearson interval of the false-negative rate."""
        return _at_most(self.false_negatives, self.present, alpha)

    @property
    def swapped(self) -> "Errors":
        """The same test with the roles of present and absent changed."""
        return Errors(self.false_negatives, self.present, self.false_positives, self.absent)


def errors(absent: np.ndarray, present: np.ndarray, threshold: float) -> Errors:
    """Count how often a score above the threshold is wrong about absence, and one at or below it about presence."""
    wrong = int(np.count_nonzero(absent > threshold)), int(np.count_nonzero(present <= threshold))
    return Errors(wrong[0], absent.size, wrong[1], present.size)


def epsilon_at_least(found: Errors, delta: float, alpha: float = ALPHA) -> float:
    """Return a lower bound on the epsilon of a Gaussian mechanism, right with probability 1 - alpha.

    The two error rates bound the distance mu = Phi^-1(1 - FPR) - Phi^-1(FNR) of its two outputs from below. With as
    many absent units as present ones their mean does, for no threshold errs less than Phi(-mu / 2) on average; it is
    bounded as one binomial rate, because a sum of unlike binomials is no wider (Hoeffding, "On the distribution of the
    number of successes in independent trials", 1956).
    """
    if found.absent == found.present:
        wrong = found.false_positives + found.false_negatives
        mu = float(-2 * norm.ppf(_at_most(wrong, found.absent + found.present, alpha)))
    else:
        mu = float(-norm.ppf(found.fpr_at_most(alpha / 2)) - norm.ppf(found.fnr_at_most(alpha / 2)))
    return float(get_epsilon_gaussian(1 / mu, delta)) if mu > 0 else 0.0


def beats(found: Errors, curve: TradeOff, alpha: float = ALPHA) -> bool:
    """Say whether a test surely did better than the curve allows, in either direction."""
    for side in (found, found.swapped):
        allowed = float(curve.largest_tpr(side.fpr_at_most(alpha / 4))[0])
        if 1 - side.fnr_at_most(alpha / 4) > allowed:
            return True
    return False


def _at_most(count: int, of: int, alpha: float) -> float:
    return 1.0 if count >= of else float(beta.ppf(1 - alpha, count + 1, of - count))


def shown(epsilon: float) -> float | None:
    """Return epsilon for JSON: null where there is none."""
    return epsilon if math.isfinite(epsilon) else None


THRESHOLDS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)  # of the log-likelihood ratio, fixed before any run
TIGHT = 0.95

Document = Mapping[str, Any]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one trial measured. `verdict` is "holds", "loose", "contradicted" or "no claim".

    `reported` is the ledger's epsilon and `measured` a lower bound on the true one, infinite or 0 where a trial gives
    none; `detail` says what was looked at.
    """

    trial: str
    verdict: str
    reported: float
    measured: float
    detail: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: its kind, the experiment's document at its audit point, how many canaries, and over how many rounds.

    `rate` is that of the sampling; `turns` is how many rounds lie between two turns of a device.
    """

    kind: str  # "noise", "sampled" or "sampler"
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
    most = int(0.9 / (trial.document["privacy"].get("delta") or 1e-6))
    held = threat_model_of(mechanism.terms, min(trial.canaries, max(1, most // trial.turns)), trial.turns)
    runs = math.ceil(trial.canaries / held.canaries)
    played = threat_model_of(mechanism.terms, math.ceil(trial.canaries / runs), trial.turns)
    document = at_rate(trial.document, trial.rate / trial.turns, played.devices)
    return played, [observe(document, played, trial.rounds, trial.trains) for _ in range(runs)]


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


KINDS: dict[str, Callable[[Trial], Finding]] = {"noise": noise, "sampled": sampled, "sampler": sampler}


def at_rate(document: Document, rate: float, devices: int) -> dict[str, Any]:
    """Return the document with this rate: of a device's examples where the mechanism samples them, else of devices."""
    privacy, cohort = dict(document["privacy"]), {**document["cohort"], "size": None}
    if "sample_rate" in privacy:
        return {**document, "privacy": {**privacy, "sample_rate": rate}, "cohort": cohort}
    return {**document, "cohort": {**cohort, "size": rate * devices if rate < 1 else None}}
