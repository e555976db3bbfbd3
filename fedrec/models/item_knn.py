"""Item-kNN: an item scores by its similarity to the items of the history, its nearest neighbours only."""

from typing import ClassVar

from fedrec.models.ease import Ease


class ItemKnn(Ease):
    """As `Ease`, with similarities [H, H] in the place of regression weights."""

    name: ClassVar[str] = "item_knn"
