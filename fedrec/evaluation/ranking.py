"""Where a target stands among what could have been recommended instead: by counting, never by sorting."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError

Scores = NDArray[np.float32] | NDArray[np.float64]
Items = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Ranks:
    """One entry per target: how many candidates score strictly `above` it and how many are `tied` with it."""

    above: NDArray[np.int64]
    tied: NDArray[np.int64]


def check_scores(scores: Scores, where: str) -> None:
    """Refuse NaN and infinite scores [..., V]: `score > NaN` is false, so a broken model would get perfect ranks."""
    finite = np.isfinite(scores)
    if not finite.all():
        wrong = np.argwhere(~finite)
        raise FedrecError(
            f"{where}: {len(wrong)} of {scores.size} scores are NaN or infinite, the first at position "
            f"{wrong[0].tolist()}; a model must give a finite score to every item"
        )


def full_ranks(scores: Scores, targets: Items, excluded: Items) -> Ranks:
    """Rank each target against the whole catalogue.

    `scores[V]` are one device's; items in `excluded` (what the device knows) and the other targets are left out.
    The target itself always takes part, also where it was consumed before.
    """
    out = np.union1d(excluded, targets)
    tops = scores[targets]
    above = _counts(scores, tops, "above") - _counts(scores[out], tops, "above")
    tied = _counts(scores, tops, "tied") - _counts(scores[out], tops, "tied")
    return Ranks(above, tied)


def sampled_ranks(scores: Scores, targets: Items, candidates: Items) -> Ranks:
    """Rank each target of one device against the given candidates, in any order; targets among them are left out."""
    against = scores[candidates[~np.isin(candidates, targets)]]
    tops = scores[targets]
    return Ranks(_counts(against, tops, "above"), _counts(against, tops, "tied"))


def ranks_many(scores: Scores, targets: Items, excluded: NDArray[np.bool_]) -> Ranks:
    """Rank one target per row of `scores[B, V]`, all at once; equal to `full_ranks` row by row.

    `excluded[B, V]` is true where an item is left out; the row's own target `targets[B]` is left out of its rivals.
    """
    rivals = ~excluded
    rivals[np.arange(len(targets)), targets] = False
    tops = scores[np.arange(len(targets)), targets][:, None]
    return Ranks(((scores > tops) & rivals).sum(1), ((scores == tops) & rivals).sum(1))


def top_items(scores: Scores, excluded: Items, length: int, generator: np.random.Generator) -> NDArray[np.int32]:
    """Return the `length` best items of one device, best first, without `excluded`; fewer where fewer are left.

    Items tied at the end of the list are drawn at random: a constant score must not make the first rows popular.
    """
    left = np.array(scores, np.float64)
    left[excluded] = -np.inf
    length = min(length, int(np.isfinite(left).sum()))
    if length == 0:
        return np.empty(0, np.int32)
    last = np.partition(left, len(left) - length)[len(left) - length]
    sure, tied = np.flatnonzero(left > last), np.flatnonzero(left == last)
    if len(tied) > length - len(sure):
        tied = generator.choice(tied, length - len(sure), replace=False)
    sure = sure[np.argsort(-left[sure], kind="stable")]
    return np.concatenate([sure, tied]).astype(np.int32)


def _counts(scores: Scores, tops: Scores, kind: str) -> NDArray[np.int64]:
    compare = np.greater if kind == "above" else np.equal
    return np.array([np.count_nonzero(compare(scores, top)) for top in tops], np.int64)
