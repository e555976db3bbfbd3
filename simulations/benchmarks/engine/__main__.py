"""Measure and print: see the package."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import simulations.benchmarks.engine as package
from fedrec.errors import FedrecError
from simulations.benchmarks.engine.job import SHIPPED, from_shipped, prepare
from simulations.benchmarks.engine.peers import peer
from simulations.benchmarks.engine.table import Ratio, Row, show

DEVICES, FEWEST, MOST, PEER_ROUNDS = 1200, 2, 12, 3  # devices of a measurement, its rounds, rounds of a peer
ENGINE, ONE, MANY = "engine alone, 5,000 a round", "engine alone, one thread", "through Flower, 5,000 a round"
STACKED, STACKED_NOISY = "stacked layers, one thread", "stacked layers, DP-SGD with noise, one thread"
FEW, LOOP = "through Flower, 100 a round", "plain torch loop"
NOISY, NOISY_ONE = "engine, DP-SGD with noise", "engine, DP-SGD with noise, one thread"
HOOKS, GHOST = "Opacus on each device, hooks", "Opacus on each device, ghost"
RAY_FEW, RAY, PFL = "Flower + Ray, 100 a round", "Flower + Ray, 100 a round (ML-1M)", "pfl-research, 1 process"
RATIOS = (
    Ratio("through Flower, 100 a round / Flower + Ray, ML-100K", FEW, RAY_FEW, 60),
    Ratio("through Flower, 5,000 a round / Flower + Ray, ML-1M", MANY, RAY, 250),
    Ratio("through Flower, 5,000 a round / pfl-research, ML-1M", MANY, PFL, 10),
    Ratio("engine / stacked layers, one thread", ONE, STACKED, 3),
    Ratio("engine / stacked layers, DP-SGD with noise, one thread", NOISY_ONE, STACKED_NOISY, 3),
    Ratio("engine / plain loop, all threads", ENGINE, LOOP, 10),
    Ratio("engine / plain loop, one thread", ONE, LOOP, 10),
    Ratio("DP-SGD with noise / Opacus hooks, all threads", NOISY, HOOKS, 100),
    Ratio("DP-SGD with noise / Opacus hooks, one thread", NOISY_ONE, HOOKS, 100),
    Ratio("DP-SGD with noise / Opacus ghost, all threads", NOISY, GHOST, 30),
    Ratio("DP-SGD with noise / Opacus ghost, one thread", NOISY_ONE, GHOST, 30),
    Ratio("through Flower / the engine alone, 5,000 a round", MANY, ENGINE, 0.85),
)


def rows(options: argparse.Namespace) -> list[Row]:
    """Return what is to be measured."""
    n = options.threads
    found = [
        Row(ENGINE, "ours:engine", "ml-1m", 5000, n),
        Row(MANY, "ours:flower", "ml-1m", 5000, n),
        Row(ONE, "ours:engine", "ml-1m", 2000, 1),
        Row(STACKED, "ours:vectorized", "ml-1m", 1000, 1),
        Row(LOOP, "loops:plain", "ml-1m", 150),
        Row(FEW, "ours:flower", "ml-100k", 100, n),
        Row(NOISY, "ours:engine", "ml-1m", 2000, n, private=True),
        Row(NOISY_ONE, "ours:engine", "ml-1m", 1000, 1, private=True),
        Row(STACKED_NOISY, "ours:vectorized", "ml-1m", 500, 1, private=True),
        Row(GHOST, "loops:ghost", "ml-1m", 20, private=True),
        Row(HOOKS, "loops:hooks", "ml-1m", 5, private=True),
    ]
    if options.ray:
        found += [
            Row(RAY_FEW, "flower_ray", "ml-100k", 100, peer=True),
            Row(RAY, "flower_ray", "ml-1m", 100, peer=True),
        ]
    if options.pfl:
        found.append(Row(PFL, "pfl_loop", "ml-1m", 100, peer=True))
    if options.bench is None:
        ours = [row for row in found if row.system.startswith("ours:") and row.data == "ml-1m"]
        found = [replace(row, data=SHIPPED) for row in ours]
    found = [replace(row, devices=min(row.devices, options.devices)) for row in found]
    return [row for row in found if not options.only or any(word in row.name for word in options.only)]


def lay_out(options: argparse.Namespace) -> None:
    """Leave the job's arrays in the working folder."""
    if options.bench is None:
        if options.ray or options.pfl:
            raise FedrecError("--ray and --pfl: a peer is measured by its script; --bench names their folder")
        from_shipped(options.work)
    else:
        prepare(options.bench, options.data, options.work, ["ml-100k", "ml-1m"])


def measure(row: Row, options: argparse.Namespace) -> None:
    """Measure a row once more."""
    if row.peer:
        python = options.ray if row.system == "flower_ray" else options.pfl
        made = peer(python, row.system, row.data, options.work, PEER_ROUNDS)
    else:
        made = ours(row, options.work)
    row.wall.append(made["wall"])
    row.cpu.append(made["cpu"])


def rounds(row: Row) -> int:
    """Return how many rounds are measured: many where they are short, because each waits for a disk now and then."""
    return min(max(FEWEST, DEVICES // row.devices), MOST) if row.system == "ours:flower" else FEWEST


def ours(row: Row, work: Path) -> dict[str, Any]:
    """Measure a row of this project in a process of its own; torch has one thread there, ours as many as the row."""
    command = [sys.executable, "-m", "simulations.benchmarks.engine.measure", row.system, "--work", str(work)]
    for name in ("data", "devices", "threads"):
        command += [f"--{name}", str(getattr(row, name))]
    command += ["--rounds", str(rounds(row)), *(["--private"] if row.private else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="the scripts of the plain loop and the peers, and so real users")
    parser.add_argument("--data", type=Path, default=Path("."), help="where ml-100k.zip and ml-1m.zip lie")
    parser.add_argument("--devices", type=int, default=5000, help="of a round, at most (default: 5000)")
    parser.add_argument("--work", type=Path, help="where the job's arrays are kept (default: a temporary folder)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of ours (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="times that all of ours take their turn")
    parser.add_argument("--peer-repeats", type=int, default=1)
    parser.add_argument(
        "--ray", metavar="PYTHON", help="also Flower + Ray, by a Python that has flwr[simulation], torch"
    )
    parser.add_argument("--pfl", metavar="PYTHON", help="also pfl-research, by a Python that has pfl 0.6 and torch")
    parser.add_argument("--only", nargs="+", help="rows whose name holds one of these words")
    parser.add_argument("--json", type=Path, default=Path("bench_engine.json"), help="where the figures are written")
    return parser.parse_args()


def main() -> None:
    """Measure in turns, print the tables, write JSON."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        options.work = (options.work or Path(folder)).resolve()
        try:
            lay_out(options)
        except FedrecError as error:
            raise SystemExit(f"error: {error}") from error
        found, before = rows(options), os.getloadavg()
        for repeat in range(max(options.repeats, options.peer_repeats)):
            for row in found:
                if repeat < (options.peer_repeats if row.peer else options.repeats):
                    print(f"repeat {repeat + 1}: {row.name}", file=sys.stderr)
                    measure(row, options)
    ratios = [one for ratio in RATIOS if (one := ratio.of({row.name: row for row in found})) is not None]
    print(show(found, ratios))
    print(f"\ntorch threads: 1 in every process; threads of ours as listed; load {before[0]:.1f} before, ", end="")
    print(f"{os.getloadavg()[0]:.1f} after (what ran here counts), {os.cpu_count()} cores")
    written = {"rows": [vars(row) for row in found], "ratios": ratios, "load": [before, os.getloadavg()]}
    options.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
