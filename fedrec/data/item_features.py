"""Public item features as unit vectors: what items have in common without asking who used them."""

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError


def _unit_rows(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows scaled to length one; a row of zeros stays zero."""
    return block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)


def bumps(column: NDArray[np.float32], centres: int) -> NDArray[np.float64]:
    """Return Gaussian bumps [V, centres] over the range of one column: near values get near vectors."""
    low, high = float(column.min()), float(column.max())
    place = (column - low) / max(high - low, 1e-12)
    spacing = 1 / max(centres - 1, 1)
    return np.exp(-0.5 * ((place[:, None] - np.linspace(0, 1, centres)) / (0.75 * spacing)) ** 2)


def feature_blocks(catalogue: Catalogue, centres: int) -> list[NDArray[np.float64]]:
    """Return what the item file says in blocks of unit rows [V, f], of whatever widths.

    Columns named "group:value" form one block for each group; every other column is a number and becomes a block of
    `centres` bumps over its range.
    """
    blocks: dict[str, list[NDArray[np.float32]]] = {}
    for column, name in zip(catalogue.features.T, catalogue.feature_names, strict=True):
        blocks.setdefault(name.split(":")[0] if ":" in name else f"{name} (number)", []).append(column)
    return [
        _unit_rows(
            bumps(columns[0], centres) if name.endswith(" (number)") else np.stack(columns, axis=1).astype(float)
        )
        for name, columns in blocks.items()
    ]


def feature_vectors(catalogue: Catalogue, centres: int) -> NDArray[np.float32]:
    """Return one unit vector for each item [V, F]: its blocks side by side.

    Each block has length one, so that groups weigh the same whatever their width.
    """
    parts = feature_blocks(catalogue, centres)
    if not parts:
        raise FedrecError("this data set has no public item features, and this model needs some: take another model=")
    return _unit_rows(np.concatenate(parts, axis=1)).astype(np.float32)
