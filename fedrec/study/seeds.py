"""One setting over several seeds: what is above popularity, and what privacy costs, with intervals over users.

`fedrec study seeds`: every trial is charged to the ledger of its users, as any run is. Per-user results are averaged
over seeds before they are compared, so that no user counts twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedrec.evaluation.per_user import PerUserResults, mean_over_seeds
from fedrec.evaluation.per_user import load as load_table
from fedrec.evaluation.summary import intervals, paired_interval
from fedrec.experiment.settings import Settings, load
from fedrec.federated.transport import LocalTransport
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run


def study(overrides: Sequence[str], seeds: Sequence[int], name: str) -> dict[str, list[PerUserResults]]:
    """Run every seed and return the per-user rows of each method, "" being the model itself."""
    rows: dict[str, list[PerUserResults]] = {}
    for seed in seeds:
        settings = load([*overrides, f"seed={seed}"])
        document = {**settings.document, "name": f"{name}-{seed}", "overwrite": True}
        named, folder = new_run(Settings(document))
        Simulation(named, folder, lambda: LocalTransport(1), Progress()).simulate()
        for path in sorted(folder.exact.glob("users*.npz")):
            rows.setdefault(path.stem.removeprefix("users").removeprefix("_"), []).append(load_table(path))
    return rows


def compared(rows: dict[str, list[PerUserResults]]) -> dict[str, dict[str, Any]]:
    """Return NDCG@10 and HR@10 of each method, and ours minus it, each with a 95 % interval over users."""
    ours = mean_over_seeds(rows[""], "full_ndcg@10")
    found = dict[str, dict[str, Any]]()
    for name, tables in rows.items():
        ndcg, hit = (mean_over_seeds(tables, f"full_{metric}@10") for metric in ("ndcg", "hr"))
        interval, gap = intervals(ndcg[:, None])[0], paired_interval(ours, ndcg)
        found[name or "ours"] = {
            "ndcg@10": [interval.mean, interval.low, interval.high],
            "hr@10": float(hit.mean()),
            "sampled_ndcg@10": float(mean_over_seeds(tables, "sampled_ndcg@10").mean()),
            "sampled_hr@10": float(mean_over_seeds(tables, "sampled_hr@10").mean()),
            "ours_minus": [gap.mean, gap.low, gap.high],
            "seeds": [float(np.mean(t["full_ndcg@10"])) for t in tables],
        }
    return found


def to_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what was compared, one line a method."""
    lines = [f"{'':22}{'HR@10':>8}{'NDCG@10 (95 % over users)':>32}{'ours minus it (paired)':>34}"]
    for name, values in found.items():
        (m, a, b), (d, low, high) = values["ndcg@10"], values["ours_minus"]
        mean, gap = f"{m:.4f} ({a:.4f} to {b:.4f})", f"{d:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(f"{name:22}{values['hr@10']:8.4f}{mean:>32}{gap:>34}")
    return lines
