"""Kills on real devices: `python -m simulations.crash_tests.devices --kills 3` kills each of three things mid-round.

The process of a device, the fork of it that does a message's work and the server's SuperLink get `kill -9` at random
moments while a device works on a message; one kill a run. Every run is then finished, by itself or by `fedrec server
up` and `fedrec server start --resume`; one that lost a round to a kill ends a round early: lost rounds stay charged.
Printed as JSON: kills that hit, runs completed, and from the ledgers of the server and of every device: updates counted
twice, devices charged twice for a round, rounds charged to nobody. About half a minute a kill.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from simulations.devices import Walk, settle

DEVICE, SERVER = "fedrec.device.process", "own_superlink"
KINDS = ("work", "device", "SuperLink")
POLICY = """[privacy]
trust = ["server"]
largest_epsilon_per_year = 1e9
[participation]
idle = false
charging = false
unmetered = false
"""
SETTINGS = ["model=mf", "privacy=user", "privacy.epsilon=8", "privacy.population_epsilon=1e9", "privacy.clip=0.1"]
DEADLINE_SECONDS, PATIENCE_SECONDS, LATEST_SECONDS = 30, 300.0, 1.5


def processes_of(folder: Path, word: str) -> list[int]:
    """Return the processes with a word in their command line that name the folder there or in their surroundings."""
    found = list[int]()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid, line = int(entry.name), (entry / "cmdline").read_bytes()
            if word.encode() in line and str(folder).encode() in line + (entry / "environ").read_bytes():
                found.append(pid)
    return found


def workers_of(home: Path) -> list[int]:
    """Return the forks of a device's process, which do the work of a message."""
    found = processes_of(home, DEVICE)
    parents = dict[int, int]()
    for pid in found:
        with contextlib.suppress(OSError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if parent in found]


def kill(folder: Path, home: Path, kind: str, chosen: random.Random, started: "subprocess.Popen[str]") -> bool:
    """Wait until the device works on a message, and kill at a random moment after; say whether something was hit."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not workers_of(home):
        if time.monotonic() > end or started.poll() is not None:
            raise SystemExit(f"no message reached {home}: {started.communicate()[0]}")
        time.sleep(0.01)
    if kind != "work":  # which is done in a moment
        time.sleep(chosen.uniform(0, LATEST_SECONDS))
    hit = False
    targets = {"work": lambda: workers_of(home), "device": lambda: processes_of(home, DEVICE)}
    for pid in targets.get(kind, lambda: processes_of(folder, SERVER))():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            hit = True
    return hit


def played(steps: Walk, homes: list[Path], kind: str, name: str, chosen: random.Random, rounds: int) -> dict[str, Any]:
    """Play one run with one kill in it, to its end; return what became of it."""
    started = steps.began(
        "server", "start", "dataset.path=files/items.csv", *SETTINGS, f"rounds={rounds}", f"name={name}",
        f"cohort.size={len(homes)}", f"cohort.deadline_seconds={DEADLINE_SECONDS}",
    )  # fmt: skip
    folder, begun = steps.folder / "runs" / name, time.monotonic()
    first = chosen.randrange(rounds - 1)  # rounds done before the kill
    while lines_of(folder) < first and started.poll() is None:
        time.sleep(0.05)
    hit, resumed = kill(steps.folder, chosen.choice(homes), kind, chosen, started), 0
    told, _ = started.communicate()
    while started.returncode and resumed < 3:
        resumed += 1
        with contextlib.suppress(SystemExit):  # it is up already where the SuperLink was not what was killed
            steps.fedrec("server up", "server", "up", "--background")
        started = steps.began("server", "start", "--resume", str(folder))
        told, _ = started.communicate()
    complete = started.returncode == 0 and (folder / "metrics.json").exists()
    if not complete:
        print(told, file=sys.stderr)
    return {"kind": kind, "hit": hit, "complete": complete, "resumed": resumed, "seconds": time.monotonic() - begun}


def lines_of(folder: Path) -> int:
    """Return how many rounds a run has finished."""
    path = folder / "rounds.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def entries(file: Path, run: str, kind: str) -> list[int]:
    """Return the rounds of a ledger's entries of one kind."""
    with contextlib.closing(sqlite3.connect(file)) as ledger:
        rows = ledger.execute("select body from entries where run = ? and kind = ? order by seq", [run, kind])
        return [int(json.loads(body)["round"]) for (body,) in rows]


def verdict(steps: Walk, homes: list[Path], name: str) -> Counter[str]:
    """Return what the ledgers and stores say of one run."""
    folder = steps.folder / "runs" / name
    run = str(yaml.safe_load((folder / "config.yaml").read_text())["run"])
    (ledger,) = (steps.folder / "state").rglob("devices-*.sqlite")
    charged = [entries(home / "ledger.sqlite", run, "charge") for home in homes]
    answered = Counter[int]()
    for home in homes:
        with contextlib.closing(sqlite3.connect(home / "store.sqlite")) as store:
            answered.update(row[0] for row in store.execute("select round from answers where run = ?", [run]))
    lines = [json.loads(line) for line in (folder / "exact" / "rounds.jsonl").read_text().splitlines()]
    reserved, by_anybody = entries(ledger, run, "reserve"), {number for rounds in charged for number in rounds}
    return Counter(
        rounds_released=sum(line["released"] for line in lines),
        rounds_charged=len(reserved),
        rounds_charged_to_nobody=sum(number not in by_anybody for number in reserved),
        updates_counted=sum(line["answered"] for line in lines),
        updates_counted_twice=sum(max(0, line["answered"] - answered[line["round"]]) for line in lines),
        rounds_released_twice=len(lines) - len({line["round"] for line in lines}),
        devices_charged_twice=sum(len(rounds) - len(set(rounds)) for rounds in charged),
    )


def loop(folder: Path, nodes: int, engine: str, kills: int, rounds: int, seed: int) -> dict[str, Any]:
    """Play a run for every kill; return the figures."""
    steps, chosen, names = Walk(folder), random.Random(seed), list[str]()
    kinds, done, total = chosen.sample([*KINDS] * kills, 3 * kills), list[dict[str, Any]](), Counter[str]()
    with settle(steps, nodes, engine) as homes:
        for home in homes:
            (home / "policy.toml").write_text(POLICY)
        for number, kind in enumerate(kinds):
            done.append(played(steps, homes, kind, f"run-{number}", chosen, rounds))
            names.append(f"run-{number}")
            print(json.dumps(done[-1]), file=sys.stderr, flush=True)
        for name in names:
            total.update(verdict(steps, homes, name))
    hits = Counter(one["kind"] for one in done if one["hit"])
    complete = sum(one["complete"] for one in done)
    return {"kills": dict(hits), "runs": len(done), "runs_completed": complete, **{k: total[k] for k in sorted(total)}}


def main() -> None:
    """Kill, and print one JSON object; exit status 1 where something was lost or counted twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2, help="of each kind (default: 2)")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--engine", default="light", help="auto, torch or light")
    parser.add_argument("--rounds", type=int, default=3, help="of each run (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = loop(Path(folder), options.nodes, options.engine, options.kills, options.rounds, options.seed)
    print(json.dumps({**found, "load_average": os.getloadavg()[0]}, indent=2))
    bad = ("rounds_charged_to_nobody", "updates_counted_twice", "devices_charged_twice", "rounds_released_twice")
    if found["runs_completed"] < found["runs"] or any(found[name] for name in bad):
        sys.exit(1)


if __name__ == "__main__":
    main()
