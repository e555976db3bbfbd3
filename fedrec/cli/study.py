"""`fedrec study`: many runs of one plan, and what is made of runs."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.cli.grammar import Command, Group, examples, run_command, typed
from fedrec.cli.options import (
    Json,
    Overrides,
    check_output,
    check_overrides,
    going_on,
    numbers,
    print_json,
    taking,
    tell_overruled,
    whole_numbers,
    words,
)
from fedrec.errors import FedrecError, suggest

if TYPE_CHECKING:
    from fedrec.study.plan import Study

COMMAND = "command.txt"
JsonLines = Annotated[bool, typer.Option("--json", help="one JSON object a row, one a line")]
Epsilons = Annotated[str, typer.Option("--epsilons", metavar="X,Y", help="the epsilons")]
Seeds = Annotated[str, typer.Option("--seeds", metavar="N,M", help="the seeds")]


class StudyGroup(Group):
    """`fedrec study PLAN` runs a plan; the other commands have names of their own."""

    fallback = "run"


app = typer.Typer(
    name="study",
    cls=StudyGroup,
    help="Run many trials of one plan (fedrec study PLAN), and compare runs.",
    epilog=examples(
        "fedrec study privacy-accuracy --values 1,8 --seeds 0", "fedrec study compare runs/ours runs/theirs"
    ),
)


def run(arguments: Sequence[str]) -> None:
    """Carry out `fedrec study ...`; mistakes are `FedrecError`s."""
    run_command(typer.main.get_command(app), list(arguments), "fedrec study")


@dataclass(frozen=True)
class StudyArguments:
    """What `fedrec study PLAN` is told."""

    plan: Annotated[str | None, typer.Argument(metavar="PLAN", help="privacy-accuracy, or a yaml file")] = None
    overrides: Overrides = None
    resume: Annotated[str | None, typer.Option(metavar="STUDY", help="go on with the study here")] = None
    methods: Annotated[str | None, typer.Option(metavar="A,B", help="only these of its methods")] = None
    values: Annotated[str | None, typer.Option(metavar="X,Y", help="other values of what is varied")] = None
    seeds: Annotated[str | None, typer.Option(metavar="N,M", help="other seeds")] = None
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="processes side by side [default: one a core]")
    ] = None
    name: Annotated[str | None, typer.Option(help="of the study's folder [default: the study's name and the time]")] = (
        None
    )
    output: Annotated[str, typer.Option(metavar="FOLDER", help="where its folder lies")] = "runs"
    no_picture: Annotated[bool, typer.Option("--no-picture", help="the table alone, without matplotlib")] = False


@app.command(
    "run",
    cls=Command,
    help="Run a plan: privacy-accuracy, or a yaml file with title, methods (names and lists of overrides), vary, "
    "values and label. The word run may be left out.",
    epilog=examples(
        "fedrec study privacy-accuracy experiment=video", "fedrec study privacy-accuracy --methods ease --values 1,8"
    ),
)
@taking(StudyArguments)
def run_plan(asked: StudyArguments) -> None:
    """Run or resume a study, and print its table and where its files are."""
    begun_anew = (asked.plan, asked.overrides, asked.methods, asked.values, asked.seeds)
    if asked.resume is not None and any(begun_anew):
        raise FedrecError(f"--resume {asked.resume} goes on with the study as it was begun: leave out the rest")
    chosen = chosen_plan(asked) if asked.resume is None else None
    check_output([f"output={asked.output}"])
    from fedrec.report.plot import check_installed
    from fedrec.study.runner import begin, resumed

    if not asked.no_picture:
        check_installed()
    if chosen is None:
        folder = Path(asked.resume or "")
        carry_on(resumed(folder), folder, asked.workers, not asked.no_picture)
        return
    folder = Path(asked.output) / (asked.name or f"{chosen.name}-{time.strftime('%Y-%m-%dT%H-%M-%S')}")
    for line in begin(chosen, folder):
        print(line, file=sys.stderr)
    for name, method in chosen.methods.items():
        tell_overruled([*chosen.overrides, *method, *chosen.given], f"{name}: ")
    (folder / COMMAND).write_text(typed() + "\n")
    carry_on(chosen, folder, asked.workers, not asked.no_picture)


def chosen_plan(asked: StudyArguments) -> "Study":
    """Return the study that was asked for; what it names that does not exist is told before anything heavy."""
    from fedrec.study.plan import find, shipped

    plan = asked.plan
    if plan is None:
        raise FedrecError("name a plan (privacy-accuracy, or a yaml file), or --resume its folder: fedrec study --help")
    if not Path(plan).is_file() and plan not in shipped():
        known = suggest(plan, [*shipped(), *(command.name or "" for command in app.registered_commands)])
        raise FedrecError(f"study {plan}: neither a yaml file nor one that comes with fedrec.{known}")
    given = check_overrides(asked.overrides)
    wanted = None if asked.methods is None else words(asked.methods)
    values, seeds = numbers("--values", asked.values), whole_numbers("--seeds", asked.seeds)
    study = find(plan).selected(wanted, values, seeds)
    study = replace(study, given=(*study.given, *given))
    for method in study.methods.values():
        check_overrides([*study.overrides, *method, *study.given])
    return study


def carry_on(study: "Study", folder: Path, workers: int | None, picture: bool) -> None:
    """Run what is still to do of a study; print its table and where its files are."""
    from fedrec.study.pool import cores
    from fedrec.study.runner import carry_out, expectation, list_tasks, write

    resume = f"fedrec study --resume {folder}"
    print(f"{expectation(study, list_tasks(study, folder))} Folder: {folder}", file=sys.stderr, flush=True)
    with going_on(folder, resume):
        failed = carry_out(study, folder, workers or cores())
        made_by = (folder / COMMAND).read_text().strip() if (folder / COMMAND).exists() else typed()
        print(f"{write(study, folder, failed, picture, made_by)}\nStudy folder: {folder.resolve()}")
    if failed:
        raise FedrecError(f"{len(failed)} of the trials failed; mend what is named above, then {resume}")


@app.command(
    "compare",
    cls=Command,
    epilog=examples("fedrec study compare runs/ours runs/theirs", "fedrec study compare runs/my-study --json"),
)
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="run folders, or a study: the first against each")
    ],
    metric: Annotated[str, typer.Option("--metric", help="full_ or sampled_ ndcg@10 or hr@10")] = "full_ndcg@10",
    as_json: Json = False,
) -> None:
    """Compare runs pairwise over users: differences, intervals and significance."""
    from fedrec.study.compare import check_metric, groups_of, to_json, to_lines
    from fedrec.study.compare import compare as compare_groups

    groups = groups_of(runs) if check_metric(metric) else []
    comparisons = compare_groups(groups, metric)
    if as_json:
        print_json(to_json(groups, comparisons, metric))
    else:
        print("\n".join(to_lines(groups, comparisons, metric)))


@app.command(
    "frontier",
    cls=Command,
    epilog=examples(
        "fedrec study frontier model=ease privacy=user --epsilons 1,8",
        "fedrec study frontier model=mf --part validation",
    ),
)
def frontier(
    overrides: Overrides = None,
    epsilons: Epsilons = "1,2,4,8",
    seeds: Seeds = "0,1,2",
    part: Annotated[str, typer.Option("--part", help="rank validation or test items")] = "test",
    as_json: JsonLines = False,
) -> None:
    """Train one model at each epsilon with each seed, without baselines: what privacy costs."""
    if part not in ("validation", "test"):
        raise FedrecError(f"--part {part}: validation or test expected")
    given, values, chosen = check_overrides(overrides), numbers("--epsilons", epsilons), whole_numbers("--seeds", seeds)
    from fedrec.study.frontier import measure_frontier

    tell_overruled(given)
    print_rows(measure_frontier(given, values or (), chosen or (), part), as_json)


@app.command(
    "deltas",
    cls=Command,
    epilog=examples("fedrec study deltas model=ease privacy=user", "fedrec study deltas privacy=user --epsilons 1,8"),
)
def deltas(overrides: Overrides = None, epsilons: Epsilons = "1,2,4,8") -> None:
    """Say what a run would cost at two deltas, its own and users^-1.1, as JSON lines; nothing is trained or charged."""
    given, values = check_overrides(overrides), numbers("--epsilons", epsilons)
    from fedrec.study.frontier import list_deltas

    print_rows((("", record) for record in list_deltas(given, values or ())), as_json=True)


@app.command(
    "mechanisms",
    cls=Command,
    epilog=examples(
        "fedrec study mechanisms model=mf cohort.size=300 --mechanisms user,banded --clips 0.03,0.1",
        "fedrec study mechanisms model=content rounds=80 --epsilons 8 --seeds 0",
    ),
)
def mechanisms(
    overrides: Overrides = None,
    names: Annotated[str, typer.Option("--mechanisms", metavar="A,B", help="choices of privacy=")] = "user,banded",
    clips: Annotated[
        str, typer.Option("--clips", metavar="X,Y", help="tried for each, on validation")
    ] = "0.03,0.1,0.3",
    epsilons: Epsilons = "1,2,4,8",
    seeds: Seeds = "0,1,2",
    as_json: JsonLines = False,
) -> None:
    """Compare mechanisms on one model, the clip of each chosen with the same effort."""
    given, chosen = check_overrides(overrides), words(names)
    for name in chosen:
        check_overrides([*given, f"privacy={name}"])
    tried, values, drawn = numbers("--clips", clips), numbers("--epsilons", epsilons), whole_numbers("--seeds", seeds)
    from fedrec.study.mechanisms import Plan, compare_mechanisms

    for name in chosen:
        tell_overruled([*given, f"privacy={name}"], f"{name}: ")
    plan = Plan(tuple(given), tuple(chosen), tuple(tried or ()), tuple(values or ()), tuple(drawn or ()))
    print_rows(compare_mechanisms(plan), as_json)


@app.command(
    "seeds", cls=Command, epilog=examples("fedrec study seeds model=ease", "fedrec study seeds model=mf --seeds 0,1,2")
)
def seeds(
    overrides: Overrides = None,
    seeds: Seeds = "0,1,2",
    name: Annotated[str, typer.Option("--name", help="of the run folders, a seed behind it")] = "seeds",
    as_json: Json = False,
) -> None:
    """Run one setting with several seeds, baselines included: what is above popularity, and what privacy costs."""
    given, chosen = check_overrides(overrides), whole_numbers("--seeds", seeds)
    check_output(given)
    from fedrec.study.frontier import compared, study, to_lines

    tell_overruled(given)
    found = compared(study(given, chosen or (), name))
    if as_json:
        print_json(found)
    else:
        print("\n".join(to_lines(found)))


def print_rows(rows: Iterable[tuple[str, dict[str, Any] | None]], as_json: bool) -> None:
    """Print each row as soon as it is there: its text, or what programs read."""
    for text, record in rows:
        if not as_json:
            print(text, flush=True)
        elif record is not None:
            print(json.dumps(record), flush=True)
