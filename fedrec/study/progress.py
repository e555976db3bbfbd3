"""What a person sees while a study goes on."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

PLAIN_SECONDS = 10.0  # between two plain lines


@dataclass(slots=True)
class Watch:
    """Tells how far a study is: on a terminal one line that overwrites itself, elsewhere a line now and then."""

    orders: int
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.monotonic)
    told: float = 0.0
    shares: dict[str, float] = field(default_factory=dict[str, float])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def share(self, name: str, done: float) -> None:
        """Hear that a share of an order is done."""
        self.shares[name] = done
        self._tell()

    def ended(self, name: str, why: str | None) -> None:
        """Hear that an order has ended."""
        self.shares[name] = 1.0
        if why is not None:
            self.failed[Path(name).name] = why
        self._tell(f"{Path(name).name}: {'failed: ' + why.strip().splitlines()[-1] if why else 'done'}")

    def _tell(self, news: str = "") -> None:
        now, ended = time.monotonic(), sum(share == 1 for share in self.shares.values())
        done = sum(self.shares.values())
        left = (now - self.started) / max(done, 1e-9) * (self.orders - done)
        line = f"{ended} of {self.orders} done, {duration(now - self.started)} so far, about {duration(left)} left"
        if self.stream.isatty():
            end = "\n" if ended == self.orders else ""
            news = f"{news}\n" if news else ""
            print(f"\r\x1b[K{news}{line}", end=end, file=self.stream, flush=True)
        elif news or now - self.told >= PLAIN_SECONDS:
            self.told = now
            print(f"{news + ': ' if news else ''}{line}", file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"
