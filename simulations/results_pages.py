"""Writes the tables of docs/results from results/*.json, so that a page and its numbers cannot disagree.

    python -m simulations.results_pages            # writes the tables anew
    python -m simulations.results_pages --check    # says which pages are not as the JSON has them; exit status 1

A page holds `<!-- results: FILE/TABLE -->` and `<!-- /results -->`; what stands between them is made here: the command,
the table, and where and when it was measured. A cell of a table is text, or numbers with a meaning: `value`; `users`, a
95 % interval over users; `seeds`, half the 95 % interval over seeds; `seed_deviation`, the deviation over seeds;
`values`, two figures side by side.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS, PAGES = ROOT / "results", ROOT / "docs" / "results"
BLOCK = re.compile(r"(<!-- results: (\w+)/(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def format_number(value: float, digits: int, signed: bool = False) -> str:
    """Return a number with so many decimals, with its sign where that matters."""
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def format_cell(cell: str | dict[str, Any], digits: int) -> str:
    """Return a cell as text; `digits` is what its table has where the cell says nothing else."""
    if isinstance(cell, str):
        return cell
    if "values" in cell:
        return " / ".join(format_number(v, d) for v, d in zip(cell["values"], cell["digits"], strict=True))
    digits, signed = cell.get("digits", digits), cell.get("signed", False)
    text = format_number(cell["value"], digits, signed)
    text = f"**{text}**" if cell.get("mark") == "bold" else text
    if "users" in cell:
        low, high = (format_number(v, digits, signed) for v in cell["users"])
        over_seeds = f"; {format_number(cell['seed_deviation'], digits)}" if "seed_deviation" in cell else ""
        text += f" ({low} to {high}{over_seeds})"
    return text + (f" +- {format_number(cell['seeds'], digits)}" if "seeds" in cell else "")


def format_table(table: dict[str, Any]) -> str:
    """Return the rows under their columns, as Markdown."""
    rows = [[format_cell(cell, table["digits"]) for cell in row] for row in table["rows"]]
    lines = [table["columns"], ["---"] * len(table["columns"]), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_block(file: str, name: str) -> str:
    """Return what a page shows of one table: its command, itself, and commit, date and machine."""
    document = json.loads((RESULTS / f"{file}.json").read_text())
    table = document["tables"][name]
    command = "```sh\n" + "\n".join(table["commands"]) + "\n```\n\n" if table["commands"] else ""
    recorded = ", ".join(f"`{entry['commit']}` ({entry['date']})" for entry in table["recorded"])
    machine = table.get("machine", document["machine"])
    return (
        f"\n{command}{format_table(table)}\n\n*Recorded in {recorded}; {machine}. `results/{file}.json`: `{name}`.*\n\n"
    )


def render(page: str) -> str:
    """Return a page with every block made anew."""
    return BLOCK.sub(lambda found: found[1] + format_block(found[2], found[3]) + found[4], page)


def main() -> None:
    """Write the pages, or with --check name those that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    stale = {
        path: made for path in sorted(PAGES.glob("*.md")) if (made := render(path.read_text())) != path.read_text()
    }
    for path, made in stale.items():
        print(f"{path.relative_to(ROOT)}: {'differs from results/*.json' if options.check else 'written'}")
        if not options.check:
            path.write_text(made)
    if not stale:
        print("every page agrees with results/*.json")
    raise SystemExit(int(bool(stale) and options.check))


if __name__ == "__main__":
    main()
