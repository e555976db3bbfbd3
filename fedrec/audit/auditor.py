"""An audit: the trials that a configuration calls for, run in processes of their own, and what they say together.

`python -m fedrec.audit.auditor` runs one trial, read from standard input, and prints its finding; both are JSON.

What an audit found, kept where a privacy card can cite it: in the folder of a run, or for settings in the state.

A record names the code and the settings that it is of, by hashes. A card cites a record of its own settings, and says
so where it is of other code.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedrec.audit.findings import Finding, shown
from fedrec.audit.poisson_check import DRAWS
from fedrec.audit.threat_model import threat_model_of
from fedrec.audit.trials import Trial
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.instantiate import environment as allowed_environment
from fedrec.federated.node import settled
from fedrec.paths import state_dir
from fedrec.privacy.accounting.composition import compose_events
from fedrec.privacy.guarantee import PrivacyGuarantee, Trust, Unit
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.wording import format_terms
from fedrec.storage.run_folder import atomic_write

if TYPE_CHECKING:
    pass

POINTS = (4.0, 8.0)  # where 1e5 scores suffice to come within 5 %; below, they don't
# By trust and unit, what comes near enough: at one gateway and on one device many fit into one run.
CANARIES = {
    (Trust.NONE, Unit.NONE): 4_000,
    (Trust.SERVER, Unit.USER): 60_000,
    (Trust.SUMS, Unit.USER): 60_000,
    (Trust.GATEWAY, Unit.USER): 200_000,
    (Trust.DEVICE, Unit.USER): 50_000,
    (Trust.DEVICE, Unit.INTERACTION): 200_000,
}
SAMPLED_ROUNDS = 4
NUMBERS = 1_000_000  # released numbers that are looked at one by one
TURNS = 3  # rounds between two turns of a device, where it has turns
LEAST_RATE = 0.1  # rarer draws would leave too few canaries with anything to show


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found of a mechanism, with the terms without which no epsilon means anything."""

    mechanism: str
    terms: PrivacyGuarantee
    delta: float
    trains: bool
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def verdict(self) -> str:
        """The worst of the findings."""
        order = ("contradicted", "loose", "no claim", "holds")
        return min((f.verdict for f in self.findings), key=order.index)

    def json(self) -> dict[str, Any]:
        """Return the audit for programs; an epsilon that is infinite or not measured is null."""
        found = [{**asdict(f), "reported": shown(f.reported), "ratio": ratio(f)} for f in self.findings]
        fields = {"mechanism": self.mechanism, "delta": self.delta, "trains": self.trains, "seconds": self.seconds}
        return {**fields, **self.terms.json(), "verdict": self.verdict, "trials": found}


def ratio(finding: Finding) -> float | None:
    """Return the measured part of the reported epsilon, where both are there."""
    both = finding.measured > 0 and math.isfinite(finding.reported)
    return finding.measured / finding.reported if both else None


def audit(
    experiment: Experiment,
    points: Sequence[float] = POINTS,
    canaries: int | None = None,
    jobs: int = 2,
    numbers: int | None = None,
) -> Audit:
    """Audit the mechanism of an experiment at each epsilon of `points`, on `jobs` processes.

    `numbers` is how many released numbers are looked at one by one: a million where null, or four a canary where those
    were chosen; 0 leaves that out.
    """
    start = time.monotonic()
    dataset = load_dataset(experiment)
    experiment = settled(experiment, dataset)  # what is audited is what runs of these settings train by
    calibrated = experiment.calibrated(dataset)
    mechanism, plan = calibrated.mechanism, calibrated.plan(dataset)
    threat_model_of(mechanism.terms, 1)
    many = canaries or CANARIES[mechanism.terms.trust, mechanism.terms.unit]
    made = trials(experiment, plan, mechanism, points, many)
    released = numbers if numbers is not None else NUMBERS if canaries is None else 4 * canaries
    if released and mechanism.terms.protects:
        made.append(possibility(experiment, plan, mechanism, max(points), released))
    found = run(made, jobs)
    name, delta = type(mechanism).__name__, mechanism.delta_for(plan)
    return Audit(name, mechanism.terms, delta, plan.trains, tuple(found), time.monotonic() - start)


def trials(
    experiment: Experiment, plan: TrainingPlan, mechanism: Mechanism, points: Sequence[float], canaries: int
) -> list[Trial]:
    """Return the noise at every point with everybody taking part; where the accountant counts on sampling, that too."""
    if not mechanism.terms.protects:
        return [Trial("noise", document(experiment, None, None), plan.trains, canaries)]
    delta, made, turns = mechanism.delta_for(plan), list[Trial](), turns_of(mechanism, plan)
    nodes = [document(experiment, point, delta) for point in points]
    for point, node in zip(points, nodes, strict=True):
        # Half as many canaries come as near at 8 as all of them at 4: there, two rounds are as cheap as one here.
        rounds = 1 if point == min(points) < max(points) else 2
        size = round(canaries * min(1.0, 4 / point))
        made.append(Trial("noise", node, plan.trains, size, rounds=rounds * turns, turns=turns))
    rates = [max(rate, LEAST_RATE) for _, rate, _ in compose_events([(mechanism.event(plan, 1), 1)]) if rate < 1]
    for rate in rates[:1]:
        made += [Trial("sampled", one_step(node), plan.trains, canaries, SAMPLED_ROUNDS, rate) for node in nodes]
        if mechanism.pools_users:
            continue  # a gateway draws inside its training: the likelihood ratio alone speaks of it
        made.append(Trial("sampler", nodes[0], plan.trains, DRAWS, DRAWS, rate))
    return made


def possibility(experiment: Experiment, plan: TrainingPlan, mechanism: Mechanism, point: float, numbers: int) -> Trial:
    """Return the attack on so many released numbers, at the epsilon where noise hides least."""
    turns = turns_of(mechanism, plan)
    node = document(experiment, point, mechanism.delta_for(plan))
    return Trial("possible", node, plan.trains, numbers, rounds=turns, turns=turns)


def turns_of(mechanism: Mechanism, plan: TrainingPlan) -> int:
    """Return 1, or where a trusted server lets devices take turns instead of drawing them, TURNS."""
    apart = replace(plan, rounds=2 * TURNS, cohort_rate=1 / TURNS, shares=None)
    return TURNS if mechanism.terms.trust == Trust.SERVER and mechanism.participation_limit(apart) == 2 else 1


def document(experiment: Experiment, epsilon: float | None, delta: float | None) -> dict[str, Any]:
    """Return the experiment's document at an audit point: its own mechanism, with the noise still to be found."""
    node = experiment.node()
    found = ("noise_multiplier", "max_participations", "bands", "coefficients", "least", "colluding")
    # A secure sum has the least noise where no more than the fewest devices came, less what colluding ones know of it.
    fewest = {"dropped": 0.0, "corrupt": 0.0}
    fresh = {"epsilon": epsilon, "delta": delta, **fewest, **dict.fromkeys(found)}
    own = {**node["privacy"], **{key: value for key, value in fresh.items() if key in node["privacy"]}}
    # On a device and at a gateway it is the reference that runs, every step of it.
    engine = node["engine"] if experiment.mechanism.terms.trust in (Trust.SERVER, Trust.NONE) else "reference"
    return {**node, "privacy": own, "engine": engine, "cohort": {**node["cohort"], "dropout": 0.0, "minimum": 1}}


def one_step(node: dict[str, Any]) -> dict[str, Any]:
    """Return the document with one local step a round, so that every step is heard."""
    privacy = node["privacy"]
    return {**node, "privacy": {**privacy, "local_steps": 1}} if "local_steps" in privacy else node


def run(made: list[Trial], jobs: int) -> list[Finding]:
    """Run the trials in this process, or each in a process of its own, `jobs` at a time."""
    if jobs == 1:
        return [trial.run() for trial in made]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(apart, made))


def apart(trial: Trial) -> Finding:
    """Run a trial in a process of its own, on one thread."""
    environment = {**os.environ, **allowed_environment(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fedrec.audit.auditor"]
    text = json.dumps(trial.json())
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FedrecError(f"the {trial.kind} trial failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return Finding(**json.loads(done.stdout.splitlines()[-1]))


SAYS = {
    "holds": "The measurements agree with what is reported.",
    "loose": "Nothing contradicts what is reported, but less than 95 % of it was found: more noise than needed?",
    "contradicted": "CONTRADICTED: an adversary measures more than is reported, twice in a row.",
    "no claim": "Nothing is claimed, and a canary is seen.",
}


def lines(audit: Audit) -> list[str]:
    """Return the audit as lines of text."""
    head = [
        f"Audit of {audit.mechanism}, {'training' if audit.trains else 'a statistic'}",
        format_terms(audit.terms, audit.delta),
        "",
        f"{'trial':9}{'reported':>9}{'measured':>10}{'ratio':>7}  verdict",
    ]
    rows = [line for finding in audit.findings for line in row(finding)]
    return [*head, *rows, "", f"{SAYS[audit.verdict]} ({audit.seconds:.0f} s)"]


def row(finding: Finding) -> list[str]:
    """Return a trial as a row and its details below it."""
    share = ratio(finding)
    reported = f"{finding.reported:9.3f}" if math.isfinite(finding.reported) else f"{'-':>9}"
    measured = f"{finding.measured:10.3f}" if finding.measured > 0 else f"{'-':>10}"
    first = f"{finding.trial:9}{reported}{measured}{f'{share:.3f}' if share else '-':>7}  {finding.verdict}"
    return [first, *textwrap.wrap(finding.detail, 100, initial_indent=" " * 9, subsequent_indent=" " * 9)]


if __name__ == "__main__":
    print(json.dumps(asdict(Trial(**json.load(sys.stdin)).run())))


FILE = "audit.json"
NO_AUDIT = "none of these settings: `fedrec audit RUN` measures their mechanism"
# What an audit sets itself at its points, and what says nothing of the mechanism.
LEFT_OUT = {"epsilon", "delta", "noise_multiplier", "max_participations", "bands", "coefficients", "population_epsilon"}


@dataclass(frozen=True, slots=True)
class Record:
    """An audit as it is kept: hashes of its settings and its code, the day, and `found`, the audit as JSON."""

    settings: str
    code: str
    day: str
    found: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The worst of what was found."""
        return str(self.found["verdict"])

    def cited(self, code: str) -> str:
        """Return what a card of a run of this code says of the record."""
        of = "this code" if self.code == code else f"other code ({self.code}) than that of the run"
        trials = cast(list[dict[str, Any]], self.found["trials"])
        noise = ", ".join(
            f"{trial['measured']:.3f} of {trial['reported']:.3f} ({trial['ratio']:.3f})"
            for trial in trials
            if trial["ratio"] is not None
        )
        others = ", ".join(sorted({f"{t['trial']} {t['verdict']}" for t in trials if t["trial"] != "noise"}))
        sampling = f"; {others}" if others else ""
        return f"{self.verdict}: an adversary measured epsilon {noise or '-'}{sampling}; {of}, {self.day}"


@cache
def code_hash() -> str:
    """Return the hash of fedrec's own source, 16 hexadecimal digits."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(version("fedrec").encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def settings_hash(experiment: "Experiment") -> str:
    """Return the hash of what of a (calibrated) experiment an audit is of: its mechanism, and what it trains by."""
    node = experiment.node()
    privacy = {key: value for key, value in node["privacy"].items() if key not in LEFT_OUT}
    sampled = node["cohort"]["size"] is not None
    told = {"privacy": privacy, "trains": experiment.algorithm.trains, "engine": node["engine"], "sampled": sampled}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def save_record(found: dict[str, Any], experiment: "Experiment", folder: Path | None = None) -> Path:
    """Write the record of an audit of a calibrated experiment, into `folder` or the state folder; return its path."""
    settings = settings_hash(experiment)
    path = _path(settings) if folder is None else folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"settings": settings, "code": code_hash(), "day": time.strftime("%Y-%m-%d", time.gmtime()), "found": found}
    atomic_write(path, (json.dumps(told, indent=2, allow_nan=False) + "\n").encode())
    return path


def load_record(experiment: "Experiment", folder: Path) -> Record | None:
    """Return the record of these settings: of the run, else of the settings; None where there is none."""
    settings = settings_hash(experiment)
    for path in (folder / FILE, _path(settings)):
        if path.exists() and (found := _read(path)).settings == settings:
            return found
    return None


def _path(settings: str) -> Path:
    return state_dir() / "audits" / f"{settings}.json"


def _read(path: Path) -> Record:
    try:
        return Record(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise FedrecError(f"{path} is no record of an audit: delete it and audit again") from error
