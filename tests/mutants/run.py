"""Applies each planted fault to a copy of the tree and runs the tests that must kill it: `make mutants`.

    python -m tests.mutants.run [NAME ...] [--jobs 2] [--unchecked]

A patch begins with two lines, "plants: what it breaks" and "killed by: arguments for pytest". A mutant is killed where
those tests fail on it; first they must pass on the tree as it is. Exit status 1 where one survives.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("fedrec", "client", "server", "simulations", "conf", "tests")
ROOMS = (*CODE, "docs", "mkdocs.yml", "pyproject.toml", "README.md", "Makefile")
SECONDS = 900
COLLECTED_NOTHING = (4, 5)  # pytest: a wrong argument, no test


@dataclass(frozen=True)
class Mutant:
    """One patch: what it plants, and pytest's arguments for the tests that must fail on it."""

    path: Path
    plants: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem


def mutants() -> list[Mutant]:
    """Return every mutant, in the order of the names."""
    return [read(path) for path in sorted(Path(__file__).parent.glob("*.patch"))]


def read(path: Path) -> Mutant:
    """Return the mutant of a patch file; one without its two first lines is an error."""
    first, second = path.read_text().splitlines()[:2]
    if not first.startswith("plants: ") or not second.startswith("killed by: "):
        raise ValueError(f"{path}: begins with 'plants: ...' and 'killed by: ...'")
    return Mutant(path, first.removeprefix("plants: "), tuple(shlex.split(second.removeprefix("killed by: "))))


def apply(mutant: Mutant, tree: Path, *more: str) -> str:
    """Apply the patch to a tree; return what is wrong with it, "" where it fits."""
    command = ["git", "apply", "--recount", "-p1", *more, str(mutant.path.resolve())]
    # Outside of any repository, also one that a hook names: git leaves out paths that it thinks are not its own.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    outside["GIT_CEILING_DIRECTORIES"] = str(tree.resolve().parent)
    done = subprocess.run(command, cwd=tree, env=outside, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def copied(folder: Path) -> Path:
    """Copy the tree into a folder."""
    for room in ROOMS:
        source, ignore = ROOT / room, shutil.ignore_patterns("__pycache__", "*.patch")
        if source.is_dir():
            shutil.copytree(source, folder / room, ignore=ignore)
        else:
            shutil.copy(source, folder / room)
    return folder


def tested(tree: Path, tests: tuple[str, ...]) -> int:
    """Return pytest's status of some tests in a tree; tests that never end count as failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return 1
    return done.returncode


def outcome(mutant: Mutant) -> str:
    """Return "killed", "SURVIVED", or what kept the trial from being one."""
    with tempfile.TemporaryDirectory() as name:
        tree = copied(Path(name))
        if wrong := apply(mutant, tree):
            return f"DOES NOT APPLY: {wrong}"
        status = tested(tree, mutant.tests)
    if status in COLLECTED_NOTHING:
        return "NAMES NO TEST"
    return "SURVIVED" if status == 0 else "killed"


def sound(tests: tuple[str, ...]) -> str:
    """Return "" where tests pass on the tree as it is."""
    with tempfile.TemporaryDirectory() as name:
        status = tested(copied(Path(name)), tests)
    return "" if status == 0 else f"fails without any mutant (status {status}): {shlex.join(tests)}"


def main() -> None:
    """Print each mutant's end, and how many were killed of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--unchecked", action="store_true", help="leave out that the tests pass without any mutant")
    options = parser.parse_args()
    chosen = [m for m in mutants() if not options.names or m.name in options.names]
    start = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        suites = [] if options.unchecked else list(dict.fromkeys(m.tests for m in chosen))
        unsound = [text for text in pool.map(sound, suites) if text]
        ends = list[str]()
        for mutant, end in zip(chosen, pool.map(outcome, chosen), strict=True):
            ends.append(end)
            print(f"{end:9} {mutant.name}: {mutant.plants}", flush=True)
    killed = ends.count("killed")
    print("\n".join([*unsound, f"{killed} of {len(chosen)} mutants killed ({time.monotonic() - start:.0f} s)"]))
    raise SystemExit(bool(unsound) or killed < len(chosen))


if __name__ == "__main__":
    main()
