"""How far hostile devices push one item into honest users' lists, with and without the bound on what each says of it.

    python -m simulations.poisoning dataset=ml-100k dataset.path=DIR --seeds 0 1 2 3 4

A share of the users is hostile: they send an attack in the place of their data. Each row is the mean over seeds, which
draw the hostile users, the target (an item that at most 5 users have) and the noise. Printed are the share of honest
users without the target who get it in their first ten, the worst seed's share, and HR@10 of honest users over the whole
catalogue. "bound" is algorithm.shortest_history; without it there is the clip of the whole update alone.
"""

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.item_bounds import SHARES
from fedrec.data.dataset import Dataset
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run
from simulations.poisoning.attacks import ATTACKS, Attack
from simulations.poisoning.grid import HostileGrid

RARE = 5  # users that have the target at most
BOUNDED = ("popularity", "order", "ease")
LINE = "{model:10} {attack:13} {bound:>6} {share:>8} {target:>8} {worst:>8} {hr:>7}"


def draw(dataset: Dataset, share: float, seed: int) -> tuple[NDArray[np.int64], int]:
    """Return the hostile users, ascending, and a rare item as their target; fewer hostile ones are among more."""
    random = np.random.default_rng(seed)
    users, counts = len(dataset.devices), dataset.devices.known_counts()
    target = int(random.choice(np.flatnonzero(counts <= max(RARE, counts.min()))))
    return np.sort(random.permutation(users)[: round(share * users)]), target


def knows(dataset: Dataset, users: NDArray[np.int64], item: int) -> NDArray[np.bool_]:
    """Say which of the users have the item [n], tested or not."""
    start, item_of = dataset.devices.start, dataset.devices.item
    return np.array([bool((item_of[start[user] : start[user + 1]] == item).any()) for user in users.tolist()])


def play(model: str, attack: Attack, share: float, seed: int, overrides: list[str]) -> tuple[float, float]:
    """Run one attack; return (share of honest users with the target in their ten, HR@10 of honest users)."""
    with tempfile.TemporaryDirectory() as output:
        fixed = [f"seed={seed}", "evaluation.baselines=[]", f"output={output}"]
        settings, folder = new_run(load([f"model={model}", "privacy=user", *overrides, *fixed]))
        dataset = load_dataset(settings.experiment)
        hostile, target = draw(dataset, share, seed)
        grid = HostileGrid(dataset, hostile, attack, target)
        experiment = settings.experiment.calibrated(dataset)
        rows = (
            Simulation(settings, folder, lambda: grid, Progress(io.StringIO()))
            .train(experiment, dataset, folder, "")
            .rows
        )
    honest = ~np.isin(rows["user"], hostile)
    reached = honest & ~knows(dataset, rows["user"], target)
    found = (rows["top"] == target).any(1)
    return float(found[reached].mean()), float(rows["full_hr@10"][honest].mean())


def bounds_of(model: str) -> list[list[str]]:
    """Return the overrides of each setting of the bound: without it, and where there is one with it."""
    return [[f"algorithm.shortest_history={value}"] for value in ("null", *SHARES)] if model in BOUNDED else [[]]


def row(model: str, attack: Attack, share: float, bound: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Play one row of the table on all seeds."""
    made = [play(model, attack, share, seed, [*options.overrides, *bound]) for seed in options.seeds]
    target, hits = np.array(made).T
    return {
        "model": model,
        "attack": attack.__name__,
        "bound": bound[0].partition("=")[2] if bound else "null",
        "share": share,
        "target": target.tolist(),
        "hr": hits.tolist(),
    }


def written(found: dict[str, Any]) -> str:
    """Return a row as a line."""
    target, hits = found["target"], found["hr"]
    shown = {"share": f"{found['share']:.0%}", "target": f"{np.mean(target):.1%}", "worst": f"{max(target):.1%}"}
    return LINE.format(**{**found, **shown, "hr": f"{np.mean(hits):.4f}"})


def main() -> None:
    """Print the table row by row, and all figures as one JSON line; with --json, into a file too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.01, 0.05, 0.2], help="hostile users")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, help="a file for the rows")
    parser.add_argument("overrides", nargs="*", help="settings, such as dataset=ml-100k privacy.epsilon=2")
    options, rows = parser.parse_args(), list[dict[str, Any]]()
    head = {"share": "hostile", "target": "target", "worst": "worst", "hr": "HR@10"}
    print(LINE.format(model="model", attack="attack", bound="bound", **head))
    for model in options.models:
        for bound in bounds_of(model):
            for share in options.shares:
                for attack in ATTACKS[model] if share else ATTACKS[model][:1]:
                    rows.append(row(model, attack, share, bound, options))
                    print(written(rows[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
