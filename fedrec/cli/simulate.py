"""`fedrec simulate`, `fedrec config` and `fedrec ray`: what composes settings and runs them on this machine."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.cli.grammar import Command, examples
from fedrec.cli.options import Json, Overrides, check_output, check_overrides, going_on, print_json, reading_shown
from fedrec.errors import FedrecError

if TYPE_CHECKING:
    from fedrec.experiment.settings import Settings
    from fedrec.storage.run_folder import RunFolder

PANEL = "Experiments"
END_OF_DOCUMENT = "...\n"  # what yaml puts behind a bare value
Resume = Annotated[str | None, typer.Option("--resume", metavar="RUN", help="go on with the run in this folder")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for name, command, lines in (
        (
            "simulate",
            simulate_command,
            ("fedrec simulate", "fedrec simulate model=ease privacy=user privacy.epsilon=4"),
        ),
        ("config", config_command, ("fedrec config", "fedrec config model=mf privacy=user --json")),
        ("ray", ray_command, ("fedrec ray rounds=3", "fedrec ray model=mf --nodes 4 --cluster 10.0.0.1:6379")),
    ):
        app.command(name, cls=Command, epilog=examples(*lines), rich_help_panel=PANEL)(command)


def simulate_command(
    overrides: Overrides = None,
    resume: Resume = None,
    as_json: Annotated[bool, typer.Option("--json", help="print metrics.json instead of the table")] = False,
) -> None:
    """Train and evaluate on this machine: one run, its baselines, its verdict."""
    simulate(check_overrides(overrides), resume, as_json)


def simulate(overrides: Sequence[str], resume: str | None = None, json_only: bool = False) -> None:
    """Run or resume a simulation on the in-process grid; print the verdict, the table and where the run lies."""
    if resume is not None and overrides:
        raise FedrecError(f"--resume {resume} goes on with the run's own settings: leave out {' '.join(overrides)}")
    if resume is None:
        check_output(overrides)
    elif not Path(resume, "config.yaml").exists():
        raise FedrecError(f"{Path(resume, 'config.yaml')} does not exist: --resume takes the folder of a run")
    settings, folder = begun(overrides, resume)
    from fedrec.device.client_app import make_client_app
    from fedrec.flower.transport import FlowerTransport, InProcessGrid
    from fedrec.report.console import Progress, result
    from fedrec.simulation import Simulation

    client, nodes, progress = make_client_app(), settings.document["nodes"], Progress()
    command = f"fedrec simulate --resume {folder.path}"
    progress.note(f"Run folder: {folder.path}  (Ctrl-C stops; {command} goes on)")
    try:
        with going_on(folder.path, command):
            simulation = Simulation(settings, folder, lambda: FlowerTransport(InProcessGrid(client, nodes)), progress)
            values = simulation.simulate()
    finally:
        progress.close()
    if json_only:
        print_json(values)
    else:
        print(result(values, folder.path, sys.stdout))


def begun(overrides: Sequence[str], resume: str | None) -> "tuple[Settings, RunFolder]":
    """Return the settings and the folder of a new run, made, or of the one to go on with.

    What is set and then not used is told before anything is made.
    """
    from fedrec.experiment.automatic import load_chosen
    from fedrec.experiment.overrides import find_overruled
    from fedrec.experiment.settings import validate

    with reading_shown():  # a mistake in settings is told before torch is imported
        asked = load_chosen(overrides) if resume is None else None
    from fedrec.simulation import new_run, resumed_run

    if asked is None:
        return resumed_run(str(resume))
    if asked.chosen:
        print(asked.chosen, file=sys.stderr)
    with reading_shown():
        settings = validate(asked)
    for line in find_overruled(settings.experiment, overrides):
        print(line, file=sys.stderr)
    return new_run(settings)


def config_command(overrides: Overrides = None, as_json: Json = False) -> None:
    """Print the settings that a run would have, and where each value comes from."""
    given = check_overrides(overrides)
    from fedrec.experiment.automatic import with_choice
    from fedrec.experiment.extensions import search_path, split_overrides
    from fedrec.experiment.overrides import Conf, items

    found = settled(given)
    document, (settings, extensions) = found.document, split_overrides(given)
    if found.chosen:
        settings = with_choice(settings, found.chosen)
    with search_path(settings, extensions) as folders:
        origins = Conf.of(*folders).origins(settings)
    if as_json:
        keys = [key for key, value in items(document) if not (isinstance(value, dict) and value)]
        print_json({"settings": document, "origins": {key: origin(key, origins) for key in keys}})
    else:
        print("\n".join(annotated(document, origins)))


def settled(overrides: Sequence[str]) -> "Settings":
    """Return the settings that a run would have, and say so where its model waits for data that are not there."""
    from fedrec.experiment.automatic import asks_for_choice, load_chosen
    from fedrec.experiment.settings import load

    try:
        found = load_chosen(overrides)
    except FedrecError as error:
        if not asks_for_choice(overrides):
            raise
        try:
            found = load(overrides)
        except FedrecError:
            raise error from None
        print(f"model=auto is chosen when the data are there: {error}", file=sys.stderr)
    if found.chosen:
        print(found.chosen, file=sys.stderr)
    return found


def annotated(document: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    """Return the settings as YAML, each value with where it comes from as a comment."""
    import yaml

    from fedrec.experiment.overrides import items

    rows = list[tuple[str, str]]()
    for key, value in items(document):
        name = "  " * key.count(".") + key.rpartition(".")[2]
        if isinstance(value, dict) and value:
            rows.append((f"{name}:", ""))
        else:
            text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1_000_000)
            rows.append((f"{name}: {text.removesuffix(END_OF_DOCUMENT).strip()}", origin(key, origins)))
    width = min(48, max(len(text) for text, where in rows if where))
    return [f"{text:<{width}}  # {where}" if where else text for text, where in rows]


def origin(key: str, origins: Mapping[str, str]) -> str:
    """Return where a value comes from; one inside of what an override sets as a whole comes from that."""
    while key not in origins and "." in key:
        key = key.rpartition(".")[0]
    return origins.get(key, "")


def ray_command(
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, metavar="N", help="shards, one Ray actor each")] = 2,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="ADDRESS", help="a Ray cluster that runs, e.g. 10.0.0.1:6379")
    ] = None,
) -> None:
    """Train as simulate does, by Flower on Ray: on this machine's cores, or on a cluster."""
    given = check_overrides(overrides)
    check_output(given)
    from fedrec.flower.ray import run_on_ray

    raise typer.Exit(run_on_ray(given, nodes, cluster))
