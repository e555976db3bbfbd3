"""PFedRec: a shared item table and a score function of each device's own.

Zhang et al., "Dual personalization on federated recommendation", 2023. There, a device also ranks by its own copy of
the item table, trained on its history and on negatives drawn for it. For items that it never used, that copy differs
from the shared table by how often each came up as a negative: chance, where negatives are drawn from all items but
those of the training history, and the answer, where they avoid held-out items too (`simulations/published.py` measures
both). So this model ranks by the shared table. Shapes: d dimensions, V items.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import TrainableRecommender, check_sizes, get_loss


class PFedRec(TrainableRecommender):
    """logit = score . item + score_bias, of which the items alone are shared.

    Item rows learn `item_rate` times as fast as the score function.
    """

    name: ClassVar[str] = "pfedrec"
    shared = by_item = frozenset({"item.weight"})
    stackable = True

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        dim: int = 32,
        loss: str = "bce",
        init_std: float = 1.0,
        score_scale: float = 0.1,
        item_rate: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, init_std=init_std, score_scale=score_scale, item_rate=item_rate)
        self.items, self.private_std, self.stretch = len(catalogue), score_scale, math.sqrt(item_rate)
        self.item = nn.Embedding(self.items, dim)
        self.score, self.score_bias = nn.Embedding(1, dim), nn.Embedding(1, 1)
        self.criterion = get_loss(loss)
        nn.init.normal_(self.item.weight, std=init_std / self.stretch)

    def forward(self, items: Tensor) -> Tensor:
        """Return logits [..., 1+k] for items [..., 1+k]."""
        own = self.user_rows(items)
        vectors = self.item(items) * self.stretch  # a step of item rows is then item_rate times as long
        return (vectors @ self.score(own).unsqueeze(-1)).squeeze(-1) + self.score_bias(own)

    def scores(self, history: Tensor) -> Tensor:
        """Return the logit of every item [V]; the history has shaped the score function, nothing else."""
        return self.item.weight @ self.score.weight[0] * self.stretch + self.score_bias.weight[0]

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices, whose score functions are `private`."""
        return private["score.weight"][:, 0] @ self.item.weight.T * self.stretch + private["score_bias.weight"][:, 0]
