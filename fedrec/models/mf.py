"""Matrix factorisation: the dot product of a private user vector and a shared item vector, plus a shared item bias.

Koren, Bell & Volinsky, "Matrix factorization techniques for recommender systems", 2009, without the user bias, which
changes no ranking. Shapes: B examples, 1+k items of each, V items, d dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import ModelInput, TrainableRecommender, check_sizes, get_loss
from fedrec.models.closed_forms import DotProduct
from fedrec.models.text_embeddings import encoder_input, warm_start_from_text


class MatrixFactorization(TrainableRecommender):
    """logit = user . item + item_bias + offset; only the item side is shared.

    `offset` is a public constant, for ratings: 3.5 lets `loss=mse` start at a plausible rating.
    """

    name: ClassVar[str] = "mf"
    shared = by_item = frozenset({"item.weight", "item_bias.weight"})
    stackable = True

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        dim: int = 32,
        loss: str = "bce",
        offset: float = 0.0,
        init_std: float = 0.1,
        warm_start: str | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, init_std=init_std)
        self.items = len(catalogue)
        self.user = nn.Embedding(1, dim)
        self.item = nn.Embedding(len(catalogue), dim)
        self.item_bias = nn.Embedding(len(catalogue), 1)
        self.offset, self.private_std, self.ratings = offset, init_std, loss == "mse"
        self.criterion = get_loss(loss)
        nn.init.normal_(self.item.weight, std=init_std)
        nn.init.zeros_(self.item_bias.weight)
        if warm_start is not None:
            warm_start_from_text(self.item, catalogue, init_std, warm_start)
        self.warm_start = warm_start

    def inputs(self, catalogue: Catalogue) -> tuple[ModelInput, ...]:
        """Return the encoder that items start from."""
        return encoder_input("model.warm_start", self.warm_start, catalogue)

    @property
    def closed_form(self) -> DotProduct:
        """The dot product."""
        return DotProduct("user.weight", "item.weight", "item_bias.weight", offset=self.offset)

    def forward(self, items: Tensor) -> Tensor:
        """Return logits [..., 1+k] for items [..., 1+k]."""
        user = self.user(self.user_rows(items))  # [..., d]
        return (self.item(items) @ user.unsqueeze(-1)).squeeze(-1) + self.item_bias(items).squeeze(-1) + self.offset

    def scores(self, history: Tensor) -> Tensor:
        """Return user . item + bias for every item [V]; the history has shaped the user vector, nothing else."""
        return self.item.weight @ self.user.weight[0] + self.item_bias.weight[:, 0] + self.offset

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices, whose user vectors are `private` [C, 1, d]."""
        return torch.addmm(self.item_bias.weight[:, 0] + self.offset, private["user.weight"][:, 0], self.item.weight.T)
