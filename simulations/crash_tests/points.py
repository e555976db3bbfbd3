"""Where a process can be killed in a round: named points, any line of the files that a guarantee rests on, any time."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fedrec.federated import loop
from fedrec.privacy.ledger import ledger
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.ledger.store import Anchor, LedgerStore
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.storage.private_arrays import MmapPrivateStore
from fedrec.storage.run_folder import RunFolder

ROOM = Path(__file__).parents[2] / "fedrec"
TRACED = {
    str(ROOM / name)
    for name in (
        "federated/loop.py", "federated/state.py", "federated/exchange.py", "federated/node.py", "messages.py",
        "storage/run_folder.py", "storage/private_arrays.py", "privacy/noise.py",
        "privacy/ledger/ledger.py", "privacy/ledger/store.py", "privacy/ledger/account.py",
        "privacy/mechanisms/base.py", "privacy/clipping.py", "privacy/release.py", "privacy/grid.py", "flower/codec.py",
        *(f"privacy/mechanisms/{name}.py" for name in (
            "user", "interaction", "user_adaptive", "user_local", "banded", "gateway")),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """A moment before or after a call: `owner.name` is what is called."""

    owner: Any
    name: str
    after: bool


def leaves(mechanism: Mechanism) -> str:
    """Return the method through which all goes that leaves devices which train at once: a gateway's sum, or theirs."""
    return "privatize_node_sum" if mechanism.pools_users else "privatize_cohort"


def points(mechanism: Mechanism) -> dict[str, Point]:
    """Return the named points of a round, in the order in which a round passes them, those of opening a run last."""
    kind, saves = type(mechanism), "save" if mechanism.pools_users else "save_many"
    return {
        "before it is reserved": Point(Ledger, "reserve", False),
        "an entry written, not committed": Point(LedgerStore, "append", True),
        "an entry committed, not anchored": Point(Anchor, "advance", False),
        "an entry anchored": Point(Anchor, "advance", True),
        "reserved": Point(Ledger, "reserve", True),
        "cohort drawn": Point(kind, "sample_cohort", True),
        "nodes not yet asked": Point(loop, "gather_updates", False),
        "private vectors not yet saved": Point(MmapPrivateStore, saves, False),
        "private vectors saved": Point(MmapPrivateStore, saves, True),
        "an answer not yet released": Point(kind, leaves(mechanism), False),
        "an answer released": Point(kind, leaves(mechanism), True),
        "answers in": Point(loop, "gather_updates", True),
        "before the server's noise": Point(kind, "privatize_aggregate", False),
        "after the server's noise": Point(kind, "privatize_aggregate", True),
        "checkpoint not yet written": Point(loop, "save_checkpoint", False),
        "checkpoint written, not renamed": Point(Path, "replace", False),
        "checkpoint renamed, folder not synced": Point(Path, "replace", True),
        "checkpoint durable": Point(loop, "save_checkpoint", True),
        "before the commit": Point(Ledger, "commit", False),
        "committed": Point(Ledger, "commit", True),
        "before the round's lines": Point(RunFolder, "append_round", False),
        "after the round's lines": Point(RunFolder, "append_round", True),
        "opening: a lost round not yet marked": Point(ledger, "mark_pending_lost", False),
        "opening: a lost round marked, not committed": Point(ledger, "mark_pending_lost", True),
    }


def die() -> None:
    """End this process as kill -9 does: nothing is flushed, nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(point: Point, times: int) -> None:
    """Kill this process when it passes the point for the `times`-th time."""
    real: Callable[..., Any] = getattr(point.owner, point.name)
    passed = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal passed
        passed += 1
        if passed == times and not point.after:
            die()
        result = real(*arguments, **named)
        if passed == times and point.after:
            die()
        return result

    setattr(point.owner, point.name, wrapped)


def kill_at_line(count: int) -> None:
    """Kill this process when it comes to the `count`-th line of the files that a guarantee rests on."""
    left = count

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            left -= 1
            if left <= 0:
                die()
        return trace

    sys.settrace(trace)
