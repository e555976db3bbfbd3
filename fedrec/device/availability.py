"""When a device takes part, and why it does not, in words."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from fedrec.device.home import Home, checked_table
from fedrec.device.system import System
from fedrec.errors import FedrecError, nearest
from fedrec.ops import processes

CONDITIONS = ("idle", "charging", "unmetered")
HOURS = re.compile(r"(\d{1,2})-(\d{1,2})")


@dataclass(frozen=True, slots=True)
class Policy:
    """What must hold before a device trains: [participation] in policy.toml; `hours` such as "22-6", local time."""

    idle: bool = True
    charging: bool = True
    unmetered: bool = True
    hours: str | None = None

    def __post_init__(self) -> None:
        for name in CONDITIONS:
            if not isinstance(getattr(self, name), bool):
                raise FedrecError(f"participation.{name}={getattr(self, name)}: true or false is expected")
        if self.hours is not None:
            span(self.hours)

    @classmethod
    def of(cls, home: Home) -> "Policy":
        """Return what policy.toml says, and over it what the running `fedrec client up` was told."""
        policy = cast(Policy, checked_table(cls, home.table("participation"), f"{home.policy}: participation"))
        return policy.overridden(processes.running(home.path).get("only_when"))

    def overridden(self, only_when: str | None) -> "Policy":
        """Return the policy of `--only-when`: the conditions named, and no other; None changes nothing."""
        if only_when is None:
            return self
        names = [name.strip() for name in only_when.split(",") if name.strip() and name.strip() != "always"]
        hours = [name.removeprefix("hours=") for name in names if name.startswith("hours=")]
        for name in names:
            if name not in CONDITIONS and not name.startswith("hours="):
                raise FedrecError(f"--only-when {name}: no such condition.{nearest(name, (*CONDITIONS, 'always'))}")
        return replace(self, **{c: c in names for c in CONDITIONS}, hours=hours[-1] if hours else None)


def span(hours: str) -> tuple[int, int]:
    """Return (from, to) of "22-6"."""
    match = HOURS.fullmatch(hours.strip()) if isinstance(hours, str) else None
    if match is None or not (0 <= int(match[1]) <= 23 and 0 <= int(match[2]) <= 24):
        raise FedrecError(f'participation.hours={hours}: two hours of the day expected, such as "22-6"')
    return int(match[1]), int(match[2])


def within(hours: str, now: datetime) -> bool:
    """Say whether the hour lies in a span that may go past midnight; equal ends are the whole day."""
    first, last = span(hours)
    if first == last % 24:
        return True
    return first <= now.hour < last if first < last else now.hour >= first or now.hour < last


def findings(policy: Policy, system: System, now: datetime) -> list[tuple[bool, str]]:
    """Return (allowed, said) for every condition that the policy sets; what can't be told is allowed."""
    told: Sequence[tuple[str, Any, str, str]] = (
        ("charging", system.charging, "on mains power", "on battery"),
        ("unmetered", system.unmetered, "the connection is not metered", "the connection is metered"),
        ("idle", system.idle, "the machine is idle", "the machine is in use"),
    )
    found = list[tuple[bool, str]]()
    if policy.hours is not None:
        inside = within(policy.hours, now)
        found.append((inside, f"it is {now:%H:%M}, {'within' if inside else 'outside'} {policy.hours} h"))
    for name, read, yes, no in told:
        if getattr(policy, name):
            answer = read()
            said = f"{name}: can't be told here" if answer is None else yes if answer else no
            found.append((answer is not False, said))
    return found


def why_not(policy: Policy, system: System | None = None, now: datetime | None = None) -> str | None:
    """Return why the device may not train now, or None where it may."""
    found = findings(policy, system or System(), now or datetime.now())
    return ", ".join(said for allowed, said in found if not allowed) or None
