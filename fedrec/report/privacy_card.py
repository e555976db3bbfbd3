"""The privacy card of a run, with what the run itself knows beside its mechanism, as JSON and as a page."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from fedrec.audit.auditor import NO_AUDIT, Record, code_hash, load_record
from fedrec.privacy.card import Facts, build_card, checked, format_grid
from fedrec.privacy.wording import PARTS, TITLES, format_part
from fedrec.storage.run_folder import RunFolder, atomic_write

if TYPE_CHECKING:
    from fedrec.federated.state import RunContext

SIZES = "numbers of users and interactions are those of the data set as published or counted, assumed public"
SELECTION = "settings were chosen on exact validation figures, if at all: epsilon excludes selection"
BESIDE = (
    "no exact loss, metric, count or id. In a simulation the experimenter holds the data anyway: metrics.json and "
    "exact/ hold exact figures, which epsilon does not cover"
)


def card_of(context: "RunContext") -> dict[str, Any]:
    """Return the privacy card of a run."""
    ledger = cast(Any, context.ledger)  # the loop asks less of a ledger than a card tells
    ledger.check_in_place()
    return build_card(context.experiment.mechanism, context.plan, ledger, facts(context))


def facts(context: "RunContext") -> Facts:
    """Return what the card says of the data, of choices and of the code."""
    by_hand = context.experiment.node()["dataset"].get("population")
    named = () if by_hand is None else (f"that these are the people of {by_hand}: named by hand",)
    catalogue = f"catalogue: {vocabulary(context.dataset.catalogue.origin)}"
    code = (
        f"fedrec {version('fedrec')} (source {code_hash()}), torch {version('torch')}, "
        f"experiment {context.experiment.hash[:16]}"
    )
    record = load_record(context.experiment, context.folder.path)
    audit, said = (record.cited(code_hash()), record.verdict) if record else (NO_AUDIT, "none")
    mechanism, model = context.experiment.mechanism, context.experiment.build_model(context.dataset.catalogue)
    shapes = context.experiment.algorithm.shapes(context.experiment.algorithm.init(model, context.dataset.catalogue))
    return Facts(
        released=BESIDE,
        choices=(catalogue, SIZES, SELECTION, *named),
        audit=audit,
        code=code,
        audit_verdict=said,
        grid=format_grid(mechanism, shapes),
        model=context.folder.model_hash(),
        inputs=tuple(context.folder.read_inputs()) or ("none that was trained on people",),
    )


def write_card(folder: RunFolder, made: dict[str, Any]) -> None:
    """Write the card as privacy_card.json and, for readers, as privacy_card.md."""
    folder.write_json("privacy_card.json", made)
    atomic_write(folder.path / "privacy_card.md", render_card(made, folder.path.name).encode())


def cite_audit(folder: RunFolder, record: Record) -> None:
    """Let the card of a finished run cite an audit that was made after it."""
    made = json.loads((folder.path / "privacy_card.json").read_text())
    if not made["fields"]:
        return
    evidence = made["fields"]["evidence"]
    ran = code_hash() if f"(source {code_hash()})" in evidence["code"] else "unknown"
    evidence |= {"audit": record.cited(ran), "audit_verdict": record.verdict}
    write_card(folder, checked(made))


def sections(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a reader sees of the card's fields: a title each, and (name, text) rows, the name "" in a list.

    The ledger's rounds are counted; they lie in privacy_card.json.
    """
    found = list[dict[str, Any]]()
    for name, title in TITLES.items():
        if parts := card.get("fields", {}).get(name):
            pairs = parts.items() if isinstance(parts, dict) else (("", part) for part in parts)
            rows = [(PARTS.get(key, key.replace("_", " ")), format_part(key, part)) for key, part in pairs]
            found.append({"title": title, "rows": rows})
    if ledger := card.get("ledger"):
        statuses = [row["status"] for row in ledger["rows"]]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("committed", "lost", "reserved"))
        found.append({"title": "Ledger", "rows": [("rounds", counts), ("head", ledger["head"])]})
    return found


def render_card(card: Mapping[str, Any], run: str) -> str:
    """Return the card of a run for a reader, in Markdown: the claim, its eleven fields, and the ledger's rounds."""
    return (
        templates()
        .get_template("privacy_card.md")
        .render(run=run, claim=card["claim"], fields=card["fields"], missing=card["missing"], sections=sections(card))
    )


@cache
def templates() -> Environment:
    """Return the templates of pages; what a run's files say is escaped in every HTML page."""
    found = Environment(
        loader=PackageLoader("fedrec.report", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"sentence": begin_sentence, "unbroken": lambda text: str(text).replace(" %", "\u00a0%")}
    return found


def begin_sentence(text: str) -> str:
    """Return a text with a capital letter; Jinja's own filter lowers the rest."""
    return f"{text[:1].upper()}{text[1:]}"


def vocabulary(origin: str) -> str:
    """Return what the card says of where the list of items comes from."""
    return origin if origin == "item file" else "taken from interactions, assumed public"
