"""`fedrec recommend`, `fedrec report` and `fedrec audit`: what is made of runs, and held against their claims."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.cli.grammar import Command, examples
from fedrec.cli.options import Json, check_overrides, complete_typed, numbers, print_json, tell_overruled
from fedrec.errors import FedrecError

if TYPE_CHECKING:
    from fedrec.audit.auditor import Audit
    from fedrec.experiment.experiment import Experiment
    from fedrec.experiment.settings import Settings
    from fedrec.recommend.finished_run import FinishedRun
    from fedrec.recommend.ranker import UserRanker

PANEL = "Results"
SHOWN = 2  # reasons named in a line
CONTRADICTED = 1


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    likes = "fedrec recommend runs/ours --likes 'Toy Story, Heat' -k 5"
    for name, command, panel, lines in (
        ("recommend", recommend_command, PANEL, ("fedrec recommend --user 42", likes)),
        ("report", report_command, PANEL, ("fedrec report runs/ours", "fedrec report runs/ours runs/theirs --json")),
        ("audit", audit_command, "Privacy", ("fedrec audit privacy=user --epsilon 4,8", "fedrec audit runs/ours")),
    ):
        app.command(name, cls=Command, epilog=examples(*lines), rich_help_panel=panel)(command)


def recommend_command(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="a run folder [default: the newest in runs/]")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="a user of the run's data set")] = None,
    likes: Annotated[
        str | None,
        typer.Option("--likes", metavar="TITLES", help="for somebody new: 'Toy Story, Heat' (or semicolons)"),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", help="how many")] = 10,
    as_json: Json = False,
) -> None:
    """Recommend from the model of a run folder, and say why. Nothing that is asked leaves this machine."""
    if (user is None) == (likes is None):
        raise FedrecError("fedrec recommend takes one of --user ID and --likes TITLES")
    if k < 1:
        raise FedrecError(f"-k {k}: at least 1 expected")
    folder = newest() if run is None else Path(run)
    from fedrec.recommend.finished_run import FinishedRun
    from fedrec.recommend.ranker import described, recommend

    finished = FinishedRun.open(folder)
    ranker = person(finished, user, likes)
    lines = described(recommend(ranker, k), ranker, finished.catalogue)
    if as_json:
        print_json({"history": history(finished, ranker), "recommendations": lines})
    else:
        print("" if run else f"By the newest run, {finished.folder.path}.\n", end="")
        print("\n".join(shown(finished, ranker, lines)))


def newest(output: Path = Path("runs")) -> Path:
    """Return the folder of the run that was finished last; none is an error."""
    models = sorted(output.glob("*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise FedrecError(f"{output.absolute()} holds no finished run: name one, or run fedrec simulate first")
    return models[-1].parent


def person(finished: "FinishedRun", user: str | None, likes: str | None) -> "UserRanker":
    """Return the taste of a user of the data set, or of somebody who likes some titles."""
    from fedrec.recommend.ranker import ItemSearch

    if user is not None:
        return finished.of_user(finished.user(user))
    return finished.ranker(ItemSearch(finished.catalogue).rows(likes or ""))


def history(finished: "FinishedRun", ranker: "UserRanker") -> list[dict[str, str]]:
    """Return the items that recommendations rest on, the newest last."""
    ids, titles = finished.catalogue.ids, finished.catalogue.titles
    return [{"id": str(ids[item]), "title": str(titles[item])} for item in ranker.history]


def shown(finished: "FinishedRun", ranker: "UserRanker", lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines for a reader: what they rest on, then rank, title and why."""
    names = [str(finished.catalogue.titles[item]) for item in ranker.history]
    rest = f"{'; '.join(names[-5:])}{f' and {len(names) - 5} before' if len(names) > 5 else ''}"
    width = max([len(line["title"]) for line in lines], default=0)
    text = [f"From {rest or 'no history'}:", ""]
    text += [
        f"{line['rank']:>3}  {line['title']:<{width}}  {line['score']:8.3f}  {why(line['because'])}" for line in lines
    ]
    if not lines:
        return [*text, "Everything in the catalogue is in that history: there is nothing left to recommend."]
    if all(line["because"] is None for line in lines):
        text += ["", "This model can't say why: its scores are no sum over the items of a history."]
    return text


def why(because: dict[str, Any] | None) -> str:
    """Return the reasons of one line: the largest shares of its score."""
    if because is None:
        return ""
    liked = [item for item in because["items"] if item["share"] > 0][:SHOWN]
    if not liked:
        return "because many liked it"
    return "because you liked " + ", ".join(f"{item['title']} ({item['share']:+.3f})" for item in liked)


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of finished runs")],
    as_json: Annotated[bool, typer.Option("--json", help="print metrics.json of each instead of its table")] = False,
) -> None:
    """Write report.html of finished runs again, and print their verdict and table."""
    for folder in runs:
        report(folder, as_json)


def report(folder: Path, as_json: bool) -> None:
    """Write the page of one run and print what it says."""
    for name in ("metrics.json", "privacy_card.json", "rounds.jsonl"):
        if not (folder / name).is_file():
            raise FedrecError(f"{folder}: no {name} in it; {what_ends(folder)}")
    from fedrec.report.console import result
    from fedrec.report.html import write_page
    from fedrec.storage.run_folder import RunFolder

    write_page(RunFolder(folder))
    values = json.loads((folder / "metrics.json").read_text())
    print_json(values) if as_json else print(result(values, folder / "report.html", sys.stdout, "Page"))


def what_ends(folder: Path) -> str:
    """Return what would make a finished run of a folder, by what lies in it."""
    if (folder / "study.json").exists():
        return (
            f"it is a study: see {folder / 'table.md'}, or end one that was stopped by fedrec study --resume {folder}"
        )
    if (folder / "progress.log").exists():
        return f"a finished run is expected: fedrec server start --resume {folder} ends one that was stopped"
    if (folder / "config.yaml").exists():
        return f"a finished run is expected: fedrec simulate --resume {folder} ends one that was stopped"
    return "the folder of a finished run is expected, as fedrec simulate printed it"


def audit_command(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN|KEY=VALUE]...", help="a run folder, or settings", autocompletion=complete_typed),
    ] = None,
    epsilon: Annotated[str | None, typer.Option("--epsilon", metavar="X,Y", help="audit points [default: 4,8]")] = None,
    count: Annotated[
        int | None, typer.Option("--numbers", min=0, metavar="N", help="released numbers to look at [default: 1000000]")
    ] = None,
    attacks: Annotated[bool, typer.Option("--attacks", help="try two attacks on the configuration's own data")] = False,
    as_json: Json = False,
) -> None:
    """Measure what an adversary sees, and hold it against the epsilon reported; status 1 where it contradicts."""
    given = list(overrides or ())
    run = run_of(given)
    if run is None:
        check_overrides(given)
    points = numbers("--epsilon", epsilon)
    if any(not 0.5 <= point <= 20 for point in points or ()):
        raise FedrecError(
            "--epsilon: audit points lie between 0.5 and 20; outside, no number of canaries says anything"
        )
    if run is None:
        tell_overruled(given)
    status = attack(settings(given), as_json) if attacks else audit(settings(given), run, (points, count), as_json)
    raise typer.Exit(status)


def run_of(given: Sequence[str]) -> Path | None:
    """Return the run folder that an audit names; it takes no other setting then."""
    folders = [text for text in given if "=" not in text and not text.startswith("~")]
    if folders and len(given) > 1:
        raise FedrecError(f"fedrec audit {folders[0]} takes the run's own settings: leave out the other arguments")
    return Path(folders[0]) if folders else None


def attack(chosen: "Settings", as_json: bool) -> int:
    """Attack what the mechanism of a run or of a configuration shows of its own data; return the exit status 0."""
    from fedrec.audit.attacks import attacks, lines

    experiment = chosen.experiment
    found = attacks(experiment, int(chosen.document["nodes"]))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        print("\n".join(lines(found, experiment.mechanism.terms)))
    return 0


def audit(chosen: "Settings", run: Path | None, size: tuple[Sequence[float] | None, int | None], as_json: bool) -> int:
    """Audit the mechanism of a run or of a configuration, at points and by so many numbers where they are given.

    Return the exit status, 1 where the claim is contradicted.
    """
    from fedrec.audit import auditor

    experiment, (points, numbers) = chosen.experiment, size
    found = auditor.audit(experiment, tuple(points or auditor.POINTS), numbers=numbers)
    print_json(found.json()) if as_json else print("\n".join(auditor.lines(found)))
    path = noted(found, experiment, run)
    if not as_json:
        print(f"Kept for the privacy card: {path}")
    return CONTRADICTED if found.verdict == "contradicted" else 0


def noted(found: "Audit", experiment: "Experiment", run: Path | None) -> Path:
    """Keep an audit of a run or of settings; the card of a run that is over cites it from now on."""
    from fedrec.audit.auditor import load_record, save_record
    from fedrec.experiment.experiment import load_dataset
    from fedrec.federated.node import settled
    from fedrec.report.html import write_page
    from fedrec.report.privacy_card import cite_audit
    from fedrec.storage.run_folder import RunFolder

    dataset = load_dataset(experiment)
    calibrated = settled(experiment, dataset).calibrated(dataset)
    path = save_record(found.json(), calibrated, run)
    record = load_record(calibrated, path.parent)
    if run is not None and record is not None and (run / "privacy_card.json").exists():
        cite_audit(RunFolder(run), record)
        if (run / "metrics.json").exists():
            write_page(RunFolder(run))
    return path


def settings(overrides: Sequence[str]) -> "Settings":
    """Return the settings of a run's folder, or those of the overrides."""
    from fedrec.experiment.automatic import load_chosen
    from fedrec.experiment.settings import read

    run = run_of(overrides)
    return load_chosen(overrides) if run is None else read(run / "config.yaml")
