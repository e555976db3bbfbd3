"""A script: runs a simulation in children that are killed -9 at random moments, and resumes it until it is done.

    python tests/kill_loop.py OUTPUT KILLS SEED overrides...

prints one JSON line: how many kills hit a living child. The imports are done once, before the first fork.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401 - what the first optimiser imports, in seconds that each child would pay

from fedrec import simulate as simulate_room
from fedrec.cli import simulate
from fedrec.config import load
from fedrec.privacy import banded, interaction, ledger, none, user_adaptive, user_local  # noqa: F401 - imported before the fork


def child(output: Path, overrides: list[str]) -> None:
    """Start the run, or go on with it where its configuration lies in its folder already."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open as long as the child lives
    try:
        run = output / "run"
        if (run / "config.yaml").exists():
            simulate([], str(run), True)
        else:
            simulate([*overrides, f"output={output}", "name=run"], None, True)
        os._exit(0)
    except BaseException as error:
        (output / "error.txt").write_text(repr(error))
        os._exit(1)


def main() -> None:
    """Kill the first children, let the last one finish."""
    output, kills, seed, overrides = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    load(overrides)
    assert simulate_room
    chosen, hit = random.Random(seed), 0
    for attempt in range(kills + 1):
        process = os.fork()
        if process == 0:
            child(output, overrides)
        if attempt < kills:
            time.sleep(chosen.uniform(0.02, 1.2))
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        hit += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            code = os.WEXITSTATUS(status)
            error = (output / "error.txt").read_text() if code else ""
            print(json.dumps({"hit": hit, "status": code, "error": error}))
            return


if __name__ == "__main__":
    main()
