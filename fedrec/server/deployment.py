"""A run on real devices: the same round loop, and in metrics.json nothing exact that nobody consented to."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from safetensors.numpy import save_file

from fedrec.errors import FedrecError
from fedrec.evaluation.metrics import MetricSums
from fedrec.experiment.settings import Settings
from fedrec.federated.exchange import EVALUATE_SECONDS, base_header
from fedrec.federated.loop import run
from fedrec.federated.state import RoundReport, RunContext, load_released_state
from fedrec.messages import Arrays
from fedrec.report.console import Progress
from fedrec.report.metrics_json import CONTRACT_BASELINES, privacy
from fedrec.report.privacy_card import card_of, write_card
from fedrec.server.directory import EnrolledDirectory, Mail
from fedrec.server.home import Registry, ServerHome
from fedrec.server.status import write_status
from fedrec.simulation import last_round, open_ledger
from fedrec.storage.run_folder import RunFolder, load_checkpoint, write_catalogue

CONSENTED = "exact, over the devices whose people let them be evaluated; not covered by epsilon"


EVALUATE_BYTES = 1 << 18
METRICS = re.compile(r"(full|sampled)_(hr@[0-9]{1,4}|ndcg@[0-9]{1,4}|mrr@[0-9]{1,4}|tied)(_pessimistic)?")


def allowed_sums(header: Mapping[str, Any]) -> dict[str, float] | None:
    """Return what one device says of itself, {} where it has nothing to say; None where it is not as it was asked."""
    sums, count = header.get("sums"), header.get("count")
    if type(count) is not int or count not in (0, 1) or not isinstance(sums, dict) or len(sums) > MOST_METRICS:
        return None
    named = cast(dict[str, Any], sums)
    plain = all(type(value) in (int, float) and 0 <= value <= 1 for value in named.values())
    if not plain or not all(METRICS.fullmatch(name) for name in named):
        return None
    return {name: float(value) for name, value in named.items()} if count else {}


MOST_METRICS = 100


def evaluated(context: RunContext, arrays: Arrays, number: int) -> MetricSums:
    """Return metric sums over the devices that let themselves be evaluated and are there."""
    directory, found = context.directory, MetricSums.zero()
    if not isinstance(directory, EnrolledDirectory) or not directory.evaluating:
        return found
    directory.refresh()
    rows = [n for n, hosted in directory.hosted.items() if int(hosted[0]) in directory.evaluating]
    devices = [int(directory.hosted[node][0]) for node in rows]
    seen = set[int]()
    requests = directory.requests("evaluate", devices, arrays, part="test", round=number)  # type: ignore[arg-type]
    for node, reply in directory.nodes.request(requests, EVALUATE_SECONDS, EVALUATE_BYTES):
        good = allowed_sums(reply.header)
        if node in requests and node not in seen and good is not None:
            found = found.merge(MetricSums(good, 1 if good else 0))
        seen.add(node)
    return found


def results(context: RunContext, number: int, found: MetricSums, seconds: float) -> dict[str, Any]:
    """Return the content of metrics.json: the keys of a simulation's, empty where nobody may know."""
    experiment, dataset, lines = context.experiment, context.dataset, context.folder.exact_rounds()
    means, train = found.result(), sum(line["seconds"] for line in lines)
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
            "population": dataset.population,
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
        "devices_per_second": sum(line["answered"] for line in lines) / max(train, 1e-9),
        "bytes": {key: sum(line[f"bytes_{key}"] for line in lines) for key in ("down", "up")},
        "seconds": {"train": train, "evaluate": 0.0, "total": seconds},
    }


GATHER_SECONDS = 60.0  # how long a run waits for all admitted devices before it begins with those that are there
UNANSWERED_ROUNDS = 3  # in a row, after which a run stops spending on nothing


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
        self.folder.write_json("metrics.json", results(context, number, found, time.monotonic() - start))

    def context(self) -> DeployedRunContext:
        """Return the session, all its devices greeted or waited for long enough."""
        experiment = self.settings.experiment
        dataset = experiment.dataset.load()
        experiment = experiment.calibrated(dataset)
        ledger = open_ledger(self.settings, experiment, dataset, self.folder)
        # The run's own name, the same after a resume: a device answers each of its rounds once.
        part = "refit" if experiment.algorithm.refit else "train"
        header = {**base_header(experiment, self.settings.document["run"], ""), "part": part}
        registry = Registry(self.home)
        directory = EnrolledDirectory(
            self.nodes, {}, header, False, {}, registry.devices(), dataset.catalogue, self.progress.note
        )
        saved = load_checkpoint(self.folder.checkpoints)
        for row, reason in (saved.notes.get("set_aside", {}) if saved else {}).items():
            directory.faulty[int(row)] = str(reason)
        admitted = len(registry.admitted())  # one that was revoked is of the population, and not waited for
        there = directory.wait(admitted, GATHER_SECONDS)
        self.progress.note(f"{there} of {admitted} admitted devices are there")
        return DeployedRunContext(experiment, dataset, experiment.plan(dataset), self.folder, directory, ledger, part)

    def rounds(self, context: DeployedRunContext) -> Iterator[RoundReport]:
        """Yield the rounds; before each, wait for enough devices, so that none is charged with nobody there."""
        directory, unanswered = context.directory, 0
        playing = run(context)
        while True:
            directory.wait(context.experiment.cohort.minimum)  # type: ignore[attr-defined]
            report = next(playing, None)
            if report is None:
                return
            yield report
            unanswered = 0 if report.released else unanswered + 1
            if unanswered == UNANSWERED_ROUNDS:
                raise FedrecError(
                    f"no device answered in {UNANSWERED_ROUNDS} rounds in a row, or too few did; all are charged: see "
                    f"`fedrec client status` on a device, then go on with --resume {self.folder.path}"
                )
