"""`fedrec privacy ledger | card | project | device`: what was spent, what is claimed, what a run would cost."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fedrec.cli.grammar import Command, Group, examples
from fedrec.cli.options import Json, Overrides, check_overrides, print_json
from fedrec.errors import FedrecError, suggest

VERIFIED = {True: "verified: the ledger here holds it", False: "not verified: its ledger is not on this machine"}

app = typer.Typer(
    name="privacy",
    cls=Group,
    help="What was spent, what is claimed, and what a run would cost.",
    epilog=examples("fedrec privacy ledger", "fedrec privacy project privacy=user privacy.epsilon=4"),
)


@app.command("ledger", cls=Command, epilog=examples("fedrec privacy ledger", "fedrec privacy ledger --json"))
def ledger(
    population: Annotated[str | None, typer.Argument(metavar="[POPULATION]", help="one population; else all")] = None,
    as_json: Json = False,
) -> None:
    """Say what all runs on the users of each population have spent, verified; status 1 where one was tampered with."""
    from fedrec.privacy.ledger.projection import read_ledgers

    found = read_ledgers(population)
    if as_json:
        print_json([one.json() for one in found])
    else:
        print("\n".join(line for one in found for line in one.lines()) or "no ledger here: nothing was spent")
    if any(one.problem for one in found):
        raise typer.Exit(1)


FORMATS = ("text", "json", "opendp", "nist")


@app.command(
    "card",
    cls=Command,
    epilog=examples("fedrec privacy card runs/ours", "fedrec privacy card runs/ours --format opendp"),
)
def card(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    as_json: Json = False,
    form: Annotated[
        str, typer.Option("--format", help="text, json, opendp (a registry's record) or nist (a checklist)")
    ] = "text",
) -> None:
    """Print the privacy card of a run, checked against its ledger, or what others ask of a deployment."""
    if form not in FORMATS:
        raise FedrecError(f"--format {form} does not exist.{suggest(form, FORMATS)}")
    found, verified = read_card(run)
    from fedrec.report.disclosure import format_nist, format_opendp, nist_checklist, opendp_record
    from fedrec.report.privacy_card import render_card

    name = run.resolve().name
    if as_json or form == "json":
        print_json({**found, "verified": verified})
    elif form == "opendp":
        print(format_opendp(opendp_record(found, read_json(run / "metrics.json"), name)))
    elif form == "nist":
        print(format_nist(nist_checklist(found, name), name))
    else:
        print(f"{render_card(found, name)}- {VERIFIED[verified]}")


def read_card(run: Path) -> tuple[dict[str, Any], bool]:
    """Return the card of a run, and whether the ledger here holds it; one that does not fit its ledger is an error."""
    path = run / "privacy_card.json"
    if not path.exists():
        raise FedrecError(f"{path} does not exist: a run writes its card when it ends; go on with --resume {run}")
    from fedrec.privacy.card import checked, held_here
    from fedrec.report.privacy_card import render_card

    try:
        found = checked(cast(dict[str, Any], json.loads(path.read_text())))
        render_card(found, run.resolve().name)
        return found, held_here(found["ledger"])
    except FedrecError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FedrecError(f"{path} is no privacy card ({type(error).__name__}): it was damaged or edited") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file of a run."""
    try:
        return cast(dict[str, Any], json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise FedrecError(
            f"{path} can't be read ({type(error).__name__}): the folder of a finished run is needed"
        ) from error


@app.command(
    "project",
    cls=Command,
    epilog=examples("fedrec privacy project", "fedrec privacy project model=mf privacy=user privacy.epsilon=4 --json"),
)
def project(overrides: Overrides = None, as_json: Json = False) -> None:
    """Say what a run would have spent, before it starts."""
    given = check_overrides(overrides)
    from fedrec.experiment.automatic import load_chosen
    from fedrec.experiment.experiment import load_dataset
    from fedrec.privacy.ledger.projection import project

    settings = load_chosen(given)
    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    mechanism, plan = experiment.mechanism, experiment.plan(dataset)
    if not mechanism.private:
        raise FedrecError(f"{type(mechanism).__name__} promises nothing: there is no epsilon to project")
    population = settings.find_population(dataset)
    found = project(mechanism, plan, population, settings.document["privacy"].get("population_epsilon"))
    print_json(found.json()) if as_json else print("\n".join(found.lines()))


@app.command("device", cls=Command, epilog=examples("fedrec privacy device", "fedrec privacy device device-1 --json"))
def device(
    where: Annotated[
        Path | None, typer.Argument(metavar="[HOME|LEDGER]", help="a device's folder or ledger [default: FEDREC_HOME]")
    ] = None,
    policy: Annotated[Path | None, typer.Option("--policy", help="its policy.toml [default: the home's]")] = None,
    as_json: Json = False,
) -> None:
    """Say what this device has taken part in, and declined."""
    from fedrec.device.consent.consent import Consent, ConsentPolicy
    from fedrec.device.consent.ledger import format_year

    ledger, rules = device_files(where, policy)
    if not ledger.exists():
        raise FedrecError(f"{ledger} does not exist: a device makes its ledger when it is first asked to train")
    found = Consent(ConsentPolicy.load(rules) if rules else ConsentPolicy(), ledger).status()
    if as_json:
        print_json(found)
        return
    for line in format_year(found) or ["nothing"]:
        print(f"last 365 days: {line}")
    for refusal in found["declined"]:
        print(f"  declined round {refusal['round']}: {refusal['reason']}")


def device_files(where: Path | None, policy: Path | None) -> tuple[Path, Path | None]:
    """Return the ledger of a device and the policy that it is held against, from its home or its ledger's file."""
    from fedrec.device.home import Home

    if where is not None and not where.is_dir():
        return where, policy
    home = Home.at(None if where is None else str(where))
    return home.ledger, policy or (home.policy if home.policy.exists() else None)
