"""What a trial found, and the counted errors that it follows from: a lower bound on epsilon, a place above a curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from scipy.stats import beta, norm

from fedrec.privacy.accounting.interpretation import TradeOff

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


@dataclass(frozen=True, slots=True)
class Finding:
    """What one trial measured. `verdict` is "holds", "loose", "contradicted" or "no claim".

    `reported` is the ledger's epsilon and `measured` a lower bound on the true one, infinite or 0 where a trial gives
    none; `detail` says what was looked at. `points` are places of the distinguishing curve: the rate of false alarms,
    the share found, the lower end of its interval, and what the accounted curve allows.
    """

    trial: str
    verdict: str
    reported: float
    measured: float
    detail: str
    points: Sequence[Sequence[float]] = ()
