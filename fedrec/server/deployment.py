"""A run on real devices: the same round loop, and in metrics.json nothing exact that nobody consented to."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from safetensors.numpy import save_file

from fedrec.errors import FedrecError
from fedrec.evaluation.metrics import MetricSums
from fedrec.experiment.rehearsal import rehearse
from fedrec.experiment.settings import Settings
from fedrec.federated.exchange import EVALUATE_SECONDS, base_header
from fedrec.federated.loop import run
from fedrec.federated.state import RoundReport, RunContext, load_released_state
from fedrec.messages import ECHO, Arrays, Message, RejectedReplyError, check_answered
from fedrec.privacy.wording import format_lost_round
from fedrec.report.caveats import find_caveats
from fedrec.report.console import Progress, plural
from fedrec.report.metrics_json import CONTRACT_BASELINES, privacy
from fedrec.report.privacy_card import card_of, write_card
from fedrec.server.directory import EnrolledDirectory, Mail
from fedrec.server.home import Registry, ServerHome
from fedrec.server.status import write_status
from fedrec.simulation import last_round, open_ledger
from fedrec.storage.run_folder import RunFolder, load_checkpoint, write_catalogue

CONSENTED = "exact, over the devices whose people let them be evaluated; not covered by epsilon"
EVALUATE_BYTES, MOST_METRICS = 1 << 18, 100  # of one device's evaluation
METRICS = re.compile(r"(full|sampled)_(hr@[0-9]{1,4}|ndcg@[0-9]{1,4}|mrr@[0-9]{1,4}|tied)(_pessimistic)?")


def allowed_sums(reply: Message, asked: Mapping[str, Any]) -> dict[str, float]:
    """Return what one device says of itself, {} where it has nothing to say; raise `RejectedReplyError` unless it
    answers the request with this header, `asked`, in plain numbers from 0 to 1 under the names of metrics.
    """
    check_answered(reply)
    header = reply.header
    if reply.arrays or header.keys() != {*ECHO, "count", "sums"}:
        raise RejectedReplyError("the header has other keys than an evaluation's")
    if any(header[key] != asked[key] or type(header[key]) is not type(asked[key]) for key in ECHO):
        raise RejectedReplyError("it answers another request")
    sums, count = header["sums"], header["count"]
    if type(count) is not int or count not in (0, 1):
        raise RejectedReplyError("count is not 0 or 1")
    if not isinstance(sums, dict) or len(cast(Any, sums)) > MOST_METRICS:
        raise RejectedReplyError("its metrics are no table, or too many")
    named = cast(dict[str, Any], sums)
    if not all(METRICS.fullmatch(name) for name in named):
        raise RejectedReplyError("a metric has a name that was not asked for")
    if not all(type(value) in (int, float) and 0 <= value <= 1 for value in named.values()):
        raise RejectedReplyError("a metric is not a number from 0 to 1")
    return {name: float(value) for name, value in named.items()} if count else {}


def evaluated(context: RunContext, arrays: Arrays, number: int) -> MetricSums:
    """Return metric sums over the devices that let themselves be evaluated and are there."""
    directory, found = context.directory, MetricSums.zero()
    if not isinstance(directory, EnrolledDirectory) or not directory.evaluating:
        return found
    directory.refresh()
    deadline = min(EVALUATE_SECONDS, context.experiment.cohort.deadline_seconds)
    rows = [n for n, hosted in directory.hosted.items() if int(hosted[0]) in directory.evaluating]
    devices = [int(directory.hosted[node][0]) for node in rows]
    requests = directory.requests("evaluate", devices, arrays, part="test", round=number)  # type: ignore[arg-type]
    for node, reply in directory.nodes.request(requests, deadline, EVALUATE_BYTES):
        try:
            good = allowed_sums(reply, requests[node].header)
            found = found.merge(MetricSums(good, 1 if good else 0))
        except RejectedReplyError as reason:
            directory.tell_of(node, f"has no result: {reason}")
    return found


def results(context: RunContext, number: int, found: MetricSums, seconds: float) -> dict[str, Any]:
    """Return the content of metrics.json: the keys of a simulation's, empty where nobody may know."""
    experiment, dataset, lines = context.experiment, context.dataset, context.folder.exact_rounds()
    means, hidden = found.result(), experiment.mechanism.private
    train = sum(line["seconds"] for line in lines)
    # How many answered follows from rates, bytes and times together: all or none of them.
    rates = {
        "devices_per_second": sum(line["answered"] for line in lines) / max(train, 1e-9),
        "bytes": {key: sum(line[f"bytes_{key}"] for line in lines) for key in ("down", "up")},
        "seconds": {"train": train, "evaluate": 0.0, "total": seconds},
    }
    test = {
        kind: {name.removeprefix(f"{kind}_"): value for name, value in means.items() if name.startswith(f"{kind}_")}
        for kind in ("full", "sampled")
    }
    return {
        "dataset": {
            "name": dataset.name,
            "users": dataset.interactions.users,
            "items": len(dataset.catalogue),
            "interactions": None,
            "split": dataset.split,
            "population": context.ledger.population,
            "catalogue": dataset.catalogue.origin,
        },
        **experiment.names(),
        "engine": "devices",
        "rounds": number,
        "seed": experiment.seed,
        "refit": experiment.algorithm.refit,
        "release": CONSENTED,
        "validation": None,
        "test": {**test, "users": found.count},
        "baselines": {name: {} for name in CONTRACT_BASELINES},
        "privacy": privacy(context),
        **(dict.fromkeys(rates) if hidden else rates),
    }


GATHER_SECONDS = 60.0  # how long a run waits for all admitted devices before it begins with those that are there


class DeployedRunContext(RunContext):
    """A session on real devices: none is ranked on its held-out items between rounds."""

    __slots__ = ()

    @property
    def validates(self) -> bool:
        """No exact figure is asked for while the run goes on."""
        return False


@dataclass(frozen=True, slots=True)
class Deployment:
    """One run: its settings and folder, the server whose devices train, where they are, who is told."""

    settings: Settings
    folder: RunFolder
    home: ServerHome
    nodes: Mail
    progress: Progress

    def carry_out(self) -> None:
        """Play the rounds that are left, and write the model, its card and metrics.json."""
        start = time.monotonic()
        context = self.context()
        self.progress.start("", context)
        done = list[RoundReport]()
        for report in self.rounds(context):
            done.append(report)
            self.progress.round(report)
            write_status(self.home, context, done)
        self.progress.end(context, last_round(self.folder))
        number, state = load_released_state(context)
        arrays = context.experiment.algorithm.broadcast(state)
        save_file(arrays, self.folder.path / "model.safetensors", {"round": str(number)})
        write_catalogue(self.folder.path / "catalogue.parquet", context.dataset.catalogue)
        write_card(self.folder, card_of(context))
        found = evaluated(context, arrays, number)
        values = results(context, number, found, time.monotonic() - start)
        self.folder.write_json("metrics.json", {**values, "caveats": find_caveats(values)})

    def context(self) -> DeployedRunContext:
        """Return the session, all its devices greeted or waited for long enough."""
        experiment = self.settings.experiment
        dataset = experiment.dataset.load()
        experiment = experiment.calibrated(dataset)
        if last_round(self.folder) == 0:
            rehearse(experiment, dataset)
        ledger = open_ledger(self.settings, experiment, dataset, self.folder)
        # The run's own name, the same after a resume: a device answers each of its rounds once.
        part = "refit" if experiment.algorithm.refit else "train"
        header = {**base_header(experiment, self.settings.document["run"], ""), "part": part}
        registry = Registry(self.home)
        directory = EnrolledDirectory(
            self.nodes, {}, header, False, {}, registry.devices(), dataset.catalogue, self.progress.note,
            registry.revoked,
        )  # fmt: skip
        saved = load_checkpoint(self.folder.checkpoints)
        for row, reason in (saved.notes.get("set_aside", {}) if saved else {}).items():
            directory.faulty[int(row)] = str(reason)
        admitted = len(registry.admitted())  # one that was revoked is of the population, and not waited for
        there = directory.wait(admitted, GATHER_SECONDS)
        self.progress.note(f"{there} of {admitted} admitted devices are there")
        return DeployedRunContext(experiment, dataset, experiment.plan(dataset), self.folder, directory, ledger, part)

    def rounds(self, context: DeployedRunContext) -> Iterator[RoundReport]:
        """Yield the rounds; before each, wait for enough devices, so that none is charged with nobody there."""
        directory, cohort, lost, spent = context.directory, context.experiment.cohort, 0, context.ledger.epsilon()
        playing, mechanism = run(context), context.experiment.mechanism
        while True:
            directory.wait(cohort.minimum)  # type: ignore[attr-defined]
            report = next(playing, None)
            if report is None:
                return
            yield report
            lost, before, spent = 0 if report.released else lost + 1, spent, context.ledger.epsilon()
            if not report.released:
                self.progress.note(f"round {report.round} is lost: {format_lost_round(mechanism, before, spent)}")
            if lost == cohort.lost_rounds:
                raise FedrecError(
                    f"no device answered in {plural(lost, 'round')} in a row, or too few did; all are charged: see "
                    f"`fedrec client status` on a device, then go on with --resume {self.folder.path}, "
                    "or allow more with cohort.lost_rounds in a new run"
                )
