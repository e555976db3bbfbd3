"""The attack on what was released, number by number: is it possible under the neighbour, and what does it tell?

Mironov, "On significance of the least significant bits for differential privacy", 2012: noise in floating point proves
who took part, whatever its size. So impossible numbers are counted, and must be none. Beyond that, no way to look at
the numbers may tell the two worlds apart better than the accounted curve allows, at any rate of false alarms from 1e-4
on. Two ways are tried. The first is the value. The second is learned from half of the runs: how often each world shows
each size of the whole number, each last bits of it, and exactly zero. That finds noise on a sublattice, noise that some
numbers lack, and tails that end. The other half of the runs is judged. And whatever was contributed, noise on the whole
numbers leaves all last digits equally likely.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chisquare

from fedrec.audit.execution import AdversaryView
from fedrec.audit.findings import ALPHA, Errors, Finding, beats, errors
from fedrec.audit.threat_model import ThreatModel
from fedrec.privacy.accounting.interpretation import TradeOff, trade_off
from fedrec.privacy.grid import Whole

Numbers = NDArray[np.float64]
Sides = tuple[Numbers, Numbers]  # the scores without a unit, and with one
RATES = (*(float(rate) for rate in np.geomspace(1e-4, 0.1, 10)), 0.2, 0.35, 0.5)  # of false alarms
TOLD = (1e-4, 1e-3, 1e-2, 1e-1)  # those that a reader is shown
RESIDUES, BUCKETS = 16, 64  # last bits of a number, and sizes of it
BASES = (15, 16)


def judge(played: ThreatModel, seen: list[AdversaryView]) -> Finding:
    """Return what the attack found in the views of several runs: half of them are learned from, the others judged."""
    half, first = max(1, len(seen) // 2), seen[0]
    curve, scored = trade_off(first.spent), list[tuple[Sides, Sides]]()
    scored.append((by_value(played, seen[:half]), by_value(played, seen[half:] or seen)))
    if first.whole is not None and len(seen) > 1:
        scored.append(by_cells(played, seen[:half], seen[half:]))
    tests = [(rate, found) for before, after in scored for rate, found in curve_points(before, after)]
    better = sorted({rate for rate, found in tests if beats(found, curve, ALPHA / len(tests))})
    impossible, numbers = sum(one.impossible for one in seen), sum(one.numbers for one in seen)
    uneven = least_p_value([one.whole for one in seen if one.whole is not None]) < ALPHA
    points = tuple(point for rate in TOLD if (point := best_at(rate, tests, curve)) is not None)
    detail = describe(impossible, numbers, first.whole is not None, points)
    if better:
        detail += f"; better than the curve allows at false-alarm rates {', '.join(f'{rate:.1e}' for rate in better)}"
    if uneven:
        detail += "; their last digits are not equally likely"
    verdict = "contradicted" if better or impossible or uneven else "holds"
    return Finding("possible", verdict, first.epsilon, 0.0, detail, points)


def least_p_value(whole: list[Whole]) -> float:
    """Return the p-value of the last digits in the bases of `BASES`, times the number of bases; 1 where none are."""
    found = [1.0]
    for base in BASES if whole else ():
        counts = np.sum([np.bincount((one % base).ravel(), minlength=base) for one in whole], axis=0)
        found.append(len(BASES) * float(chisquare(counts).pvalue))
    return min(found)


def by_value(played: ThreatModel, seen: list[AdversaryView]) -> Sides:
    """Return the sum over the rounds of what is heard, weighted by the mechanism's matched filter."""
    heard = [one.observations.sum(axis=0) for one in seen]
    return sides(played, seen, heard)


def sides(played: ThreatModel, seen: list[AdversaryView], heard: list[Numbers]) -> Sides:
    """Return what is heard [nodes, items] of several runs, without and with a unit."""
    absent = [h[played.absent(one.hosted)] for h, one in zip(heard, seen, strict=True)]
    present = [h[played.present(one.hosted)] for h, one in zip(heard, seen, strict=True)]
    return np.concatenate(absent), np.concatenate(present)


def by_cells(played: ThreatModel, learned: list[AdversaryView], judged: list[AdversaryView]) -> tuple[Sides, Sides]:
    """Return how much likelier each number's cell is with a unit, by what was learned, for both halves."""
    whole = [one.whole for one in learned if one.whole is not None]
    width = max(1.0, float(np.median(np.abs(np.concatenate(whole)))) / 6)
    cells = [cell_of(one, width) for one in learned]
    counts = [np.bincount(c.astype(np.int64), minlength=RESIDUES * BUCKETS + 1) for c in sides(played, learned, cells)]
    likelier = np.log((counts[1] + 0.5) / counts[1].sum()) - np.log((counts[0] + 0.5) / counts[0].sum())
    scores = [[likelier[cell_of(one, width).astype(np.int64)] for one in part] for part in (learned, judged)]
    return sides(played, learned, scores[0]), sides(played, judged, scores[1])


def cell_of(one: AdversaryView, width: float) -> Numbers:
    """Return the cell of each whole number of a run's first round: its last bits and its size, or that it is zero."""
    whole = np.zeros((1, 0), np.int64) if one.whole is None else one.whole
    size = np.clip(np.floor(whole / width), -BUCKETS // 2, BUCKETS // 2 - 1) + BUCKETS // 2
    return np.where(whole == 0, RESIDUES * BUCKETS, size * RESIDUES + whole % RESIDUES).astype(np.float64)


def curve_points(learned: Sides, judged: Sides) -> list[tuple[float, Errors]]:
    """Return (rate, errors) at thresholds from the first half: at each rate of false alarms, and of missed units."""
    cuts = [(rate, float(np.quantile(learned[0], 1 - rate))) for rate in RATES]
    cuts += [(1 - rate, float(np.quantile(learned[1], rate))) for rate in RATES]
    return [(rate, errors(*judged, cut)) for rate, cut in cuts]


def best_at(rate: float, tests: list[tuple[float, Errors]], curve: TradeOff) -> tuple[float, ...] | None:
    """Return (false alarms, found, at least, allowed) of the test that came nearest to the curve around a rate.

    `allowed` is what the curve has at the upper end of the interval of the false alarms; None where none were made.
    """
    near = [found for _, found in tests if rate / 1.5 <= found.false_positives / found.absent <= rate * 1.5]
    points = list[tuple[float, ...]]()
    for found in near:
        allowed = float(curve.largest_tpr(found.fpr_at_most(ALPHA / 4))[0])
        share = 1 - found.false_negatives / found.present
        points.append((found.false_positives / found.absent, share, 1 - found.fnr_at_most(ALPHA / 4), allowed))
    return max(points, key=lambda point: point[2] / point[3], default=None)


def describe(impossible: int, numbers: int, on_grid: bool, points: Sequence[Sequence[float]]) -> str:
    """Return what was found in words."""
    said = f"{impossible:,} of {numbers:,} released numbers impossible under the neighbour"
    if not on_grid and not impossible:
        said = f"{numbers:,} released numbers, in floating point: whether they are possible was not looked at"
    shown = ", ".join(f"{found:.4f} of {allowed:.4f} at {rate:.1e}" for rate, found, _, allowed in points)
    return f"{said}; found of what the curve allows, by false alarms: {shown or '-'}"
