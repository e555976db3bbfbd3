"""One job from configuration to run folder: the run, its test, its baselines, its verdict."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from safetensors.numpy import save_file

from fedrec.data.dataset import Dataset
from fedrec.errors import FedrecError, RefusedError
from fedrec.evaluation import baselines
from fedrec.evaluation.baselines.cost import estimate_cost, memory
from fedrec.evaluation.per_user import PerUserResults
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.inputs import tell_inputs
from fedrec.experiment.instantiate import canonical_document
from fedrec.experiment.rehearsal import check_tested, rehearse
from fedrec.experiment.settings import Settings, read
from fedrec.federated.exchange import LocalTransport, Transport
from fedrec.federated.loop import run
from fedrec.federated.node import settle_engine
from fedrec.federated.state import TrainingOutcome, load_released_state, open_run_context
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.ledger.people import sketch
from fedrec.report.console import TITLES, Progress
from fedrec.report.html import write_page
from fedrec.report.metrics_json import metrics
from fedrec.report.privacy_card import card_of, write_card
from fedrec.storage.run_folder import (
    KEEP_RELEASES_MB,
    RunFolder,
    load_checkpoint,
    save_table,
    write_catalogue,
)

TRAINED = ("no_privacy", "private_popularity")  # baselines that are runs of their own
WORTH_SAYING = 10.0  # seconds
NO_PRIVACY = {"_target_": "fedrec.privacy.mechanisms.none.NoPrivacy"}
POPULARITY = {
    "model": {"_target_": "fedrec.models.popularity.Popularity", "_partial_": True},
    "algorithm": {"_target_": "fedrec.algorithms.item_counts.ItemCounts"},
    "rounds": 1,
}


@dataclass(frozen=True, slots=True)
class Simulation:
    """One command: settings, the folder of the run, where the devices are, and who is told of the progress.

    By default the devices are on one node of this process, and standard error is told.
    """

    settings: Settings
    folder: RunFolder
    nodes: Callable[[], Transport] = LocalTransport
    progress: Progress = field(default_factory=Progress)

    def simulate(self) -> dict[str, Any]:
        """Run what is still to do and return the content of metrics.json."""
        start = time.monotonic()
        dataset = load_dataset(self.settings.experiment)
        self.progress.dataset(dataset)
        experiment = self.settings.experiment.calibrated(dataset)
        main = self.train(experiment, dataset, self.folder, "")
        self._write_model(main)
        others = {name: rows for name, rows in self._baselines(experiment, dataset)}
        values = metrics(main, others, time.monotonic() - start)
        for name, rows in {"": main.rows, **others}.items():
            save_table(self.folder.exact / f"users{name and f'_{name}'}.npz", rows)
        self.folder.write_json("metrics.json", values)
        write_page(self.folder)
        return values

    def train(self, experiment: Experiment, dataset: Dataset, folder: RunFolder, label: str) -> TrainingOutcome:
        """Run an experiment in a folder of its own, and test it."""
        part = "refit" if experiment.algorithm.refit else "train"
        if experiment.engine == "kernel" and find_spec("numba") is None:
            raise FedrecError("engine=kernel needs numba, which is not here: pip install numba")
        if last_round(folder) == 0:
            check_tested(experiment, dataset)
            rehearse(experiment, dataset)
        ledger = open_ledger(self.settings, experiment, dataset, folder, self._baseline_name(folder))
        context = open_run_context(experiment, dataset, self.nodes(), folder, ledger, part)
        self.progress.start(label, context)
        for report in run(context):
            self.progress.round(report)
        trained = time.monotonic()
        self.progress.end(context, last_round(folder))
        number, state = load_released_state(context)
        rows = context.evaluate(state, "test", number)
        validation = context.evaluate(state, "validation", number) if context.validates else None
        return TrainingOutcome(
            context=context,
            rounds=number,
            played=last_round(folder),
            evaluate_seconds=time.monotonic() - trained,
            rows=rows,
            validation=validation,
        )

    def _baseline_name(self, folder: RunFolder) -> str:
        return str(folder.path.relative_to(self.folder.path)).removeprefix(".")

    def _write_model(self, main: TrainingOutcome) -> None:
        number, state = load_released_state(main.context)
        arrays = main.context.experiment.algorithm.broadcast(state)
        save_file(arrays, self.folder.path / "model.safetensors", {"round": str(number)})
        write_catalogue(self.folder.path / "catalogue.parquet", main.context.dataset.catalogue)
        write_card(self.folder, card_of(main.context))

    def _baselines(self, experiment: Experiment, dataset: Dataset) -> Iterator[tuple[str, PerUserResults]]:
        """Yield (name, rows) of every baseline that the evaluation asks for and that says something here."""
        private = experiment.mechanism.terms.protects
        for name in experiment.evaluation.baselines:
            if name == "no_privacy" and private:
                yield name, self._run_baseline(experiment.varied({"privacy": NO_PRIVACY}), dataset, name).rows
            elif name == "private_popularity" and private:
                fresh = {**experiment.node()["privacy"], "noise_multiplier": None}
                twin = experiment.varied({**POPULARITY, "privacy": fresh})
                try:
                    yield name, self._run_baseline(twin, dataset, name).rows
                except RefusedError as reason:
                    self.progress.remark(f"no private popularity: {reason}")
            elif name not in TRAINED and self._affordable(name, experiment, dataset):
                tell = partial(self.progress.share, TITLES[name])
                asked = dataset.devices, "test", experiment.evaluation, tell
                if name == baselines.LOCAL:
                    yield name, baselines.evaluate_alone(dataset.catalogue, *asked)
                else:
                    yield name, baselines.evaluate(name, *asked)

    def _affordable(self, name: str, experiment: Experiment, dataset: Dataset) -> bool:
        """Say what a baseline on pooled data costs where that is much, and whether it is worth waiting for."""
        options = experiment.evaluation
        cost, limit = estimate_cost(name, dataset.devices, options), options.baselines_seconds
        why = ""
        if limit is not None and cost.seconds > limit:
            why = f" and evaluation.baselines_seconds={limit:g} (null waits; evaluation.head=1500 covers popular items)"
        elif cost.bytes > memory():
            why = f" and this machine has {memory() / 2**30:,.1f} GiB"
        left_out = bool(why) and name != "popularity"  # the verdict needs that one
        if left_out:
            self.progress.remark(f"{TITLES[name]} is left out: {cost}{why}")
        elif cost.seconds > WORTH_SAYING:
            self.progress.note(f"{TITLES[name]}: {cost}")
        return not left_out

    def _run_baseline(self, experiment: Experiment, dataset: Dataset, name: str) -> TrainingOutcome:
        folder = replace(self.folder, path=self.folder.path / "baselines" / name)
        if folder.config.exists():
            experiment = begun_as(experiment, folder)
        else:
            folder.create(f"# {name} beside {self.folder.path.name}\n{experiment.document}\n")
        return self.train(experiment.calibrated(dataset), dataset, folder, name)


def begun_as(experiment: Experiment, folder: RunFolder) -> Experiment:
    """Return a baseline's experiment as its folder has it: the same one, under the names of classes it began with."""
    try:
        kept = json.loads(folder.config.read_text().partition("\n")[2])
    except ValueError:
        return experiment
    same = canonical_document(kept) == canonical_document(experiment.node())
    return experiment.varied(kept) if same else experiment


def open_ledger(
    settings: Settings, experiment: Experiment, dataset: Dataset, folder: RunFolder, twin: str = ""
) -> Ledger:
    """Open the ledger of a run, or of its twin of that name; one that lost what its checkpoint spent is refused."""
    plan, mechanism = experiment.plan(dataset), experiment.mechanism
    name = settings.document["run"] + twin
    population = settings.find_population(dataset)
    saved = load_checkpoint(folder.checkpoints)
    if mechanism.private and saved is None:  # later, what it started from is in its state
        folder.write_inputs(tell_inputs(experiment.build_model(dataset.catalogue), dataset.catalogue, population))
    limit = cast(float | None, experiment.node()["privacy"].get("population_epsilon"))
    ledger = Ledger.open(population, name, mechanism, plan, plan.population, limit)
    if not twin:  # it is charged beside its run, to the same people
        ledger.remember(sketch(dataset))
    if saved is not None:
        ledger.check_holds(saved.notes["ledger"])
    return ledger


def last_round(folder: RunFolder) -> int:
    """Return the last round that was made durable."""
    saved = load_checkpoint(folder.checkpoints)
    return saved.round if saved else 0


def unique_name(output: Path) -> str:
    """Return the start time, with a number behind it where another run began in the same second."""
    start = time.strftime("%Y-%m-%dT%H-%M-%S")
    names = (start, *(f"{start}-{number}" for number in range(2, 1000)))
    return next(name for name in names if not (output / name).exists())


def new_run(settings: Settings, simulated: bool = True) -> tuple[Settings, RunFolder]:
    """Return the settings with the run's names, and its folder, made.

    A simulation's `engine=auto` is settled: what a run began with it goes on with.
    """
    name = settings.document["name"] or unique_name(Path(settings.document["output"]))
    if Path(name).name != name or name in (".", ".."):
        raise FedrecError(f"name={name}: the name of one folder expected; where it lies is output=")
    # The run's own random name, so that a run that overwrites another of the same name is not taken for it in a ledger.
    document = {**settings.document, "name": name, "run": f"{name}-{secrets.token_hex(8)}"}
    if simulated and document["engine"] == "auto":
        experiment = settings.experiment
        model = experiment.build_model(load_dataset(experiment).catalogue)
        document["engine"] = settle_engine(experiment, model)
    named, folder = Settings(document), folder_of(Path(document["output"]) / name, document)
    folder.create(named.yaml(), overwrite=bool(document["overwrite"]))
    return named, folder


def resumed_run(path: str) -> tuple[Settings, RunFolder]:
    """Return the settings and the folder of a run to go on with."""
    settings = read(RunFolder(Path(path)).config)
    return settings, folder_of(Path(path), settings.document)


def folder_of(path: Path, document: dict[str, Any]) -> RunFolder:
    """Return the folder of a run with these settings; those of an older fedrec don't say what is kept."""
    return RunFolder(path, float(document.get("keep_releases_mb", KEEP_RELEASES_MB)))
