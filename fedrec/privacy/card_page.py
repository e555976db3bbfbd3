"""A privacy card as a page of Markdown."""

from typing import Any, cast

from fedrec.privacy.wording import TITLES


def page(card: dict[str, Any], run: str) -> str:
    """Return the card of a run for a reader: the claim first, then its eleven fields, then the ledger's rounds."""
    lines = [f"# Privacy card of {run}", "", f"**{card['claim']}**", ""]
    if card["missing"] and card["fields"]:
        lines += [f"Missing, so that nothing is claimed: {', '.join(card['missing'])}.", ""]
    if not card["fields"]:
        lines += ["This run has no finite epsilon: nothing bounds what its results tell of a person.", ""]
    for name, title in TITLES.items():
        if card["fields"].get(name):
            lines += [f"## {title}", "", *_lines(card["fields"][name]), ""]
    return "\n".join([*lines, *_ledger(card["ledger"])]) + "\n"


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"- {name.replace('_', ' ')}: {_text(part)}" for name, part in cast(dict[str, Any], value).items()]
    return [f"- {_text(part)}" for part in cast(list[Any], value)]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in cast(dict[str, Any], value).items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ledger(ledger: dict[str, Any]) -> list[str]:
    statuses = [row["status"] for row in ledger["rows"]]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("committed", "lost", "reserved"))
    return ["## Ledger", "", f"- rounds: {counts}", f"- head: `{ledger['head']}`"]
