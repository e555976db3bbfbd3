"""The head of a catalogue: the most popular items, which is as far as a matrix over pairs of items reaches."""

from fedrec.errors import FedrecError

LARGEST_HEAD = 5000


def check_head(head: int, items: int, bytes_per_pair: float, what: str = "") -> int:
    """Return how many items the head has, at most all of them.

    A request above 5,000 is refused, with the memory that it would take: `bytes_per_pair` for each ordered pair; `what`
    names the request where it is not algorithm.head.
    """
    if not 0 < head <= LARGEST_HEAD:
        memory = head * head * bytes_per_pair / 2**20
        need = f"; {head:,} would take {memory:,.0f} MiB on every device" if head > LARGEST_HEAD else ""
        raise FedrecError(f"{what or f'algorithm.head={head}'}: 1 to {LARGEST_HEAD:,} items expected{need}")
    return min(head, items)


def same_head(head: int, found: int, items: int) -> None:
    """Raise unless a model's head of `found` items is the one that its algorithm was told of."""
    if min(head, items) != found:
        raise FedrecError(f"algorithm.head={head} and model.head={found} differ: leave model.head=${{algorithm.head}}")
