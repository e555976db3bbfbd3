"""Work that a server asked for, in a process of its own with an end: bounded seconds, bounded memory.

The process is a fork: it shares what was loaded, and leaves nothing behind but its answer. It touches no store, for
SQLite's connections do not survive a fork; what it needs was read before, what it made is written after.
"""

import logging
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fedrec.errors import FedrecError, OverLimitError, RefusedError
from fedrec.messages import Message, pack, unpack
from fedrec.ops.processes import die_with_parent

log = logging.getLogger(__name__)
STATUS, PIECE = Path("/proc/self/status"), 1 << 20


def run_bounded(work: Callable[[], Message], seconds: float, memory_mib: float) -> Message:
    """Return what the work returns; raise `OverLimitError` where it takes longer, or more memory than this process has.

    Errors of fedrec's come back as they were raised; any other is logged and named. Memory is bounded on Linux alone:
    the data of the process may grow by so much, which is held to by the system itself.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _carry_out(work, writing, memory_mib)
    os.close(writing)
    try:
        content = _read(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if content is None:
        raise OverLimitError(f"it takes longer than {seconds:g} s; you allow no more ([limits] seconds)")
    if not content:
        raise OverLimitError(
            f"its work ended by signal {os.waitstatus_to_exitcode(status)}; you allow {memory_mib:g} MiB "
            "([limits] memory_mib)"
        )
    return _opened(unpack(content), memory_mib)


def _opened(answer: Message, memory_mib: float) -> Message:
    failure, text = answer.header.get("failed"), str(answer.header.get("text"))
    if failure == "memory":
        raise OverLimitError(f"it takes more memory than {memory_mib:g} MiB; you allow no more ([limits] memory_mib)")
    if failure is not None:
        raise (RefusedError if failure == "refused" else FedrecError)(text)
    return Message(answer.header["done"], answer.arrays)


def _read(descriptor: int, end: float) -> bytes | None:
    """Return what comes until the other side closes, None where it does not close in time."""
    pieces = list[bytes]()
    while (left := end - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            return None
        piece = os.read(descriptor, PIECE)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    return None


def _carry_out(work: Callable[[], Message], writing: int, memory_mib: float) -> NoReturn:
    """Do the work in the child and write its answer; never comes back."""
    try:
        answer = _answered(work, memory_mib)
        with os.fdopen(writing, "wb") as file:
            file.write(answer)
    finally:
        os._exit(0)


def _answered(work: Callable[[], Message], memory_mib: float) -> bytes:
    try:
        _prepare(memory_mib)
        done = work()
        return pack(Message({"done": done.header}, done.arrays))
    except BaseException as error:
        # torch says it in a RuntimeError, that may have become another error meanwhile.
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return pack(Message({"failed": "memory"}))
        if isinstance(error, FedrecError):
            kind = "refused" if isinstance(error, RefusedError) else "mistake"
            return pack(Message({"failed": kind, "text": str(error)}))
        log.exception("a round could not be carried out")
        return pack(Message({"failed": "broken", "text": f"{type(error).__name__} on the node; its log says more"}))


def _prepare(memory_mib: float) -> None:
    """Make the child end with its parent, keep its memory bounded, and torch from waiting for threads it has not."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        die_with_parent(signal.SIGKILL)
        most = _data_bytes() + int(memory_mib * (1 << 20))
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


def _data_bytes() -> int:
    """Return how much of this process the system counts as data."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) << 10
