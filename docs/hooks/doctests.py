"""Show the examples of docstrings as code: a paragraph that begins with >>> would be read as a quotation."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^[ ]*>>> .*?(?=\n[ ]*\n|\Z)", re.MULTILINE | re.DOTALL)


class Doctests(griffe.Extension):
    """Fences the doctests of everything that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the doctests of one object's docstring."""
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return a docstring with a fence around each of its doctests."""
    return EXAMPLE.sub(lambda found: f"```python\n{found[0]}\n```", text)
