"""A script: runs simulations to their end, and again in children that are killed -9 and resumed until they are done.

    python tests/support/kill_loop.py OUTPUT SCENES

where SCENES is JSON: a list of [name, kills, seed, [overrides]]. Leaves OUTPUT/NAME/whole/run and
OUTPUT/NAME/kills/run, each with a state of its own, and prints one JSON object: by name, how many kills hit.

The imports are done and the run was played once before the first fork, so that a kill falls into what a run does: kill
n of k comes after n/k of the rounds, within about a round.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401 - what the first optimizer imports, in seconds that each child would pay

from fedrec.cli.simulate import simulate


@contextlib.contextmanager
def quiet(state: Path) -> Iterator[None]:
    """Print nothing, and keep the ledger in this folder."""
    os.environ["FEDREC_STATE"] = str(state)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def child(output: Path, overrides: list[str]) -> None:
    """Start the run, or go on with it where its configuration lies in its folder already."""
    try:
        with quiet(output / "state"):
            if (output / "run" / "config.yaml").exists():
                simulate([], str(output / "run"), True)
            else:
                simulate([*overrides, f"output={output}", "name=run"], None, True)
        os._exit(0)
    except BaseException as error:
        (output / "error.txt").write_text(repr(error))
        os._exit(1)


def rounds_of(run: Path) -> int:
    """Return how many rounds have been told."""
    path = run / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def attempt(output: Path, overrides: list[str], kill_after: tuple[int, float] | None) -> int | None:
    """Start or resume the run in a child, killed after (rounds, seconds); return its exit status, None if killed."""
    process, deadly = os.fork(), float("inf")
    if process == 0:
        child(output, overrides)
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if kill_after is not None and deadly == float("inf") and rounds_of(output / "run") >= kill_after[0]:
            deadly = time.monotonic() + kill_after[1]
        if time.monotonic() >= deadly:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.002)


def play(output: Path, kills: int, seed: int, overrides: list[str]) -> int:
    """Play the run whole and with kills; return how many of them hit."""
    whole, killed = output / "whole", output / "kills"
    for folder in (whole, killed):
        folder.mkdir(parents=True)
    start = time.monotonic()
    with quiet(whole / "state"):
        simulate([*overrides, f"output={whole}", "name=run"], None, True)
    rounds = rounds_of(whole / "run")
    of_a_round, chosen = (time.monotonic() - start) / rounds, random.Random(seed)
    for number in range(kills):
        status = attempt(killed, overrides, (number * rounds // kills, chosen.uniform(0, of_a_round)))
        if status is not None:
            break
    else:
        number, status = kills, attempt(killed, overrides, None)
    if status:
        raise SystemExit(f"{output.name}: {(killed / 'error.txt').read_text()}")
    return number


def main() -> None:
    """Play every scene."""
    torch.set_num_threads(1)
    scenes = json.loads(sys.argv[2])
    print(json.dumps({name: play(Path(sys.argv[1]) / name, *more) for name, *more in scenes}))


if __name__ == "__main__":
    main()
