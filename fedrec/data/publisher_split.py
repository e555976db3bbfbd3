"""MovieLens 100K's own split: ua.test holds ten ratings of every user, ua.base the others."""

from collections.abc import Callable

import numpy as np

from fedrec.data.archive import Files
from fedrec.data.catalogue import Catalogue
from fedrec.data.devices import DeviceTable
from fedrec.data.interactions import Interactions
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.splits import hold_out, published_rows
from fedrec.errors import FedrecError

PUBLISHER_SPLIT = "publisher: test = ua.test, validation = the last in time of ua.base"
PARTS = ("ua.base", "ua.test")


def publisher_split(files: Files, layout: Layout) -> Callable[[Interactions, Catalogue], DeviceTable]:
    """Return what divides interactions by ua.base and ua.test, which must make them up together."""
    missing = [name for name in PARTS if not files.has(name)]
    if missing:
        message = f"{files.label(missing[0])}: no such file, and dataset.split=publisher needs it"
        raise FedrecError(f"{message}: take GroupLens' own archive, or dataset.split=leave-last-out")

    def divide(interactions: Interactions, catalogue: Catalogue) -> DeviceTable:
        tables = [read_delimited(files.read(name), files.label(name), layout) for name in PARTS]
        base, test = (published_rows(t, t.tokens("user"), t.tokens("item"), interactions, catalogue) for t in tables)
        if not np.array_equal(np.sort(np.concatenate([base, test])), np.arange(len(interactions))):
            raise FedrecError(
                f"{files.label(PARTS[0])}: with ua.test it does not make up u.data: fetch the archive again"
            )
        held = np.zeros(len(interactions), bool)
        held[test] = True
        return hold_out(interactions, held)

    return divide
