"""Write the list of error messages from the source: every `raise` of one of fedrec's own errors, its text with gaps."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LEAST_LETTERS = 15  # of fixed text; below that, the message is somebody else's passed on
ROOTS = ("FedrecError",)


@dataclass(frozen=True, slots=True)
class ErrorText:
    """One message: the error that carries it, where it is raised, and its text."""

    error: str
    file: str
    text: str


def error_classes(package: Path) -> dict[str, str]:
    """Return the names of `FedrecError` and of everything below it, with the first line of their docstrings."""
    classes = [node for _, tree in _trees(package) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    known = {name: "" for name in ROOTS}
    while True:
        new = {
            node.name: (ast.get_docstring(node) or "").partition("\n")[0]
            for node in classes
            if node.name in ROOTS or any(ast.unparse(base) in known for base in node.bases)
        }
        if new.keys() == known.keys():
            return new
        known = new


def error_texts(package: Path) -> list[ErrorText]:
    """Return every message of the package, in the order of files and lines."""
    known, found = error_classes(package), list[ErrorText]()
    for path, tree in _trees(package):
        calls = [n.exc for n in ast.walk(tree) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)]
        for call in sorted(calls, key=lambda call: call.lineno):
            name = ast.unparse(call.func)
            text = _text(call.args[0]) if name in known and call.args else ""
            if sum(letter.isalpha() for letter in text.replace("…", "")) >= LEAST_LETTERS:
                found.append(ErrorText(name, str(path.relative_to(package.parent)), text))
    return found


def render(package: Path, before: str) -> str:
    """Return the page: what was written by hand, then the classes, then the messages of each room."""
    classes = "\n".join(f"| `{name}` | {line} |" for name, line in error_classes(package).items())
    parts = [before.rstrip(), f"## Classes\n\n| class | what it is |\n|---|---|\n{classes}", "## Every message", GAPS]
    room = ""
    for message in error_texts(package):
        here = message.file.split("/")[1].removesuffix(".py")
        if here != room:
            parts.append(f"### `fedrec.{here}`")
            room = here
        parts.append(f"- {_escaped(message.text)} <small>`{message.file}`</small>")
    return "\n".join(_spaced(parts)) + "\n"


def _trees(package: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(package.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def _text(node: ast.expr) -> str:
    """Return a string expression with … for what is filled in; empty where it is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def _escaped(text: str) -> str:
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in plain)


def _spaced(parts: list[str]) -> Iterator[str]:
    for before, part in zip(["", *parts], parts, strict=False):
        if before and not (before.startswith("- ") and part.startswith("- ")):
            yield ""
        yield part


GAPS = "Made from the source; … stands for what is filled in: a name, a value, a place, or the nearest valid word."
