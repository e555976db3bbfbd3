"""`fedrec study NAME` and `fedrec study compare`."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedrec.errors import FedrecError

if TYPE_CHECKING:
    from fedrec.study.plan import Study

COMMAND = "command.txt"

EPILOG = """A study is a yaml file with title, methods (names and lists of overrides), vary, values and label;
privacy-accuracy comes with fedrec. Trailing key=value overrides hold for every trial. Stop it with anything; --resume
goes on."""


def listed(text: str) -> list[str]:
    """Return the parts of "a,b"."""
    return [part for part in text.split(",") if part]


def numbers(text: str) -> list[float]:
    """Return the numbers of "1,0.5"."""
    return [float(part) for part in listed(text)]


def seeds(text: str) -> list[int]:
    """Return the whole numbers of "0,1"."""
    return [int(part) for part in listed(text)]


def parser() -> argparse.ArgumentParser:
    """Return the grammar of running a study."""
    what = "Run a study: privacy-accuracy, or a yaml file."
    root = argparse.ArgumentParser(prog="fedrec study", description=what, epilog=EPILOG)
    root.add_argument("study", nargs="?", help="privacy-accuracy, a yaml file, or: compare RUN RUN...")
    root.add_argument("overrides", nargs="*", metavar="key=value", help="for every trial, e.g. experiment=video")
    root.add_argument("--resume", metavar="STUDY", help="go on with the study in this folder")
    root.add_argument("--methods", type=listed, metavar="A,B", help="only these of the study's methods")
    root.add_argument("--values", type=numbers, metavar="X,Y", help="other values of what is varied")
    root.add_argument("--seeds", type=seeds, metavar="N,M", help="other seeds")
    root.add_argument("--workers", type=int, metavar="N", help="processes side by side (default: one a core)")
    root.add_argument("--name", help="of the study's folder under runs/ (default: the study's name and the time)")
    root.add_argument("--output", default="runs", help="where its folder lies (runs)")
    root.add_argument("--no-picture", action="store_true", help="the table alone, without matplotlib")
    return root


def compare_parser() -> argparse.ArgumentParser:
    """Return the grammar of comparing runs."""
    root = argparse.ArgumentParser(prog="fedrec study compare", description="Paired significance between runs.")
    root.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or a study: the first against each other")
    root.add_argument("--metric", default="full_ndcg@10", help="full_ or sampled_ ndcg@10 or hr@10 (full_ndcg@10)")
    root.add_argument("--json", action="store_true", help="as JSON")
    return root


def run(arguments: Sequence[str]) -> None:
    """Carry out `fedrec study ...`."""
    if arguments and arguments[0] == "compare":
        compared(compare_parser().parse_args(arguments[1:]))
        return
    options, more = parser().parse_known_args(arguments)
    if any(extra.startswith("-") for extra in more):
        parser().error(f"unrecognized arguments: {' '.join(more)}")
    options.overrides += more
    if options.resume is None and options.study is None:
        parser().error("name a study (privacy-accuracy, or a yaml file), or --resume its folder")
    studied(options, f"fedrec study {shlex.join(arguments)}")


def studied(options: argparse.Namespace, command: str) -> None:
    """Run or resume a study, and print its table and where its files are."""
    from fedrec.study.plot import check_installed
    from fedrec.study.pool import cores
    from fedrec.study.runner import carry_out, expectation, list_tasks, write

    if not options.no_picture:
        check_installed()
    workers = cores() if options.workers is None else options.workers
    if workers < 1:
        raise FedrecError(f"--workers {workers}: at least 1 expected")
    study, folder = begun(options, command) if options.resume is None else gone_on(options)
    print(f"{expectation(study, list_tasks(study, folder))} Folder: {folder.resolve()}", file=sys.stderr, flush=True)
    failed = carry_out(study, folder, workers)
    said = (folder / COMMAND).read_text().strip() if (folder / COMMAND).exists() else command
    print(f"{write(study, folder, failed, not options.no_picture, said)}\nStudy folder: {folder.resolve()}")
    if failed:
        raise FedrecError(f"{len(failed)} of the trials failed; mend what is named above, then --resume {folder}")


def begun(options: argparse.Namespace, command: str) -> "tuple[Study, Path]":
    """Return a new study and its folder, made."""
    from fedrec.study.plan import find
    from fedrec.study.runner import begin

    chosen = find(options.study).selected(options.methods, options.values, options.seeds)
    study = replace(chosen, given=(*chosen.given, *options.overrides))
    folder = Path(options.output) / (options.name or f"{study.name}-{time.strftime('%Y-%m-%dT%H-%M-%S')}")
    begin(study, folder)
    (folder / COMMAND).write_text(command + "\n")
    return study, folder


def gone_on(options: argparse.Namespace) -> "tuple[Study, Path]":
    """Return the study of the folder to go on with."""
    from fedrec.study.runner import resumed

    if options.study or options.overrides or options.methods or options.values or options.seeds:
        raise FedrecError(f"--resume {options.resume} goes on with the study as it was begun: leave out the rest")
    folder = Path(options.resume)
    return resumed(folder), folder


def compared(options: argparse.Namespace) -> None:
    """Print the comparison of runs."""
    from fedrec.study.compare import check_metric, compare, groups_of, to_json, to_lines

    metric = check_metric(options.metric)
    groups = groups_of(options.runs)
    comparisons = compare(groups, metric)
    if options.json:
        print(json.dumps(to_json(groups, comparisons, metric), indent=2))
    else:
        print("\n".join(to_lines(groups, comparisons, metric)))
