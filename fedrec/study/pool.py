"""Workers side by side: each gets the next order when it has ended the last, and what happens is told as it does."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

Task = Mapping[str, Any]


class Listener(Protocol):
    """Who is told of a study's progress."""

    def share(self, name: str, done: float) -> None:
        """Hear that this share of an order is done."""
        ...

    def remark(self, name: str, text: str) -> None:
        """Hear what the results of an order lack."""
        ...

    def ended(self, name: str, why: str | None) -> None:
        """Hear that an order has ended, and why it failed if it did."""
        ...


@dataclass(slots=True)
class Worker:
    """One process and the order that it works on."""

    process: "subprocess.Popen[str]"
    task: Task | None = None

    def give(self, task: Task) -> None:
        """Hand over an order; a process that died meanwhile is noticed by its listener."""
        self.task = task
        try:
            self._stdin().write(json.dumps(task) + "\n")
            self._stdin().flush()
        except BrokenPipeError:
            pass

    def _stdin(self) -> Any:
        return self.process.stdin


@dataclass(slots=True)
class Pool:
    """`size` workers whose errors go to the file `log`; leaving the context ends them."""

    size: int
    log: Path
    events: "queue.Queue[tuple[int, dict[str, Any]]]" = field(default_factory=lambda: queue.Queue())
    workers: list[Worker] = field(default_factory=list[Worker])

    def __enter__(self) -> Self:
        """Start nothing yet: a worker starts with its first order."""
        return self

    def __exit__(self, *reason: object) -> None:
        """End the workers that this pool started."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()

    def run(self, tasks: Sequence[Task], listener: Listener) -> None:
        """Carry out all orders; each is named by its "folder"."""
        waiting = list(tasks)
        for _ in range(min(self.size, len(waiting))):
            self._start().give(waiting.pop(0))
        while any(worker.task is not None for worker in self.workers):
            number, event = self.events.get()
            worker = self.workers[number]
            if worker.task is None:
                continue
            name = str(worker.task["folder"])
            if event["event"] == "round":
                listener.share(name, event["done"])
                continue
            if event["event"] == "remark":
                listener.remark(name, event["text"])
                continue
            listener.ended(name, event.get("why"))
            worker.task = None
            if waiting:
                (self._start() if event["event"] == "died" else worker).give(waiting.pop(0))

    def _start(self) -> Worker:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self.log.open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedrec.study.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self.workers.append(Worker(process))
        threading.Thread(target=self._listen, args=(len(self.workers) - 1,), daemon=True).start()
        return self.workers[-1]

    def _listen(self, number: int) -> None:
        process = self.workers[number].process
        for line in process.stdout or ():
            self.events.put((number, json.loads(line)))
        status = process.wait()
        self.events.put((number, {"event": "died", "why": f"its process ended with status {status}; see {self.log}"}))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
