"""A run as a value: made by `simulate`, found again by `load_run`."""

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.api.execution import finish
from fedrec.api.settings import gather
from fedrec.api.tables import Picture, draw_rounds, make_table, to_html
from fedrec.data.catalogue import Catalogue
from fedrec.data.datasets.frame import HeldRows, hold, read_frame
from fedrec.errors import FedrecError, suggest
from fedrec.experiment import instantiate
from fedrec.experiment.experiment import Experiment
from fedrec.experiment.overrides import find_overruled
from fedrec.experiment.settings import Settings, read, validate
from fedrec.models.base import Recommender
from fedrec.privacy.kept_release import KeptRelease, read_releases
from fedrec.privacy.wording import format_privacy
from fedrec.recommend.finished_run import FinishedRun
from fedrec.recommend.ranker import ItemSearch, UserRanker, described, recommend
from fedrec.report.console import TITLES, verdict
from fedrec.report.html import write_page
from fedrec.simulation import new_run
from fedrec.storage.run_folder import RunFolder, load_table

ROUNDS = ("round", "cohort", "answered", "loss", "validation", "epsilon", "seconds", "bytes_down", "bytes_up")
REASONS = 2  # items named as the reason of a recommendation


class Metrics(dict[str, Any]):
    """The content of metrics.json; the name of a metric alone is that of the test on full ranking."""

    def __missing__(self, name: str) -> Any:
        found: dict[str, Any] = self["test"]["full"] if "test" in self else {}
        if name not in found:
            raise KeyError(f"{name} does not exist.{suggest(name, [*self, *found])}")
        return found[name]


class Card(dict[str, Any]):
    """The privacy card of a run; a notebook shows it as the page that people read."""

    text: str = ""

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class Run:
    """A run and its folder: figures, guarantee, model, recommendations. `simulate` and `load_run` make it."""

    folder: Path
    held: HeldRows | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.folder.name

    @cached_property
    def settings(self) -> Settings:
        """The resolved settings, as config.yaml keeps them."""
        return read(self.folder / "config.yaml")

    @property
    def experiment(self) -> Experiment:
        """The experiment; a class of one's own that it names has to be known in this process."""
        if self.held is not None:
            hold(self.held)
        try:
            return self.settings.experiment
        except FedrecError as error:
            if "_target_=" not in str(error):
                raise
            raise FedrecError(
                f"{error}. Where that class is one of yours: define or import it, then "
                f"fedrec.load_run({str(self.folder)!r}, allow=THE_CLASS)"
            ) from error

    @property
    def metrics(self) -> Metrics:
        """The content of metrics.json; `metrics["ndcg@10"]` is the test's on full ranking."""
        return Metrics(self._json("metrics.json"))

    @property
    def history(self) -> Any:
        """The rounds so far as a table. Loss and validation are exact: no epsilon covers them."""
        return make_table(self._rounds())

    @property
    def guarantee(self) -> str:
        """What the run promises, in the words that go with every epsilon."""
        return format_privacy(self._json("metrics.json")["privacy"])

    @property
    def caveats(self) -> list[str]:
        """What keeps the figures from meaning what they seem to, a sentence each; empty where nothing does."""
        return self._json("metrics.json").get("caveats", [])

    @property
    def card(self) -> Card:
        """The privacy card: eleven fields without which an epsilon means nothing."""
        card = Card(self._json("privacy_card.json"))
        card.text = (self.folder / "privacy_card.md").read_text()
        return card

    @property
    def catalogue(self) -> Catalogue:
        """The items: ids and titles."""
        return self._finished().catalogue

    @property
    def model(self) -> Recommender:
        """The released model as a torch module, with the arrays that devices share."""
        finished, experiment = self._finished(), self.experiment
        model = experiment.build_model(finished.items)
        model.load({name: array for name, array in finished.arrays.items() if name in model.shared})
        return model

    def recommend(self, user: Any = None, likes: str | Sequence[str] | None = None, k: int = 10) -> Any:
        """Return the k best items for a user of the data, or for somebody new who likes some titles, as a table.

        `because` names the items that weigh most, and is blank where the model can't say. Nothing that is asked leaves
        this machine.
        """
        if (user is None) == (likes is None):
            raise FedrecError("recommend(user=ID) or recommend(likes=['A title', ...]): one of them is expected")
        finished = self._finished()
        _ = self.experiment  # a class or a frame that is missing here is told first, with what to do
        ranker = finished.of_user(finished.user(str(user))) if likes is None else liking(finished, likes)
        lines = described(recommend(ranker, k), ranker, finished.catalogue, REASONS)
        return make_table(
            {
                "item": [line["id"] for line in lines],
                "title": [line["title"] for line in lines],
                "score": [line["score"] for line in lines],
                "because": [because(line["because"]) for line in lines],
            }
        )

    def per_user(self) -> Any:
        """Return the test's exact figures, a row a user: `row`, `user` where the data are here, and every metric.

        For the owner of the data: no epsilon covers them.
        """
        found = load_table(self.folder / "exact" / "users.npz")
        rows: NDArray[np.int64] = found.pop("user")
        found.pop("top")
        columns: dict[str, Any] = {"row": rows, **found}
        try:
            named = self._finished().dataset.interactions.user_ids[rows].tolist()
            return make_table({"user": named, **columns})
        except FedrecError:
            return make_table(columns)

    def releases(self) -> Iterator[KeptRelease]:
        """Return what each round released, in order: whole numbers on a public grid, noise included.

        Nothing else of the data ever left, so that anybody may be shown them. Without any it is an error that says why.
        """
        paths = RunFolder(self.folder).kept_releases()
        if not paths:
            raise FedrecError(
                f"{self.folder} keeps no releases: privacy=none releases nothing, and what comes to more than "
                "keep_releases_mb is not kept"
            )
        return read_releases(paths)

    def report(self) -> Path:
        """Write report.html, one page that needs nothing else, and return where it lies."""
        self._json("metrics.json")
        write_page(RunFolder(self.folder))
        return (self.folder / "report.html").resolve()

    def plot(self, path: str | Path | None = None) -> Picture:
        """Draw validation, loss and epsilon by round; with a path (.svg, .pdf, .png), write the picture too."""
        picture = draw_rounds(self._rounds(), self.name)
        if path is not None:
            picture.save(path)
        return picture

    def resume(self, data: Any = None, *, progress: bool = True) -> "Run":
        """Go on with a run that was stopped, from its last round; `data` is its frame, where it was trained on one."""
        run = self if data is None else with_frame(self, data)
        _ = run.experiment
        finish(run.folder, run.held, progress)
        return run

    def __repr__(self) -> str:
        if not (self.folder / "metrics.json").exists():
            return f"<fedrec run {self.name}, not finished: .resume() goes on>"
        values = self.metrics
        return f"<fedrec run {self.name}: {values['model']}, NDCG@10 {values['ndcg@10'] or 0:.4f}, {self.guarantee}>"

    def _repr_html_(self) -> str:
        if not (self.folder / "metrics.json").exists():
            return f"<p>{escape(repr(self))}</p>"
        values = self.metrics
        head = ["", "HR@10", "NDCG@10", "95 % over users", "coverage@10"]
        rows = [method_row(values["model"], values["test"])]
        rows += [method_row(str(TITLES.get(n, n)), found) for n, found in values["baselines"].items() if found]
        said, promise = verdict(values), self.guarantee
        below = "" if promise in said else f"Guarantee: {promise}. "
        place = f"<p>{escape(below)}Folder: {escape(str(self.folder))}</p>"
        beware = "".join(f"<p><b>Beware</b>: {escape(text)}</p>" for text in self.caveats)
        return f"<p>{escape(said)}</p>{beware}{to_html(head, rows)}{place}"

    def _finished(self) -> FinishedRun:
        if self.held is not None:
            hold(self.held)
        return FinishedRun.open(self.folder)

    def _rounds(self) -> dict[str, list[Any]]:
        lines = RunFolder(self.folder).exact_rounds()
        if not lines and (public := self.folder / "rounds.jsonl").exists():
            lines = [json.loads(line) for line in public.read_text().splitlines()]
        return {name: [line.get(name) for line in lines] for name in ROUNDS}

    def _json(self, name: str) -> dict[str, Any]:
        if not (self.folder / name).exists():
            raise FedrecError(f"{self.folder}: no {name} yet, the run is not finished: .resume() goes on with it")
        return json.loads((self.folder / name).read_text())


def simulate(*overrides: Any, progress: bool = True, allow: Any = (), **settings: Any) -> Run:
    """Train and evaluate on this machine, and return the run; its folder is made under `output` (runs/).

    Overrides are texts as on the command line (`"cohort.size=50"`), or mappings of them; keywords are the same by name
    (`rounds=10`, `model="ease"`, `cohort={"size": 50}`). `model`, `privacy` and `algorithm` take a name, a class or an
    object. A pandas, polars or Arrow table, or a mapping of columns, is trained on where it is: `user`, `item`, `time`,
    `value` and `title` name its columns, or are arrays themselves. `allow` names packages of yours that overrides may
    name classes of. Interrupted, it leaves a run that `load_run(folder).resume()` goes on with.

    >>> run = simulate("dataset.users=50", dataset="synthetic", model="popularity", privacy="none", progress=False)
    >>> run.metrics["model"], run.guarantee
    ('popularity', 'no privacy guarantee (epsilon is infinite)')
    >>> len(run.recommend(user=3, k=2))
    2
    """
    allow_parts(allow)
    request = gather(overrides, settings)
    asked = request.settings()
    if asked.chosen and progress:
        print(asked.chosen, file=sys.stderr)
    chosen = validate(asked)
    for line in find_overruled(chosen.experiment, request.plain):
        warnings.warn(line, stacklevel=2)
    _, folder = new_run(chosen)
    run = Run(folder.path, request.held)
    finish(folder.path, request.held, progress)
    return run


def load_run(folder: str | Path, data: Any = None, *, allow: Any = ()) -> Run:
    """Return the run of a folder: metrics and history at once, the rest when it is asked for.

    `data` is the frame that it was trained on, which its folder does not hold; it is needed to go on, and to recommend
    to users of it. `allow` is a class of your own that it was made with, or a package, or several of them.

    >>> load_run("no/such/folder")
    Traceback (most recent call last):
        ...
    fedrec.errors.FedrecError: no/such/folder holds no run: a folder with a config.yaml is expected
    """
    path = Path(folder)
    if not (path / "config.yaml").exists():
        raise FedrecError(f"{path} holds no run: a folder with a config.yaml is expected")
    allow_parts(allow)
    run = Run(path)
    return run if data is None else with_frame(run, data)


def with_frame(run: Run, data: Any) -> Run:
    """Return the run with its frame, read as its configuration says; another one is refused."""
    node = run.settings.document["dataset"]
    if "content" not in node:
        raise FedrecError(f"{run.folder} was not trained on a data frame: its data set is {node['_target_']}")
    columns = {part: name for part, name in node["columns"].items() if name or part == "time"}
    held, _ = read_frame(data, columns, node.get("title"))
    if held.content != node["content"]:
        raise FedrecError(
            f"these rows are not those of {run.folder}: their content is {held.content[:12]}, the run's is "
            f"{node['content'][:12]}; the same rows in the same order are expected"
        )
    return Run(run.folder, held)


def allow_parts(parts: Any) -> None:
    """Let configurations in this process name packages or classes of the user's own."""
    for part in parts if isinstance(parts, list | tuple | set) else (parts,):
        instantiate.allow(part) if isinstance(part, str) else instantiate.allow_class(part)


def liking(finished: FinishedRun, likes: str | Sequence[str]) -> UserRanker:
    """Return how the model ranks for somebody new who likes these titles: a list, or a text with commas between."""
    search = ItemSearch(finished.catalogue)
    if isinstance(likes, str):
        return finished.ranker(search.rows(likes))
    if not likes:
        raise FedrecError("likes=[]: at least one title is expected")
    return finished.ranker(np.array(list(dict.fromkeys(search.row(str(title)) for title in likes)), np.int64))


def because(reasons: dict[str, Any] | None) -> str:
    """Return the items that weigh most in a score as text; blank for a model that can't say."""
    if reasons is None:
        return ""
    return ", ".join(f"{item['title']} ({item['share']:+.3f})" for item in reasons["items"] if item["share"] > 0)


def method_row(name: str, found: dict[str, Any]) -> list[str]:
    """Return a method as a row of the table that a notebook shows."""
    full = found["full"]
    numbers = (full["hr@10"], full["ndcg@10"], full["coverage@10"])
    hr, ndcg, coverage = ("" if number is None else f"{number:.4f}" for number in numbers)
    interval = "" if full["ndcg@10_ci"] is None else "{:.4f} to {:.4f}".format(*full["ndcg@10_ci"])
    return [name, hr, ndcg, interval, coverage]
