"""NeuMF: a generalised dot product beside a multilayer perceptron (He et al., "Neural collaborative filtering", 2017).

Shapes: B examples, 1+k items of each, V items, d dimensions of each half.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import TrainableRecommender, check_sizes, get_loss, linear_over_parts
from fedrec.models.closed_forms import NeuralCF


class NeuMF(TrainableRecommender):
    """Both user vectors stay on the device; item vectors and layers are shared."""

    name: ClassVar[str] = "neumf"
    stackable = True
    by_item = frozenset({"item_gmf.weight", "item_mlp.weight"})

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        dim: int = 16,
        layers: Sequence[int] = (32, 16),
        loss: str = "bce",
        offset: float = 0.0,
        init_std: float = 0.1,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, init_std=init_std, **{f"layers[{n}]": size for n, size in enumerate(layers)})
        self.items = len(catalogue)
        self.user_gmf, self.user_mlp = nn.Embedding(1, dim), nn.Embedding(1, dim)
        self.item_gmf, self.item_mlp = nn.Embedding(len(catalogue), dim), nn.Embedding(len(catalogue), dim)
        sizes = [2 * dim, *layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.output = nn.Linear(dim + sizes[-1], 1)
        self.offset, self.private_std, self.ratings = offset, init_std, loss == "mse"
        self.criterion = get_loss(loss)
        for table in (self.item_gmf, self.item_mlp):
            nn.init.normal_(table.weight, std=init_std)
        # The layers' names depend on how many there are, so this allow-list is the instance's: the item side and them.
        layer_names = {f"layers.{i}.{part}" for i in range(len(layers)) for part in ("weight", "bias")}
        self.shared = frozenset(layer_names | {"item_gmf.weight", "item_mlp.weight", "output.weight", "output.bias"})

    @property
    def closed_form(self) -> NeuralCF | None:
        """The network, where it has a hidden layer."""
        layers, product = tuple(f"layers.{i}" for i in range(len(self.layers))), ("user_gmf.weight", "item_gmf.weight")
        if not layers:
            return None
        return NeuralCF("user_mlp.weight", "item_mlp.weight", layers, "output", product, self.offset)

    def forward(self, items: Tensor) -> Tensor:
        """Return logits [..., 1+k] for items [..., 1+k]."""
        own = self.user_rows(items)
        gmf = self.item_gmf(items) * self.user_gmf(own).unsqueeze(-2)  # [..., 1+k, d]
        item = self.item_mlp(items)
        parts = (self.user_mlp(own).unsqueeze(-2).expand_as(item), item)
        for layer in self.layers:
            parts = (torch.relu(linear_over_parts(layer, *parts)),)
        return linear_over_parts(self.output, gmf, *parts).squeeze(-1) + self.offset

    def scores(self, history: Tensor) -> Tensor:
        """Return the logit of every item [V]; the history has shaped the user vectors, nothing else."""
        items = torch.arange(self.item_gmf.num_embeddings, device=self.item_gmf.weight.device)
        return self(items.unsqueeze(0)).squeeze(0)

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices, whose user vectors are `private` [C, 1, d].

        What the first layer makes of the items is computed once for all devices, a device's own part is added to it.
        """
        dim, first = self.item_mlp.embedding_dim, self.layers[0]
        weight, bias = cast(Tensor, first.weight), cast(Tensor, first.bias)
        items = torch.addmm(bias, self.item_mlp.weight, weight[:, dim:].T)  # [V, h]
        own = private["user_mlp.weight"][:, 0] @ weight[:, :dim].T  # [C, h]
        product, rest = self.output.weight[0, :dim], self.output.weight[:, dim:]
        found = torch.addmm(
            self.output.bias + self.offset, private["user_gmf.weight"][:, 0] * product, self.item_gmf.weight.T
        )
        for device in range(len(own)):
            hidden = torch.relu(items + own[device])
            for layer in self.layers[1:]:
                hidden = torch.relu(layer(hidden))
            found[device] += (hidden @ rest.T)[:, 0]
        return found
