"""What a population costs: seconds a round and memory at equal cohorts, from ten thousand devices to a million.

    python -m simulations.benchmarks.scale
    python -m simulations.benchmarks.scale --users 10000000 --evaluate 1000

Each population is run end to end, in a process of its own, on synthetic data in mapped files (4 bytes an interaction,
made once in --folder): rounds through Flower's apps, evaluation of a seeded sample, the run folder. Memory is the peak
resident size, mapped pages counted, less what is resident once everything is imported. Seconds a round are those of
the devices that were drawn, times the cohort over their number, and come without the run's first round.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

AT_MOST = {"seconds a round at the largest / the smallest population": 1.2, "bytes a user at the largest": 700}


def resident(which: str) -> int:
    """Return bytes of this process that are resident: "VmRSS" now, "VmHWM" at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


def population(users: int, options: argparse.Namespace, folder: Path) -> list[str]:
    """Return the settings of the run on one population."""
    return [
        "dataset=synthetic-large",
        f"dataset.users={users}",
        f"dataset.items={options.items}",
        f"dataset.path={options.folder / f'{users}-{options.items}'}",
        "model=mf",
        f"cohort.size={options.cohort}",
        f"privacy={options.privacy}",
        f"rounds={options.rounds + 1}",
        f"evaluation.users={options.evaluate}",
        "evaluation.every=1000000",
        "evaluation.baselines=[]",
        f"output={folder}",
        "name=run",
        *options.overrides,
    ]


def one(users: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one population in this process and return what it cost."""
    os.environ["FEDREC_STATE"] = str(folder / "state")
    from fedrec.device.client_app import make_client_app
    from fedrec.experiment.settings import load
    from fedrec.federated.loop import RoundReport
    from fedrec.flower.transport import FlowerTransport, InProcessGrid
    from fedrec.report.console import Progress
    from fedrec.simulation import Simulation, new_run

    marks, rounds = [(time.perf_counter(), time.process_time())], list[RoundReport]()

    class Timed(Progress):
        def round(self, report: RoundReport) -> None:
            rounds.append(report)
            marks.append((time.perf_counter(), time.process_time()))
            super().round(report)

    settings, run = new_run(load(population(users, options, folder)))
    _ = settings.experiment  # imports the classes that the settings name
    imported = resident("VmRSS")
    start = time.perf_counter()
    values = Simulation(settings, run, lambda: FlowerTransport(InProcessGrid(make_client_app(), 2)), Timed()).simulate()
    whole = [round_.seconds * options.cohort / max(round_.cohort, 1) for round_ in rounds[1:]]
    # The last round's mark comes after its validation.
    cpu = [b[1] - a[1] for a, b in pairwise(marks[1:-1])]
    return {
        "users": users,
        "interactions": values["dataset"]["interactions"],
        "seconds_a_round": whole,
        "cpu_seconds_a_round": [c * options.cohort / max(r.cohort, 1) for c, r in zip(cpu, rounds[1:], strict=False)],
        "evaluate_seconds": values["seconds"]["evaluate"],
        "total_seconds": time.perf_counter() - start,
        "imported_bytes": imported,
        "peak_bytes": resident("VmHWM"),
        "bytes_a_user": (resident("VmHWM") - imported) / users,
    }


def show(found: list[dict[str, Any]], cohort: int) -> str:
    """Return the table."""
    head = f"{'users':>10} {'s a round':>10} {'least to most':>16} {'by CPU':>8} {'devices/s':>10} {'peak MiB':>9}"
    lines = [f"{head} {'B a user':>9} {'evaluate s':>10} {'total s':>8}"]
    for row in found:
        seconds, cpu = row["seconds_a_round"], row["cpu_seconds_a_round"]
        span, by_cpu = f"{min(seconds):.2f} to {max(seconds):.2f}", f"{median(cpu):.2f}" if cpu else "-"
        left = f"{row['users']:>10,} {median(seconds):>10.2f} {span:>16} {by_cpu:>8} {cohort / median(seconds):>10.0f}"
        right = f"{row['peak_bytes'] >> 20:>9} {row['bytes_a_user']:>9.0f} {row['evaluate_seconds']:>10.1f}"
        lines.append(f"{left} {right} {row['total_seconds']:>8.1f}")
    first, last = found[0], found[-1]
    ratio = median(last["seconds_a_round"]) / median(first["seconds_a_round"])
    asked = dict(zip(AT_MOST, (ratio, last["bytes_a_user"]), strict=True))
    lines += ["", *(f"{name}: {value:.2f} (at most {AT_MOST[name]:g} asked)" for name, value in asked.items())]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings as of fedrec simulate, such as model.dim=16")
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--cohort", type=int, default=1000, help="devices a round, about")
    parser.add_argument("--rounds", type=int, default=6, help="timed rounds, after a first one")
    parser.add_argument("--evaluate", type=int, default=10_000, help="devices of the largest population to evaluate")
    parser.add_argument("--privacy", default="none", help="a mechanism, such as user or interaction")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fedrec-scale")
    parser.add_argument("--json", type=Path, default=Path("bench_scale.json"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run every population in a process of its own, print the table, write JSON."""
    options = arguments()
    options.folder = options.folder.resolve()
    if options.one is not None:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(json.dumps(one(options.one, options, Path(folder))))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    found, before = list[dict[str, Any]](), os.getloadavg()
    for users in sorted(options.users):
        evaluated = options.evaluate if users == max(options.users) else min(options.evaluate, 1000)
        command = [sys.executable, "-m", "simulations.benchmarks.scale", *sys.argv[1:], "--one", str(users)]
        done = subprocess.run([*command, "--evaluate", str(evaluated)], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{users:,} users: the run failed; its own words stand above")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    print(show(found, options.cohort))
    print(
        f"\nload {before[0]:.1f} before, {os.getloadavg()[0]:.1f} after (what ran here counts), {os.cpu_count()} cores"
    )
    options.json.write_text(json.dumps({"populations": found, "load": [before, os.getloadavg()]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
