"""The evaluation of one device, on the device."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.evaluation.candidates import Part, draw
from fedrec.evaluation.config import HEADLINE, EvaluationConfig
from fedrec.evaluation.metrics import (
    MetricSums,
    Ranks,
    Scores,
    check_scores,
    device_sums,
    full_ranks,
    sampled_ranks,
    top_items,
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one device's evaluation found: exact, and therefore for simulations only.

    `full` and `sampled` hold one entry per target; `candidates` is how many the target was sampled against, `top` the
    recommended items, best first, `squared_error` the mean over targets, None where scores are not ratings.
    """

    user: int
    full: Ranks
    sampled: Ranks
    candidates: int
    top: NDArray[np.int32]
    squared_error: float | None = None

    def sums(self, cutoffs: tuple[int, ...]) -> dict[str, MetricSums]:
        """Return the sums under "full" and "sampled" that may be merged with those of other devices."""
        return {"full": device_sums(self.full, cutoffs), "sampled": device_sums(self.sampled, cutoffs)}


def history_of(device: DeviceData, part: Part) -> NDArray[np.int32]:
    """Return what the device ranks from: its history; for the test, validation joined to it."""
    return device.history if part == "validation" else device.known


def left_out(device: DeviceData, part: Part) -> NDArray[np.int32]:
    """Return which items are no rivals of a target: those the device has used, or none where items may come again.

    Where every pair stands once, a target is new, and so is all that it is ranked against. Where repeats are kept
    (`device.repeats`), a target may be known, and then it must not be the only known item in the list: it would win
    against what nobody in its place would choose. So nothing is left out, for any user: to leave out what is known for
    those alone whose target is new would tell the ranking which they are, and to count those alone would be the task
    that `dataset.repeats=first` states for everybody.
    """
    return np.zeros(0, np.int32) if device.repeats else history_of(device, part)


def generator_of(options: EvaluationConfig, user: int) -> np.random.Generator:
    """Return the source that decides between items tied at the end of a device's list."""
    return np.random.default_rng(np.random.SeedSequence((options.seed, user, 1)))


def evaluate_device(
    scores: Scores,
    device: DeviceData,
    part: Part,
    options: EvaluationConfig,
    ratings: bool = False,
    model: str = "the model",
) -> Row | None:
    """Rank the device's held-out items by its scores [V]; None where nothing is held out.

    Several held-out items are ranked one by one, the others left out, and count with their mean. `ratings` says that
    scores are ratings: then the test carries a squared error (a device keeps no rating of its validation item).
    """
    targets = device.validation if part == "validation" else device.test
    if len(targets) == 0:
        return None
    _check_shape(scores, device, model)
    excluded = left_out(device, part)
    test, validation = draw(device, len(scores), options)
    candidates = test if part == "test" else validation
    return Row(
        user=device.user,
        full=full_ranks(scores, targets, excluded),
        sampled=sampled_ranks(scores, targets, candidates),
        candidates=len(candidates),
        top=top_items(scores, np.setdiff1d(excluded, targets), HEADLINE, generator_of(options, device.user)),
        squared_error=_squared_error(scores, device) if ratings and part == "test" else None,
    )


def _check_shape(scores: Scores, device: DeviceData, model: str) -> None:
    where = f"scores of {model} on device {device.user}"
    check_scores(scores, where)
    used = np.concatenate([device.known, device.test])
    if scores.ndim != 1 or used.max() >= len(scores):
        raise FedrecError(f"{where}: shape {scores.shape} given, one score per item of the catalogue expected")


def _squared_error(scores: Scores, device: DeviceData) -> float:
    return float(np.mean(np.square(scores[device.test].astype(np.float64) - device.test_values)))
