"""The figures: rows that were measured, ratios of them, and how they are shown."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One system: `system` names a function of ours, or `peer` a script of the bench."""

    name: str
    system: str
    data: str
    devices: int
    threads: int = 1
    private: bool = False
    peer: bool = False
    wall: list[list[float]] = field(default_factory=list[list[float]])  # devices a second, by repeat
    cpu: list[list[float]] = field(default_factory=list[list[float]])

    @property
    def rate(self) -> float:
        """The median devices a second."""
        return median([rate for rates in self.wall for rate in rates])

    def line(self) -> str:
        """Return the row as text."""
        rates = [rate for part in self.wall for rate in part]
        cpu = [rate for part in self.cpu for rate in part]
        by_cpu = f"{median(cpu):>9.1f}" if cpu else f"{'-':>9}"
        span = f"{min(rates):.1f} to {max(rates):.1f}"
        return f"{self.name:<48} {self.data:>7} {self.threads:>7} {self.rate:>10.1f} {span:>20} {by_cpu}"


@dataclass(frozen=True)
class Ratio:
    """What one row must be of another: `at_least`."""

    name: str
    over: str
    under: str
    at_least: float

    def of(self, rows: dict[str, Row]) -> dict[str, Any] | None:
        """Return the ratio by the clock, its range over repeats, and by processor time; None where a row is missing."""
        over, under = rows.get(self.over), rows.get(self.under)
        if over is None or under is None or not over.wall or not under.wall:
            return None
        tops, bottoms = [median(part) for part in over.wall], [median(part) for part in under.wall]
        each = [top / bottom for top, bottom in zip(tops, bottoms, strict=False)]
        cpu = [median([r for part in row.cpu for r in part]) if any(row.cpu) else None for row in (over, under)]
        by_cpu = cpu[0] / cpu[1] if cpu[0] and cpu[1] else None
        return {**asdict(self), "ratio": over.rate / under.rate, "range": [min(each), max(each)], "cpu_ratio": by_cpu}


def show(rows: list[Row], ratios: list[dict[str, Any]]) -> str:
    """Return both tables as text."""
    head = f"{'devices a second':<48} {'data':>7} {'threads':>7} {'median':>10} {'least to most':>20} {'by CPU':>9}"
    lines = [head, *(row.line() for row in rows if row.wall), ""]
    lines.append(f"{'ratio':<72} {'asked':>6} {'median':>8} {'range':>16} {'by CPU':>8}")
    for one in ratios:
        span = f"{one['range'][0]:.2f} to {one['range'][1]:.2f}"
        by_cpu = f"{one['cpu_ratio']:>8.2f}" if one["cpu_ratio"] else f"{'-':>8}"
        lines.append(f"{one['name']:<72} {one['at_least']:>6g} {one['ratio']:>8.2f} {span:>16} {by_cpu}")
    return "\n".join(lines)
