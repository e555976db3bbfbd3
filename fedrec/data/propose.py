"""Which column plays which part, where nobody says so: by what columns are called elsewhere, and by what they hold.

Only the first rows are looked at. Of two columns that fit as well as each other, none is taken: it is for the user to
say.
"""

import csv
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from fedrec.data.io.databases import is_url, only_table, read_sqlite, read_url, read_workbook
from fedrec.data.io.delimited import SEPARATOR_NAMES, find_separator, first_lines, first_record, is_data
from fedrec.data.io.files import FileOptions, find_file
from fedrec.data.io.json_files import first_objects
from fedrec.data.io.parquet import first_batch, parts_of
from fedrec.data.io.text import codec_of, records
from fedrec.data.io.unpack import Source, open_source
from fedrec.errors import FedrecError

ROWS = 200  # that are looked at
WIDE = 8  # columns of numbers, from which on they may be the items
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
    "user": re.compile(rf"(?:{USER})s?(?P<id>{ID})?|id(?:{USER})|uid"),
    "item": re.compile(rf"(?:{ITEM})s?(?P<id>{ID})?|id(?:{ITEM})|iid|pid"),
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
    if options.layout != "rows":
        return {}
    try:
        return _head(path, options)
    except (FedrecError, csv.Error):  # it is read anew, and what is wrong is said then
        return {}


def _head(path: str, options: FileOptions) -> Head:
    if is_url(path):
        return shown(read_url(path, options.query, ROWS).columns) if options.query else {}
    place = find_file(path)
    if place.is_dir():
        batches = (first_batch(part, "Parquet", ROWS) for part in parts_of(place))
        return next((of_batch(batch) for batch in batches if batch is not None), {})
    source = open_source(place)
    if source.kind == "Excel":
        return shown(read_workbook(place, ROWS).columns)
    if source.kind == "SQLite":
        return shown(read_sqlite(place, options.query, ROWS).columns) if options.query else {}
    if source.kind in ("Parquet", "Arrow", "Arrow stream") and not source.packed:
        batch = first_batch(place, source.kind, ROWS)
        return {} if batch is None else of_batch(batch)
    if source.kind == "JSON":
        rows = first_objects(source, options.encoding or "utf-8", ROWS)
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [str(row[name]) for row in rows if row.get(name) is not None] for name in names}
    return _of_text(source, options) if source.kind == "text" else {}


def _of_text(source: Source, options: FileOptions) -> Head:
    first = [fields for _, _, fields in islice(records(source, options.text_layout()), ROWS)]
    first = [fields for fields in first if any(fields)]
    named = str(options.header).lower() != "false"
    if len(first) < 2 or (named and (is_data(first[0]) or len(set(first[0])) < len(first[0]))):
        return {}
    names = [field.strip() for field in first[0]] if named else [str(place) for place in range(len(first[0]))]
    rows = [fields for fields in first[named:] if len(fields) == len(names)]
    return {name: [fields[place] for fields in rows] for place, name in enumerate(names)}


def of_batch(batch: Any) -> Head:
    """Return the columns of a batch of Arrow as text."""
    return shown({name: batch[name] for name in batch.schema.names})


def shown(columns: Mapping[str, Any]) -> Head:
    """Return the first values of columns as text; of moments that Python has no room for, none."""
    found = dict[str, Sequence[str]]()
    for name, column in columns.items():
        try:
            found[str(name)] = [str(value) for value in column.slice(0, ROWS).to_pylist() if value is not None]
        except (ValueError, OverflowError, UnicodeError):
            found[str(name)] = []
    return found


def found_settings(path: str, options: FileOptions, named: bool = False) -> dict[str, str]:
    """Return what else of a file is told by its first bytes, as settings and their values.

    The one table of a database; a text's separator, that it lists the items of a user on each line, and that no line
    names its columns. `named` says that columns were asked for by name.
    """
    if is_url(path) or options.layout != "rows" or (place := find_file(path)).is_dir():
        return {}
    source = open_source(place)
    if source.kind == "SQLite" and not options.query and (table := only_table(place)) is not None:
        return {"query": f'select * from "{table}"'}
    if source.kind != "text":
        return {}
    try:
        layout = replace(options.text_layout(), encoding=codec_of(source, options.encoding or "utf-8"))
        skip = options.skip or count_remarks(first_lines(source, layout))
        layout = replace(layout, skip=skip)
        lines = first_lines(source, layout)
        found = {} if skip == options.skip else {"skip": str(skip)}
        found |= {} if options.separator else find_separator(lines, layout)
        separator = SEPARATOR_NAMES[found["separator"]] if "separator" in found else layout.separator
        if options.header != "auto" or named or found.get("layout"):
            return found
        _, _, first = first_record(source, replace(layout, separator=separator))
    except FedrecError:
        return {}
    below = [line.split(separator) for line in lines[1:]]
    again = any(
        field in {row[place] for row in below if place < len(row)} for place, field in enumerate(first) if field.strip()
    )
    return found | ({"header": "false"} if len(first) > 1 and (again or is_data(first)) else {})


def count_remarks(lines: Sequence[str]) -> int:
    """Return how many of the first lines are remarks, or say to Excel how the others are separated."""
    return next((n for n, line in enumerate(lines) if not re.match(r"\s*(#|//|sep=)", line)), 0)


def decimal_commas(head: Head) -> bool:
    """Say whether a column holds numbers with a decimal comma, as 4,5."""
    return any(
        any("," in value for value in values) and all(re.fullmatch(r"\s*-?\d+(,\d+)?\s*", value) for value in values)
        for values in head.values()
    )


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


def ask(path: str, head: Head, proposal: Proposal, found: Sequence[str] = ()) -> FedrecError:
    """Return the question which columns play the parts that nothing tells, with a line to paste.

    `found` are the settings that the file's first bytes tell.
    """
    either = [f"the {part} ({' or '.join(some)}?)" if some else f"the {part}" for part, some in proposal.unsure.items()]
    shown = (f"{name} ({', '.join(list(dict.fromkeys(values))[:SHOWN])}, ...)" for name, values in head.items())
    told = f" Understood: {proposal.told()}." if proposal.columns else ""
    numeric = sum(are_numbers([value for value in values if value]) for values in head.values())
    if "item" in proposal.unsure and WIDE <= numeric >= len(head) - 1:
        told += " Perhaps each row is a user and each column an item: dataset.layout=matrix."
    settings = [f"dataset.columns.{part}={some[0] if some else 'COLUMN'}" for part, some in proposal.unsure.items()]
    line = shlex.join(["fedrec", "data", "check", path, *found, *settings])
    return FedrecError(
        f"{path}: which columns hold {' and '.join(either)}? Columns: {', '.join(shown)}.{told} Say so: {line}"
    )
