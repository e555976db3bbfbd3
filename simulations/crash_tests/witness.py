"""What a run that is going to be killed writes down for the judge, and how the judge holds the ledger against it."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedrec.federated import loop
from fedrec.federated.state import RunContext
from fedrec.messages import Arrays
from fedrec.privacy.accounting.composition import compose_events, compute_epsilon
from fedrec.privacy.guarantee import Trust
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.storage.run_folder import Checkpoint
from simulations.crash_tests.points import leaves


def digest(arrays: Arrays) -> str:
    """Return the hash of arrays, by name."""
    return hashlib.sha256(b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


@dataclass(frozen=True, slots=True)
class Witness:
    """A file of lines that survives kill -9: each goes to the kernel at once."""

    path: Path

    def note(self, what: str, **more: Any) -> None:
        """Write one line."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, (json.dumps({"what": what, "process": os.getpid(), **more}) + "\n").encode())
        os.close(descriptor)

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def released(self, checkpoint: Checkpoint) -> None:
        """Note that a checkpoint is on disk: whoever reads it has what the round released."""
        self.note("release", charge=checkpoint.notes["ledger"], round=checkpoint.round, bytes=digest(checkpoint.state))


def watch(context: RunContext, witness: Witness) -> None:
    """Let every draw of noise and every release of this process be noted; a draw before it is made."""
    mechanism = context.experiment.mechanism
    # The method in which noise is drawn, or through which goes what was noised before.
    kind, name = type(mechanism), "privatize_aggregate" if mechanism.terms.trust == Trust.SERVER else leaves(mechanism)
    draw: Callable[..., Any] = getattr(kind, name)

    def drawn(*arguments: Any, **named: Any) -> Any:
        charge = context.ledger.head
        witness.note("draw", charge=charge)
        made = draw(*arguments, **named)
        witness.note("noise", charge=charge, bytes=digest(made.arrays))
        return made

    save = loop.save_checkpoint

    def saved(folder: Path, checkpoint: Checkpoint) -> None:
        save(folder, checkpoint)
        witness.released(checkpoint)

    setattr(kind, name, drawn)
    loop.save_checkpoint = saved


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, in counts; every count but the first five must be 0.

    `over_counted` are charged rounds of which nothing was released: at most one a kill.
    """

    kills: int = 0
    charged: int = 0
    released: int = 0
    over_counted: int = 0
    most_over_counted_by_one_kill: int = 0
    drawn_without_a_charge: int = 0
    released_without_a_charge: int = 0
    drawn_again_for_a_charge: int = 0
    released_twice: int = 0
    noise_repeated: int = 0
    epsilon_too_small: int = 0
    errors: int = 0

    def __add__(self, other: "Verdict") -> "Verdict":
        """Return the sum, and of the most by one kill the larger."""
        summed = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        most = max(self.most_over_counted_by_one_kill, other.most_over_counted_by_one_kill)
        return Verdict(**{**summed, "most_over_counted_by_one_kill": most})

    @property
    def under_counted(self) -> int:
        """How many draws or releases the ledger does not stand for."""
        return self.drawn_without_a_charge + self.released_without_a_charge + self.drawn_again_for_a_charge

    @property
    def broken(self) -> list[str]:
        """Return the promises that were not kept."""
        zero = [f.name for f in fields(self)[5:] if getattr(self, f.name)]
        over = self.over_counted > self.kills or self.most_over_counted_by_one_kill > 1
        return [*zero, *(["over_counted"] if over else [])]


def judge(context: RunContext, witness: Witness, kills: int, most: int, errors: int) -> Verdict:
    """Hold the ledger against what was drawn and released; `most` is the most that one kill added to its surplus."""
    assert_ledger = context.ledger
    if not isinstance(assert_ledger, Ledger):
        raise TypeError("the judge needs the ledger itself")
    lines = witness.lines()
    charges = {row["hash"] for row in assert_ledger.rows()}
    drawn = {(line["charge"], line["process"]) for line in lines if line["what"] == "draw"}
    states = {(line["charge"], line["bytes"]) for line in lines if line["what"] == "release"}
    released = {(line["round"], line["charge"]) for line in lines if line["what"] == "release"}
    noises = [line["bytes"] for line in lines if line["what"] == "noise"]
    numbers = {row["hash"]: row["round"] for row in assert_ledger.rows()}
    played = [numbers[charge] for charge in {charge for charge, _ in drawn} & numbers.keys()]
    events = [(context.experiment.mechanism.event(context.plan, number), 1) for number in played]
    cost = compute_epsilon(compose_events(events), assert_ledger.account.delta)
    return Verdict(
        kills=kills,
        charged=len(charges),
        released=len(released),
        over_counted=len(charges - {charge for _, charge in released}),
        most_over_counted_by_one_kill=most,
        drawn_without_a_charge=len({charge for charge, _ in drawn} - charges),
        released_without_a_charge=len({charge for _, charge in released} - charges),
        drawn_again_for_a_charge=len(drawn) - len({charge for charge, _ in drawn}),
        released_twice=len(states)
        - len({charge for charge, _ in states})
        + len(released)
        - len({number for number, _ in released}),
        noise_repeated=len(noises) - len(set(noises)),
        epsilon_too_small=int(assert_ledger.epsilon() < cost * (1 - 1e-9)),
        errors=errors,
    )
