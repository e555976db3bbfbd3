"""What a user can do wrong, said so that it can be put right."""

from collections.abc import Iterable
from difflib import get_close_matches


class FedrecError(ValueError):
    """An error that a user can cause and mend: its text says what was wrong, where, and what would be right."""


class RefusedError(FedrecError):
    """A combination or a spending that fedrec will not carry out because nothing would stand behind its claim."""


class OverLimitError(RefusedError):
    """A request that would take more of a device than its person lets it take; its text is for that person."""


class BudgetExceededError(RefusedError):
    """A round that would pass a budget, or find no device that may still take part."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known word nearest to `word`, else the list of what is known."""
    known = sorted(known)
    match = get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else f" Known: {', '.join(known)}."
