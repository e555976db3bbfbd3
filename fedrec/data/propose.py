"""Which column plays which part, where nobody says so: by what columns are called elsewhere, and by what they hold.

Only the first rows are looked at. Of two columns that fit as well as each other, none is taken: it is for the user to
say.
"""

import csv
import json
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from pyarrow import parquet

from fedrec.data.io.databases import is_url
from fedrec.data.io.delimited import is_data
from fedrec.data.io.files import FileOptions, find_file
from fedrec.data.io.text import lines_of, records
from fedrec.data.io.unpack import Source, open_source
from fedrec.errors import FedrecError

ROWS = 200  # that are looked at
SHOWN = 3  # values of a column that a question shows
PARTS = ("user", "item", "time", "value")
USER = (
    "user|usr|customer|cust|client|member|visitor|account|reader|listener|reviewer|rater|buyer|shopper|household|viewer|"
    "subscriber|consumer|person|player|student|profile|kunden?|nutzer|benutzer|mitglied|mitglieds|utilisateur|acheteur|"
    "membre|usuario|cliente"
)
ITEM = (
    "item|product|prod|sku|stock|article|artikel|produkt|produit|producto|movie|film|track|song|book|buch|livre|asin|"
    "parentasin|isbn|game|spiel|jeu|artist|video|course|recipe|place|venue|poi|location|business|hotel|restaurant|app|"
    "post|news|anime|content|media|show|episode|url|page|document|doc|paper"
)
ID = "id|no|nr|num|number|nummer|numero|code|key|uuid|guid|hash|idx"
NAMES = {
    "user": re.compile(rf"(?:{USER})(?P<id>{ID})?|id(?:{USER})|uid"),
    "item": re.compile(rf"(?:{ITEM})(?P<id>{ID})?|id(?:{ITEM})|iid|pid"),
    "time": re.compile(
        r".*(timestamp|datetime|date|time|datum|zeit|zeitpunkt|zeitstempel|horodatage|heure|fecha|edat|boughtat)|ts|when"
    ),
    "value": re.compile(r"(rating|score|stars?|overall|bewertung|note|puntuacion|calificacion)s?"),
}  # fmt: skip
OTHER_TIMES = re.compile(r"release|birth|born|signup|register|registration|expir|publish|launch|format|state|category")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Which column would play which part and why; `unsure` are parts that several columns could play, or none."""

    columns: Mapping[str, str | None]
    why: Mapping[str, str]
    unsure: Mapping[str, Sequence[str]]

    def told(self) -> str:
        """Return the proposal in words."""
        return ", ".join(f"{part} = {column or 'none'} ({self.why[part]})" for part, column in self.columns.items())


Head = Mapping[str, Sequence[str]]


def read_head(path: str, options: FileOptions) -> Head:
    """Return the first values of each column as text; nothing where the names of columns can't be told so early."""
    if is_url(path) or options.layout != "rows" or str(options.header).lower() == "false":
        return {}
    place = find_file(path)
    if place.is_dir():
        return next((found for one in sorted(place.rglob("*.parquet")) if (found := _of_parquet(one))), {})
    source = open_source(place)
    if source.kind == "Parquet" and not source.packed:
        return _of_parquet(place)
    if source.kind == "JSON":
        return _of_json(source, options)
    if source.kind != "text":
        return {}
    try:
        first = [fields for _, _, fields in islice(records(source, options.text_layout()), ROWS)]
    except csv.Error:
        return {}
    first = [fields for fields in first if any(fields)]
    if len(first) < 2 or is_data(first[0]) or len(set(first[0])) < len(first[0]):
        return {}
    rows = [fields for fields in first[1:] if len(fields) == len(first[0])]
    return {name.strip(): [fields[place] for fields in rows] for place, name in enumerate(first[0])}


def _of_json(source: Source, options: FileOptions) -> Head:
    """Return the same of JSON lines; a list of objects is read as a whole or not at all."""
    try:
        found = [
            json.loads(line) for line in islice(lines_of(source, options.encoding or "utf-8"), ROWS) if line.strip()
        ]
    except ValueError:
        return {}
    rows = [cast("dict[str, Any]", row) for row in found if isinstance(row, dict)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [str(row[name]) for row in rows if row.get(name) is not None] for name in names}


def _of_parquet(path: Path) -> Head:
    try:
        batch = next(parquet.ParquetFile(path).iter_batches(ROWS), None)
    except (pa.ArrowException, OSError):
        return {}
    if batch is None:
        return {}
    return {name: [str(value) for value in batch[name].to_pylist() if value is not None] for name in batch.schema.names}


def propose(head: Head, given: Mapping[str, str | None]) -> Proposal:
    """Return which column of a file plays each part that is not given; parts called as fedrec calls them stay."""
    columns, why, unsure = dict[str, str | None](), dict[str, str](), dict[str, Sequence[str]]()
    for part in PARTS:
        if part in given or (part in head and part != "value"):
            continue
        taken = {*given.values(), *columns.values(), *(one for one in PARTS if one in head and one not in given)}
        scores = {name: rank(part, name, values) for name, values in head.items() if name not in taken}
        best = max(scores.values(), default=0)
        found = [name for name, score in scores.items() if score == best and best > 0]
        if len(found) == 1:
            columns[part], why[part] = found[0], "by its name" if best > 1 else "its values are times"
        elif part == "time" and not found:
            columns[part], why[part] = None, "no column holds times: the order of rows counts"
        elif part != "value":
            unsure[part] = found
    return Proposal(columns, why, unsure)


def rank(part: str, name: str, values: Sequence[str]) -> int:
    """Return how well a column fits a part: 0 not at all, 1 by its values alone, from 2 on by its name."""
    plain = plain_name(name)
    found = NAMES[part].fullmatch(plain)
    if part == "time":
        moments = are_moments(values)
        if found is None or OTHER_TIMES.search(plain):
            return 1 if moments and found is None else 0
        return 3 + moments if moments or are_numbers(values) else 2
    if found is None or (part == "value" and not are_numbers(values)):
        return 0
    return 3 if part == "value" or found["id"] or len(found[0]) < 4 or found[0].startswith("id") else 2


def plain_name(name: str) -> str:
    """Return the name of a column in small letters of the alphabet, without type or path: product/userId:token."""
    last = re.split(r"[/.]", name.partition(":")[0])[-1]
    bare = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[\W_]", "", bare)


def are_numbers(values: Sequence[str]) -> bool:
    """Say whether values are finite numbers, all of them."""
    return bool(values) and all(re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)\s*", value) for value in values)


def are_moments(values: Sequence[str]) -> bool:
    """Say whether values are dates in ISO 8601, or numbers that are unix time of the years since 1973."""
    if are_numbers(values):
        return all(1e8 <= abs(float(value)) < 2e18 for value in values)
    try:
        return bool(values) and all(len(value) > 7 and datetime.fromisoformat(value.strip()) for value in values)
    except ValueError:
        return False


def ask(path: str, head: Head, proposal: Proposal) -> FedrecError:
    """Return the question which columns play the parts that nothing tells, with a line to paste."""
    either = [
        f"the {part} ({' or '.join(found)}?)" if found else f"the {part}" for part, found in proposal.unsure.items()
    ]
    shown = (f"{name} ({', '.join(list(dict.fromkeys(values))[:SHOWN])}, ...)" for name, values in head.items())
    told = f" Understood: {proposal.told()}." if proposal.columns else ""
    settings = [f"dataset.columns.{part}={found[0] if found else 'COLUMN'}" for part, found in proposal.unsure.items()]
    line = shlex.join(["fedrec", "data", "check", path, *settings])
    return FedrecError(
        f"{path}: which columns hold {' and '.join(either)}? Columns: {', '.join(shown)}.{told} Say so: {line}"
    )
