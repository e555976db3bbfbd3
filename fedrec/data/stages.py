"""Who is told how far the reading of a data set is: nobody, unless a command listens."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def telling(listener: Listener) -> Generator[None]:
    """Tell the listener of every stage of what is read inside."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(stage: str, done: int, total: int) -> None:
    """Say how far a stage is."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total)
