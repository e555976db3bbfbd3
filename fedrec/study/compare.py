"""Paired comparisons between runs: the same users, the same candidates, ours minus theirs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.evaluation.per_user import PerUserResults, mean_over_seeds
from fedrec.evaluation.summary import Interval, paired_interval
from fedrec.experiment.instantiate import canonical_document
from fedrec.experiment.settings import read
from fedrec.storage.run_folder import load_table
from fedrec.study.plan import METRICS, of
from fedrec.study.results import finished, over_seeds

FLIPS = 10_000
PLACE = ("name", "run", "output", "overwrite", "keep_releases_mb")
APART = (*PLACE, "seed", "nodes", "evaluation.baselines", "evaluation.baselines_seconds", "evaluation.every")
NEWER = {
    "cohort.lost_rounds": 3,
    "dataset.repeats": "first",
    "dataset.order": None,
}  # settings that runs of an older fedrec do not name, with what those did


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in their seed alone: their rows by seed. `said` are the settings in which groups differ."""

    runs: tuple[str, ...]
    settings: Mapping[str, Any]
    rows: Mapping[int, PerUserResults]
    said: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first group minus another: over users (means over seeds), and over the seeds that both have.

    `p` is that of a two-sided sign-flip permutation test over users, `p_holm` the same after Holm's correction for
    all comparisons made together.
    """

    other: Group
    difference: Interval
    seeds: Interval | None
    shared_seeds: int
    p: float
    p_holm: float


def groups_of(paths: Sequence[str]) -> list[Group]:
    """Read run folders, or studies whose trials are taken, and put runs together that differ in their seed alone."""
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path in [run for given in paths for run in _runs(Path(given))]:
        document = read(path / "config.yaml").document
        known = canonical_document(document)  # a run of an older fedrec has other names for the same classes
        settings = {**NEWER, **{key: value for key, value in flat(known).items() if key not in APART}}
        if settings["engine"] in ("kernel", "vectorized"):  # what `auto` was settled to, with results to rounding
            settings["engine"] = "auto"
        found.setdefault(json.dumps(settings, sort_keys=True), []).append((path, document))
    groups = [_group(json.loads(key), runs) for key, runs in found.items()]
    if len(groups) < 2:
        raise FedrecError(f"{' '.join(paths)}: these runs differ in their seeds alone; at least two settings expected")
    for group in groups[1:]:
        _check_same_test(groups[0], group)
    return [_named(group, groups) for group in groups]


def compare(groups: Sequence[Group], metric: str) -> list[Comparison]:
    """Return the first group against each other one, on a metric such as "full_ndcg@10"."""
    ours, made = groups[0], list[tuple[Group, Interval, Interval | None, int, float]]()
    for other in groups[1:]:
        a, b = (mean_over_seeds(list(group.rows.values()), metric) for group in (ours, other))
        shared = sorted(ours.rows.keys() & other.rows.keys())
        gaps = [float(np.mean(ours.rows[seed][metric]) - np.mean(other.rows[seed][metric])) for seed in shared]
        made.append((other, paired_interval(a, b), over_seeds(gaps), len(shared), sign_flip(a - b)))
    adjusted = holm([p for *_, p in made])
    return [Comparison(*one, p_holm=better) for one, better in zip(made, adjusted, strict=True)]


def sign_flip(differences: NDArray[np.float64], seed: int = 0) -> float:
    """Return the two-sided p of a zero mean by flipping signs, users exchangeable: (1 + extremes) / (1 + flips).

    Users without a difference change nothing, so only the others are flipped.
    """
    moved = differences[differences != 0]
    generator, observed, extremes = np.random.default_rng(seed), abs(moved.sum()), 0
    for _ in range(FLIPS // 100):
        signs = generator.integers(0, 2, (100, len(moved)), np.int8) * 2 - 1
        extremes += int((np.abs(signs @ moved) >= observed * (1 - 1e-12)).sum())
    return (1 + extremes) / (1 + FLIPS)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values (Holm 1979), in the order given."""
    task = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate([min(1.0, (len(p) - rank) * p[at]) for rank, at in enumerate(task)])
    adjusted = np.empty(len(p))
    adjusted[task] = steps
    return [float(value) for value in adjusted]


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration as dotted names."""
    found = dict[str, Any]()
    for key, value in node.items():
        named = prefix + key
        found |= flat(cast(dict[str, Any], value), f"{named}.") if isinstance(value, dict) else {named: value}
    return found


def _runs(path: Path) -> list[Path]:
    if (path / "study.json").exists():
        trials = of(json.loads((path / "study.json").read_text()), str(path / "study.json")).trials()
        runs = [run for trial in trials if finished(run := path / "trials" / trial.name)]
        if not runs:
            raise FedrecError(f"{path}: no trial of this study has ended yet")
        return runs
    if not (path / "exact" / "users.npz").exists():
        raise FedrecError(f"{path}: no run that has ended (exact/users.npz is missing); name run folders or a study")
    return [path]


def _group(settings: dict[str, Any], runs: list[tuple[Path, dict[str, Any]]]) -> Group:
    rows = {int(document["seed"]): load_table(path / "exact" / "users.npz") for path, document in runs}
    if len(rows) < len(runs):
        raise FedrecError(f"{', '.join(str(path) for path, _ in runs)}: two runs of one setting and one seed")
    return Group(tuple(str(path) for path, _ in runs), settings, rows)


def _check_same_test(ours: Group, theirs: Group) -> None:
    """Refuse runs that were not tested on the same items of the same users."""
    for key in sorted(ours.settings.keys() | theirs.settings.keys()):
        mine, other = ours.settings.get(key), theirs.settings.get(key)
        if key.startswith(("dataset.", "evaluation.")) and not key.endswith((".select", ".head")) and mine != other:
            apart = f"{theirs.runs[0]}: {key}={other}, but {ours.runs[0]} has {mine}"
            raise FedrecError(f"{apart}: only runs on the same data, split and candidates can be paired")


def _named(group: Group, groups: Sequence[Group]) -> Group:
    """Name a group by what it is made of and its epsilon where that tells the groups apart, else by all differences."""
    different = [
        key
        for key in sorted({key for one in groups for key in one.settings})
        if len({json.dumps(one.settings.get(key)) for one in groups}) > 1 and key != "privacy.noise_multiplier"
    ]
    main = [key for key in ("model._target_", "privacy._target_", "privacy.epsilon") if key in different]
    tells = len({json.dumps([one.settings.get(key) for key in main]) for one in groups}) == len(groups)
    parts = [_shown(key, group.settings[key]) for key in (main if tells else different) if key in group.settings]
    return Group(group.runs, group.settings, group.rows, " ".join(parts) or Path(group.runs[0]).name)


def _shown(key: str, value: Any) -> str:
    return f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2] if key.endswith('_target_') else value}"


def to_lines(groups: Sequence[Group], comparisons: Sequence[Comparison], metric: str) -> list[str]:
    """Return what was found, one line a comparison."""
    mean = float(mean_over_seeds(list(groups[0].rows.values()), metric).mean())
    users = len(next(iter(groups[0].rows.values()))["user"])
    lines = [f"{metric} of {groups[0].said}: {mean:.4f} ({users:,} users, {len(groups[0].rows)} seeds). It minus:"]
    for one in comparisons:
        gap, seeds = one.difference, one.seeds
        over = f"over {one.shared_seeds} seeds {seeds.low:+.4f} to {seeds.high:+.4f}" if seeds else "one seed"
        lines.append(
            f"  {one.other.said}: {gap.mean:+.4f} (95 % over users {gap.low:+.4f} to {gap.high:+.4f}; {over}; "
            f"p {one.p:.4f}, Holm {one.p_holm:.4f})"
        )
    return lines


def to_json(groups: Sequence[Group], comparisons: Sequence[Comparison], metric: str) -> dict[str, Any]:
    """Return the same as plain values."""
    return {
        "metric": metric,
        "ours": {"said": groups[0].said, "runs": list(groups[0].runs)},
        "against": [
            {
                "said": one.other.said,
                "runs": list(one.other.runs),
                "difference": one.difference.mean,
                "users_ci": [one.difference.low, one.difference.high],
                "seeds_ci": None if one.seeds is None else [one.seeds.low, one.seeds.high],
                "seeds": one.shared_seeds,
                "p": one.p,
                "p_holm": one.p_holm,
            }
            for one in comparisons
        ],
    }


def check_metric(metric: str) -> str:
    """Return a metric that per-user results hold."""
    if metric not in METRICS:
        raise FedrecError(f"--metric {metric}: {', '.join(METRICS)} expected")
    return metric
