"""`fedrec privacy ledger | card | project | device`: what was spent, what is claimed, what a run would cost."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from fedrec.errors import FedrecError, RefusedError

VERIFIED = {True: "verified: the ledger here holds it", False: "not verified: its ledger is not on this machine"}


def parser() -> argparse.ArgumentParser:
    """Return the grammar of the room."""
    root = argparse.ArgumentParser(prog="fedrec privacy", description="What was spent, claimed, and would be.")
    actions = root.add_subparsers(dest="action", required=True)
    ledger = actions.add_parser("ledger", help="what all runs on the users of each population have spent, verified")
    ledger.add_argument("population", nargs="?", help="one population; without it, all")
    card = actions.add_parser("card", help="the privacy card of a run, checked against its ledger")
    card.add_argument("run", help="a run folder")
    project = actions.add_parser("project", help="what a run would have spent, before it starts")
    project.add_argument("overrides", nargs="*", metavar="key=value", help="as for fedrec simulate")
    device = actions.add_parser("device", help="what this device has taken part in, and declined")
    device.add_argument("ledger", help="the file of the device's ledger")
    device.add_argument("--policy", help="its policy.toml")
    for action in (ledger, card, project, device):
        action.add_argument("--json", action="store_true", help="as JSON")
    return root


def run(arguments: Sequence[str]) -> None:
    """Carry out one command; a ledger that was tampered with ends in status 1."""
    options = parser().parse_args(arguments)
    if options.action == "ledger":
        _ledger(options.population, options.json)
    elif options.action == "card":
        _card(Path(options.run), options.json)
    elif options.action == "project":
        _project(options.overrides, options.json)
    else:
        _device(Path(options.ledger), options.policy, options.json)


def _ledger(population: str | None, as_json: bool) -> None:
    from fedrec.privacy.ledger.population import read_ledgers

    found = read_ledgers(population)
    if as_json:
        _print([ledger.json() for ledger in found])
    else:
        print("\n".join(line for ledger in found for line in ledger.lines()) or "no ledger here: nothing was spent")
    if any(ledger.problem for ledger in found):
        sys.exit(1)


def _card(folder: Path, as_json: bool) -> None:
    from fedrec.privacy.card import checked, render_card

    path = folder / "privacy_card.json"
    if not path.exists():
        raise FedrecError(f"{path} does not exist: a run writes its card when it ends; go on with --resume {folder}")
    try:
        found = checked(cast(dict[str, Any], json.loads(path.read_text())))
        text, verified = render_card(found, folder.resolve().name), held_here(found["ledger"])
    except FedrecError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FedrecError(f"{path} is no privacy card ({type(error).__name__}): it was damaged or edited") from error
    print(json.dumps({**found, "verified": verified}, indent=2) if as_json else f"{text}- {VERIFIED[verified]}")


def held_here(told: dict[str, Any]) -> bool:
    """Say whether the ledger of this machine holds what a card tells; False where there is none here.

    Raises `RefusedError` where there is one that does not hold it.
    """
    from fedrec.paths import ledger_path
    from fedrec.privacy.ledger.store import LedgerStore

    path = ledger_path(told["population"])
    if not path.exists():
        return False
    store = LedgerStore(path)
    try:
        for digest in (told["head"], *(row["hash"] for row in told["rows"])):
            if not store.holds(digest):
                raise RefusedError(
                    f"the card does not fit the ledger {path}: it does not hold entry {digest[:12]}...; the card was "
                    "edited, or the ledger is not the one of its run"
                )
    finally:
        store.close()
    return True


def _project(overrides: list[str], as_json: bool) -> None:
    from fedrec.experiment.experiment import load_dataset
    from fedrec.experiment.settings import load
    from fedrec.privacy.ledger.projection import project

    settings = load(overrides)
    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    mechanism, plan = experiment.mechanism, experiment.plan(dataset)
    if not mechanism.private:
        raise FedrecError(f"{type(mechanism).__name__} promises nothing: there is no epsilon to project")
    population = settings.document["dataset"].get("population") or dataset.population
    found = project(mechanism, plan, population, settings.document["privacy"].get("population_epsilon"))
    if as_json:
        _print(found.json())
    else:
        print("\n".join(found.lines()))


def _device(ledger: Path, policy: str | None, as_json: bool) -> None:
    from fedrec.device.consent.consent import Consent
    from fedrec.device.consent.policy import ConsentPolicy

    if not ledger.exists():
        raise FedrecError(f"{ledger} does not exist: a device makes its ledger when it is first asked to train")
    found = Consent(ConsentPolicy.load(Path(policy)) if policy else ConsentPolicy(), ledger).status()
    if as_json:
        _print(found)
        return
    for part in found["spent"] or [None]:
        print(_spent(part, found) if part else "nothing in the last 365 days")
    for refusal in found["declined"]:
        print(f"  declined round {refusal['round']}: {refusal['reason']}")


def _spent(part: dict[str, Any], found: dict[str, Any]) -> str:
    promised = ", partly on the word of a server or gateway that adds the noise" if part["promised"] else ""
    return (
        f"last 365 days, {part['rounds']} rounds: epsilon {part['epsilon']:.2f} of "
        f"{found['largest_epsilon_per_year']:g} (unit {part['unit']}, {part['neighbouring']}, "
        f"delta {found['delta']:.0e}{promised}); an attacker with 1 % false alarms finds at most "
        f"{100 * part['finds_at_most']:.0f} %"
    )


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2))
