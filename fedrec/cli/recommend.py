"""`fedrec recommend`: what the model of a run recommends to one person at this terminal, and why."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrec.errors import FedrecError
from fedrec.recommend.finished_run import FinishedRun
from fedrec.recommend.item_search import ItemSearch
from fedrec.recommend.ranker import UserRanker, described, recommend

SHOWN = 2  # reasons named in a line


def parser() -> argparse.ArgumentParser:
    """Return the command's grammar."""
    root = argparse.ArgumentParser(
        prog="fedrec recommend",
        description="Recommend from the model of a run folder. Nothing that is asked leaves this machine.",
    )
    root.add_argument(
        "run", metavar="RUN", nargs="?", help="the folder of a finished run (default: the newest in runs/)"
    )
    person = root.add_mutually_exclusive_group(required=True)
    person.add_argument("--user", metavar="ID", help="a user of the run's data set, e.g. 42")
    person.add_argument("--likes", metavar="TITLES", help="for somebody new: 'Toy Story, Heat' (or with semicolons)")
    root.add_argument("-k", type=int, default=10, metavar="N", help="how many (default: 10)")
    root.add_argument("--json", action="store_true", help="as JSON")
    return root


def run(arguments: Sequence[str]) -> None:
    """Print the recommendations for a user of the data set, or for somebody who likes some titles."""
    options = parser().parse_args(arguments)
    if options.k < 1:
        raise FedrecError(f"-k {options.k}: at least 1 expected")
    finished = FinishedRun.open(newest() if options.run is None else Path(options.run))
    ranker = person(finished, options.user, options.likes)
    lines = described(recommend(ranker, options.k), ranker, finished.catalogue)
    if options.json:
        print(json.dumps({"history": history(finished, ranker), "recommendations": lines}, indent=2))
    else:
        print("" if options.run else f"By the newest run, {finished.folder.path}.\n", end="")
        print("\n".join(shown(finished, ranker, lines)))


def newest(output: Path = Path("runs")) -> Path:
    """Return the folder of the run that was finished last; none is an error."""
    models = sorted(output.glob("*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise FedrecError(f"{output.absolute()} holds no finished run: name one, or run fedrec simulate first")
    return models[-1].parent


def person(finished: FinishedRun, user: str | None, likes: str | None) -> UserRanker:
    """Return the taste of a user of the data set, or of somebody who likes some titles."""
    if user is not None:
        return finished.of_user(finished.user(user))
    return finished.ranker(ItemSearch(finished.catalogue).rows(likes or ""))


def history(finished: FinishedRun, ranker: UserRanker) -> list[dict[str, str]]:
    """Return the items that recommendations rest on, the newest last."""
    ids, titles = finished.catalogue.ids, finished.catalogue.titles
    return [{"id": str(ids[item]), "title": str(titles[item])} for item in ranker.history]


def shown(finished: FinishedRun, ranker: UserRanker, lines: Sequence[dict[str, Any]]) -> list[str]:
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
