"""What a model starts from that was trained on people: told in the card, or refused before anything is charged.

A model that was trained elsewhere tells of whom it was trained on, whatever noise is added later. If they are the
people of this run, what was spent on them is in the same ledger, so that the total holds it; without a guarantee no
epsilon of this run would be true. If they are others, their own card says what protects them.
"""

import json
from pathlib import Path
from typing import Any, cast

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError, RefusedError
from fedrec.models.base import ModelInput, Recommender
from fedrec.privacy.card import checked, held_here
from fedrec.privacy.wording import format_privacy

CARD = "privacy_card.json"


def tell_inputs(model: Recommender, catalogue: Catalogue, population: str) -> list[str]:
    """Return what the card of a run on this population says of each of a model's inputs.

    Raises `RefusedError` for one with which no epsilon would be true, or of which nobody knows whom it was trained on.
    """
    return [_told(one, population) for one in model.inputs(catalogue)]


def _told(one: ModelInput, population: str) -> str:
    named = f"{one.setting}={one.name} (sha256 {one.sha256})"
    if one.declared:
        return f"{named}, declared public"
    card = read_card(one)
    if card is None:
        raise RefusedError(
            f"{one.setting}={one.name}: no {CARD} lies beside it, so that nobody knows whom it was trained on. Name "
            f"the folder of a finished run; if it is public, {one.setting}_public={one.sha256} declares it so"
        )
    told, same = card["ledger"], card["ledger"]["population"] == population
    if card["fields"] and not card["missing"]:
        if not same:
            return f"{named}, trained on other people ({told['population']}) under {format_privacy(card['privacy'])}"
        if not held_here(told):
            raise RefusedError(
                f"{one.setting}={one.name} was trained on these people, and the ledger of what it spent is not here: "
                "set FEDREC_STATE to where that run was charged"
            )
        return f"{named}, trained on these people under {format_privacy(card['privacy'])}: the total holds it"
    if same:
        raise RefusedError(
            f"{one.setting}={one.name} was trained on these people without a guarantee: no epsilon of a model that "
            "starts from it would be true. Train it with privacy, or on other people"
        )
    return f"{named}, trained on other people ({told['population']}) without a guarantee: nothing here protects them"


def read_card(one: ModelInput) -> dict[str, Any] | None:
    """Return the card of the run that made an input, None where there is none; one of another model is refused."""
    path = (one.file or Path()).parent / CARD
    if one.file is None or not path.exists():
        return None
    try:
        card = checked(cast(dict[str, Any], json.loads(path.read_text())))
        evidence = card["fields"].get("evidence", {})
        made = str(evidence.get("model", one.sha256)).removeprefix("sha256 ")
        _ = card["ledger"]["population"], card["privacy"]["epsilon"], card["ledger"]["rows"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FedrecError(f"{path} is no privacy card ({type(error).__name__}): it was damaged or edited") from error
    if made != one.sha256:
        raise RefusedError(
            f"{one.setting}={one.name}: {path} tells of another model (sha256 {made[:16]}...): one of the two was "
            "replaced. Put back the run's own"
        )
    return card
