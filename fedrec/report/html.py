"""report.html: one page of a finished run, complete in itself, which asks for nothing from outside."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from fedrec.privacy.wording import format_epsilon, format_privacy
from fedrec.report.console import TITLES, verdict
from fedrec.report.svg import Dot, dots, lines
from fedrec.storage.run_folder import RunFolder

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser itself refuses any request
PICTURES = {
    "validation": "validation NDCG@10, full ranking",
    "loss": "mean training loss",
    "epsilon": "epsilon spent so far",
}


def write_page(folder: RunFolder) -> None:
    """Write the page from metrics.json, privacy_card.json and the public lines of rounds.jsonl."""
    read = {name: json.loads((folder.path / name).read_text()) for name in ("metrics.json", "privacy_card.json")}
    played = [json.loads(line) for line in (folder.path / "rounds.jsonl").read_text().splitlines()]
    text = page(folder.path.name, read["metrics.json"], read["privacy_card.json"], played)
    (folder.path / "report.html").write_text(text, encoding="utf-8")


def page(name: str, values: Mapping[str, Any], card: Mapping[str, Any], played: Sequence[Mapping[str, Any]]) -> str:
    """Return the page: verdict, table, what each round did, the privacy card, and how to make it again."""
    style = (files("fedrec.report") / "page.css").read_text(encoding="utf-8")
    sections = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="verdict">{escape(verdict(values))}</p>',
        f"<h2>Accuracy on the test</h2>{compared(values)}{table(values)}{notes(values)}",
        f"<h2>Round by round</h2>{rounds(played, values['privacy']['unit'] != 'none')}",
        f"<h2>Privacy card</h2>{described(card)}",
        f"<h2>How it was made</h2>{described(made(values))}",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>fedrec: {escape(name)}</title><style>{style}</style></head>\n<body><main>"
        + "\n".join(f"<section>{section}</section>" for section in sections)
        + "</main></body></html>\n"
    )


def methods(values: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the run and its baselines, each with its name."""
    unit = values["privacy"]["unit"]
    ours = values["model"] + (
        "" if unit == "none" else f", {format_epsilon(values['privacy']['epsilon'])} ({unit} level)"
    )
    return [
        (ours, values["test"]),
        *((str(TITLES.get(name, name)), found) for name, found in values["baselines"].items() if found),
    ]


def compared(values: Mapping[str, Any]) -> str:
    """Return a picture of NDCG@10 by method with its intervals."""
    rows = [
        Dot(name, found["full"]["ndcg@10"], *found["full"]["ndcg@10_ci"], ours=number == 0)
        for number, (name, found) in enumerate(methods(values))
        if found["full"]["ndcg@10"] is not None
    ]
    return dots(rows, "NDCG@10, full ranking, 95 % over users") if rows else "<p>No user had anything held out.</p>"


def table(values: Mapping[str, Any]) -> str:
    """Return the table of methods, full ranking first."""
    negatives = values["test"]["sampled"]["negatives"]
    head = ["", "HR@10", "NDCG@10", "95 % over users", "coverage@10", f"HR@10, {negatives} sampled", "NDCG@10, sampled"]
    body = []
    for name, found in methods(values):
        full, sampled = found["full"], found["sampled"]
        interval = "" if full["ndcg@10_ci"] is None else "{:.4f} to {:.4f}".format(*full["ndcg@10_ci"])
        numbers = (full["hr@10"], full["ndcg@10"], interval, full["coverage@10"], sampled["hr@10"], sampled["ndcg@10"])
        cells = "".join(f"<td>{shown(number)}</td>" for number in numbers)
        body.append(f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>")
    header = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def notes(values: Mapping[str, Any]) -> str:
    """Return what must stand beside the figures."""
    said = [f"Figures: {values['release']}.", values["sampled_caution"]]
    if (excluded := values["test"]["excluded"]) > 0:
        said.append(f"{excluded:,} users had nothing held out and are left out.")
    if "selection" in values["privacy"]:
        said.append(f"Epsilon {values['privacy']['selection']}.")
    return f'<p class="note">{escape(" ".join(said))}</p>'


def rounds(played: Sequence[Mapping[str, Any]], private: bool) -> str:
    """Return a picture for each figure that rounds.jsonl holds."""
    drawn = list[str]()
    for field, title in PICTURES.items():
        points = [(float(line["round"]), float(line[field])) for line in played if line.get(field) is not None]
        if points:
            drawn.append(f"<figure><figcaption>{escape(title)}</figcaption>{lines(points, 'round', title)}</figure>")
    hidden = (
        "<p class=note>Loss and validation of each round are exact: they lie in exact/, for the owner of the run.</p>"
    )
    return "".join(drawn) + (hidden if private else "")


def made(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run was made of."""
    chosen = ("model", "algorithm", "mechanism", "engine", "rounds", "seed", "refit", "candidates")
    return {
        "guarantee": format_privacy(values["privacy"]),
        **{key: values[key] for key in chosen if key in values},
        "data set": values["dataset"],
        "seconds": {key: round(value, 1) for key, value in values["seconds"].items()},
        "again": "the settings are in config.yaml beside this page; sampled candidates are known by their hash above",
    }


def described(node: Mapping[str, Any]) -> str:
    """Return a mapping as a list of terms; the ledger's rows are counted, and left to the JSON file."""
    parts = list[str]()
    for key, value in node.items():
        if key == "rows":
            parts.append(f"<dt>entries</dt><dd>{len(value):,}, all in privacy_card.json</dd>")
            continue
        inner = described(value) if isinstance(value, dict) else escape(listed(value))
        parts.append(f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{inner}</dd>")
    return f"<dl>{''.join(parts)}</dl>"


def listed(value: Any) -> str:
    """Return a plain value in words."""
    if isinstance(value, list):
        return "; ".join(listed(one) for one in value) if value else "none"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def shown(number: Any) -> str:
    """Return a table's cell."""
    return "" if number is None else f"{number:.4f}" if isinstance(number, float) else escape(str(number))
