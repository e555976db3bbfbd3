"""Studies and audits as values: many runs of one plan, and what an adversary measures of a mechanism."""

import io
import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, cast

from fedrec.api.execution import NotebookProgress, in_notebook, on_this_machine
from fedrec.api.runs import Run
from fedrec.api.settings import Request, gather, of_setting
from fedrec.api.tables import Picture, make_table, to_html
from fedrec.audit.auditor import POINTS, Audit, lines, load_record, save_record
from fedrec.audit.auditor import audit as run_audit
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.federated.node import settled
from fedrec.privacy.wording import format_terms
from fedrec.report.html import write_page
from fedrec.report.plot import check_installed
from fedrec.report.privacy_card import cite_audit
from fedrec.storage.run_folder import RunFolder
from fedrec.study.plan import Study, find, of
from fedrec.study.plot import make_figure
from fedrec.study.pool import Pool, cores
from fedrec.study.results import Results, collect, costs, describe_cost, read_spent
from fedrec.study.runner import PLAN, StudyProgress, alone, begin, list_tasks, write
from fedrec.study.tables import named
from fedrec.study.worker import perform

EPSILONS = (1.0, 2.0, 4.0, 8.0)
SEEDS = (0, 1, 2)


@dataclass(frozen=True, repr=False)
class StudyResult:
    """A study and its folder: a row for each method at each epsilon, and the picture of the frontier."""

    folder: Path
    failed: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)

    @property
    def results(self) -> Results:
        """The trials that have ended, and the references."""
        return collect(plan_of(self.folder), self.folder)

    @property
    def table(self) -> Any:
        """A row for each method at each value: NDCG@10 (interval over users) and HR@10 on full ranking, the seeds."""
        return make_table(rows_of(self.results))

    @property
    def cost(self) -> str:
        """What all private trials of the study together cost the users, in words."""
        return " ".join(describe_cost(cost) for cost in costs(read_spent((self.folder / "trials").iterdir())))

    def plot(self, path: str | Path | None = None) -> Picture:
        """Draw accuracy against epsilon; with a path (.svg, .pdf, .png), write the picture too. Needs matplotlib."""
        check_installed()
        results = self.results
        if not results.lines or not results.dataset:
            raise FedrecError(f"{self.folder}: no trial has ended, so there is nothing to draw")
        picture = Picture(make_figure(results, costs(read_spent((self.folder / "trials").iterdir()))))
        if path is not None:
            picture.save(path)
        return picture

    def __repr__(self) -> str:
        results = self.results
        failed = f", {len(self.failed)} of its trials failed" if self.failed else ""
        return f"<fedrec study {self.folder.name}: {len(results.lines)} rows{failed}; .table, .plot()>"

    def _repr_html_(self) -> str:
        rows = rows_of(self.results)
        cells = [
            [cell if isinstance(cell, str) else number(cell) for cell in row]
            for row in zip(*rows.values(), strict=True)
        ]
        failed = "".join(f"<p>Failed: {escape(n)}: {escape(why)}</p>" for n, why in self.failed.items())
        return f"{to_html(list(rows), cells)}<p>{escape(self.cost)}</p>{failed}"


def study(
    *what: Any,
    models: Sequence[Any] | Mapping[str, Any] | None = None,
    epsilon: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    name: str | None = None,
    output: str | Path = "runs",
    progress: bool = True,
    **settings: Any,
) -> StudyResult:
    """Run many trials side by side and return their table: models at several epsilons, each with several seeds.

    `what` begins with a plan (a name such as "privacy-accuracy", a yaml file), with the folder of a study to go on
    with, or with nothing; then overrides, settings and a frame as for `simulate`. `models` are names, classes, or
    {label: a list of overrides}. Each private trial is charged to the ledger of its users. A frame, or a class of
    yours, is trained in this process, one trial after the other; other trials take a process for each core.

    >>> log = {"user": [n // 5 for n in range(99)], "item": [n * n % 7 for n in range(99)], "time": range(99)}
    >>> found = study(log, models=["popularity"], epsilon=[8], seeds=[0], progress=False)
    >>> list(found.table["kind"])
    ['no privacy', 'private', 'reference', 'reference']
    """
    first, rest = (what[0], what[1:]) if what and is_plan(what[0]) else (None, what)
    request = gather(rest, settings)
    folder = Path(first) if first is not None else None
    methods, request = of_models(models, request)
    if folder is not None and (folder / PLAN).exists():
        return carry_out(plan_of(folder), folder, request, progress)
    plan = make_plan(None if first is None else str(first), methods, epsilon, seeds, request)
    folder = Path(output) / (name or f"{plan.name}-{time.strftime('%Y-%m-%dT%H-%M-%S')}")
    for line in begin(plan, folder, request.settings):
        if progress:
            print(line, file=sys.stderr)
    return carry_out(plan, folder, request, progress)


def is_plan(value: Any) -> bool:
    """Say whether a first argument names a plan or the folder of a study."""
    return isinstance(value, Path) or (isinstance(value, str) and "=" not in value)


def plan_of(folder: Path) -> Study:
    """Return the plan that the folder of a study keeps."""
    if not (folder / PLAN).exists():
        raise FedrecError(f"{folder} holds no study: a folder with a {PLAN} is expected")
    return of(json.loads((folder / PLAN).read_text()), str(folder / PLAN))


def of_models(
    models: Sequence[Any] | Mapping[str, Any] | None, request: Request
) -> tuple[dict[str, tuple[str, ...]], Request]:
    """Return the methods that models stand for, each its overrides, and the request that knows their classes."""
    if models is None:
        return {}, request
    parts, methods = dict(request.parts), dict[str, tuple[str, ...]]()
    named = models if isinstance(models, Mapping) else {name_of(model): model for model in models}
    for label, model in named.items():
        texts = model if isinstance(model, list | tuple) else of_setting("model", model, parts)
        methods[str(label)] = tuple(cast(Sequence[str], texts))
    kept = tuple(text for text in request.overrides if not text.startswith("model="))
    return methods, replace(request, overrides=kept, parts=parts)


def name_of(model: Any) -> str:
    """Return what a study calls a model: its name, or that of its class."""
    return model if isinstance(model, str) else getattr(getattr(model, "func", model), "__name__", repr(model))


def make_plan(
    name: str | None,
    methods: Mapping[str, tuple[str, ...]],
    epsilon: Sequence[float] | None,
    seeds: Sequence[int] | None,
    request: Request,
) -> Study:
    """Return the plan of a name with what is given in place of its own, or a new one: the models against epsilon."""
    values, numbers = None if epsilon is None else [float(one) for one in epsilon], list(seeds or ())
    if name is not None:
        plan = find(name)
        plan = replace(plan, methods=methods or plan.methods).selected(None, values, numbers)
        return replace(plan, given=(*plan.given, *request.overrides))
    if not methods:
        raise FedrecError("study(models=['ease', MyModel], epsilon=[1, 8]), or the name of a plan: one is expected")
    chosen = any(text.startswith(("privacy=", "experiment=")) for text in request.overrides)
    overrides = (*(() if chosen else ("privacy=user",)), *request.overrides)
    terms = request.settings([*overrides, *next(iter(methods.values()))]).experiment.mechanism.terms
    if not terms.protects:
        raise FedrecError("privacy=none has no epsilon to vary: choose privacy=user, or another mechanism")
    return Study(
        name="study",
        title=f"Accuracy under {terms.unit}-level privacy",
        methods=methods,
        vary="privacy.epsilon",
        values=tuple(EPSILONS if values is None else values),
        label=f"epsilon ({format_terms(replace(terms, adversary='', release_set=''), None)})",
        overrides=overrides,
        without=("privacy=none",),
        seeds=tuple(numbers or SEEDS),
    )


class Events(io.StringIO):
    """Where a trial in this process writes its events: they are passed on to who shows the progress."""

    def __init__(self, name: str, seen: StudyProgress) -> None:
        super().__init__()
        self._name, self._seen = name, seen

    def write(self, text: str, /) -> int:
        """Take one event, a line of JSON."""
        event = json.loads(text) if text.strip() else {}
        if event.get("event") == "remark":
            self._seen.remark(self._name, event["text"])
        elif event:
            self._seen.share(self._name, event["done"])
        return len(text)


@dataclass(slots=True)
class NotebookStudyProgress(StudyProgress):
    """Shows a study as one bar."""

    bar: NotebookProgress = field(default_factory=NotebookProgress)

    def _say(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)

    def _tell(self, news: str = "") -> None:
        ended = sum(share == 1 for share in self.shares.values())
        self.bar.show(f"{ended} of {self.tasks} trials", sum(self.shares.values()) / max(self.tasks, 1))


def carry_out(plan: Study, folder: Path, request: Request, progress: bool) -> StudyResult:
    """Run what is still to do of a study, and write its tables; an interruption says the call that goes on."""
    tasks = list_tasks(plan, folder)
    if not progress:
        seen = StudyProgress(len(tasks), io.StringIO())
    else:
        seen = NotebookStudyProgress(len(tasks)) if in_notebook() else StudyProgress(len(tasks))
    try:
        with alone(folder):
            if request.held is not None or request.parts:
                run_here(tasks, request, seen)
            else:
                with Pool(cores(), folder / "workers.log") as pool:
                    pool.run(tasks, seen)
    except KeyboardInterrupt:
        own = ", with the frame and the models as before" if request.held is not None or request.parts else ""
        raise KeyboardInterrupt(f"interrupted; fedrec.study({str(folder)!r}){own} goes on") from None
    write(plan, folder, seen.failed, False, "fedrec.study(...)")
    return StudyResult(folder, seen.failed)


def run_here(tasks: Sequence[Mapping[str, Any]], request: Request, seen: StudyProgress) -> None:
    """Run tasks in this process, where the frames and classes of the request are; one that fails stops no other."""
    with on_this_machine():
        for task in tasks:
            why = None
            try:
                perform(task, Events(task["folder"], seen), request.settings)
            except FedrecError as error:
                why = str(error)
            seen.ended(task["folder"], why)


def rows_of(results: Results) -> dict[str, list[Any]]:
    """Return the columns of a study's table."""
    vary = results.study.vary.removeprefix("privacy.")
    names = ("method", "kind", vary, "ndcg@10", "low", "high", "hr@10", "seeds")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for line in results.lines:
        found = line.measured["full_ndcg@10"]
        hr = line.measured["full_hr@10"].mean
        kind = "reference" if line.reference else "private" if line.value is not None else results.study.without_label
        row = (named(line), kind, line.value, found.mean, found.users.low, found.users.high, hr, line.seeds)
        for name, value in zip(names, row, strict=True):
            columns[name].append(value)
    return columns


def number(value: Any) -> str:
    """Return a number of a study's table as people read it."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) and value < 1 else f"{value:g}"


@dataclass(frozen=True, repr=False)
class AuditResult:
    """What an adversary measured of a mechanism, beside what is reported of it."""

    audit: Audit

    @property
    def verdict(self) -> str:
        """The worst of the findings: "holds", "loose", "contradicted" or "no claim"."""
        return self.audit.verdict

    @property
    def table(self) -> Any:
        """A row for each trial: reported epsilon, measured lower bound, verdict."""
        found = self.audit.findings
        return make_table(
            {name: [getattr(one, name) for one in found] for name in ("trial", "reported", "measured", "verdict")}
        )

    def __repr__(self) -> str:
        return "\n".join(lines(self.audit))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def audit(
    *what: Any,
    points: Sequence[float] = POINTS,
    canaries: int | None = None,
    numbers: int | None = None,
    **settings: Any,
) -> AuditResult:
    """Measure what an adversary sees of a run's mechanism, or of that of settings, and hold it against its epsilon.

    `what` is a run, or overrides and settings as for `simulate`; `points` are the epsilons to measure at, 0.5 to 20;
    `numbers` is how many released numbers are looked at one by one, a million where null. The card of a run cites what
    was found from now on.

    >>> audit(privacy="none", dataset="synthetic", canaries=200).verdict
    'no claim'
    """
    if any(not 0.5 <= point <= 20 for point in points):
        raise FedrecError("points lie between 0.5 and 20; outside, no number of canaries says anything")
    run = what[0] if what and isinstance(what[0], Run) else None
    if run is not None and (len(what) > 1 or settings):
        raise FedrecError(f"audit of {run.name} takes the run's own settings: leave out the other arguments")
    experiment = run.experiment if run is not None else gather(what, settings).settings().experiment
    own = not experiment.node()["privacy"]["_target_"].startswith("fedrec.")
    with on_this_machine():
        found = run_audit(experiment, tuple(points), canaries, 1 if own or canaries else 2, numbers)
    if canaries is None:  # fewer would say "loose" of a mechanism that is as tight as others
        keep(found, experiment, run)
    return AuditResult(found)


def keep(found: Audit, experiment: Experiment, run: Run | None) -> None:
    """Keep an audit where a card can cite it; the card of a run that is over cites it from now on."""
    dataset = load_dataset(experiment)
    calibrated = settled(experiment, dataset).calibrated(dataset)
    path = save_record(found.json(), calibrated, None if run is None else run.folder)
    record = load_record(calibrated, path.parent)
    if run is not None and record is not None and (run.folder / "privacy_card.json").exists():
        cite_audit(RunFolder(run.folder), record)
        if (run.folder / "metrics.json").exists():
            write_page(RunFolder(run.folder))
