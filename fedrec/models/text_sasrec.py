"""SASRec over a public language model: an item is what its text says, so a body that was trained elsewhere fits here.

The items have no table of their own: a projection of the frozen text takes its place (Hou et al., "Towards universal
sequence representation learning for recommender systems", 2022), and with it the whole model is independent of the
catalogue. With `rank`, the body stays as it was, and devices train adapters of low rank inside it. Shapes: n positions,
d dimensions, t numbers of an item's frozen vector, V items.

Adapters of low rank (Hu et al., "LoRA: low-rank adaptation of large language models", 2022).

A layer that was learned elsewhere stays as it is; trained beside it is the product of two thin matrices, so that an
update, and the noise on it, grows with the rank.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.models.base import ModelInput, check_sizes
from fedrec.models.sasrec import Attentive, Linear, Shape
from fedrec.models.sequential import Windows, filled, next_item_losses
from fedrec.models.text_embeddings import PACKAGED, encoder_input, text_embedding_table


class LoRALinear(nn.Linear):
    """A frozen linear layer of i inputs and o outputs: x -> W x + b + up (down x), `up` [o, r] and `down` [r, i].

    `up` starts at zero, so that an untrained adapter changes nothing.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        self.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., o] for [..., i]."""
        return super().forward(input) + functional.linear(functional.linear(input, self.down), self.up)


USUAL = Shape()


class TextSASRec(Attentive):
    """logit = state of the window's last position . project(text of the item) + lean(text of the item).

    `body` is a finished run of this model, on public data or on consenting people's; what it learned is where this one
    starts from, whatever its catalogue. `body_public` is the SHA-256 of its file, by which a person declares a body
    public that no card tells of. `rank` freezes everything but adapters of that rank, the last normalisation and
    `lean`; null trains all.
    """

    name: ClassVar[str] = "text_sasrec"
    by_item = frozenset[str]()

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        shape: Shape = USUAL,
        rank: int | None = None,
        encoder: str = PACKAGED,
        body: str | None = None,
        body_public: str | None = None,
    ) -> None:
        super().__init__()
        if rank is not None:
            check_sizes(rank=rank)
        table = text_embedding_table(catalogue, encoder)
        self.items, self.encoder, self.body, self.body_public = len(catalogue), encoder, body, body_public
        self.register_buffer("vectors", torch.from_numpy(table), persistent=False)
        linear: Linear = nn.Linear if rank is None else partial(LoRALinear, rank=rank)
        self.project, self.lean = linear(table.shape[1], shape.dim), nn.Linear(table.shape[1], 1, bias=False)
        self.add_body(shape, linear)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        nn.init.zeros_(self.lean.weight)
        self.shared = frozenset(name for name, _ in self.named_parameters())
        if rank is not None:
            self._freeze()

    def _freeze(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.LayerNorm) and layer is not self.after:
                layer.requires_grad_(False)
        self.position.requires_grad_(False)

    def ready(self) -> None:
        """Raise unless `body`, where one is named, is a finished run of this model; only its names are read."""
        if self.body is not None:
            with safe_open(body_file(self.body), "np") as arrays:
                names = set(arrays.keys())
            if unknown := sorted(names - self.shared):
                raise FedrecError(f"model.body={self.body} is no run of model=text_sasrec: it holds {unknown[0]}")
            missing = sorted(name for name in self.shared - names if not name.endswith((".up", ".down")))
            if missing:
                raise FedrecError(f"model.body={self.body} lacks {missing[0]}: take the same model.shape.blocks")

    def inputs(self, catalogue: Catalogue) -> tuple[ModelInput, ...]:
        """Return the encoder of texts, and the body; a body that was declared under another hash is an error."""
        found = encoder_input("model.encoder", self.encoder, catalogue)
        if self.body is None:
            return found
        file = body_file(self.body)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if self.body_public not in (None, digest):
            raise FedrecError(f"model.body_public={self.body_public} is not the SHA-256 of {file}, which is {digest}")
        return *found, ModelInput("model.body", self.body, digest, file, self.body_public is not None)

    def begin(self) -> None:
        """Take the arrays of the finished run that `body` names, where it names one."""
        self.ready()
        if self.body is not None:
            self.load(load_file(body_file(self.body)))

    def wares(self, vectors: Tensor) -> Tensor:
        """Return what items [..., d] are to the body, for their frozen vectors [..., t]."""
        return self.project(vectors)

    def forward(self, windows: Windows, rows: Mapping[str, Tensor]) -> Tensor:
        """Return each device's summed cross-entropy of the next item."""
        vectors, biases = self._looked_up(windows.touched())
        states = self.states(vectors[..., : windows.items.shape[-1] - 1, :])
        return next_item_losses(states, vectors, biases, windows, self.items)

    def _looked_up(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors [..., m, d] and biases [..., m]; of the whole catalogue once, where more are asked for."""
        said = cast(Tensor, self.vectors)
        if items.numel() <= self.items:
            found = said[items]
            return self.wares(found), self.lean(found).squeeze(-1)
        return self.wares(said)[items], self.lean(said).squeeze(-1)[items]

    def scores(self, history: Tensor) -> Tensor:
        """Return a logit for every item [V] to come after the history [n]."""
        return self.scores_many([history], {})[0]

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices; shorter histories are filled up behind, where nothing looks."""
        said, (lines, lengths) = cast(Tensor, self.vectors), filled(histories, self.window)
        vectors, bias = self.wares(said), self.lean(said).squeeze(-1)
        if not lines.shape[1]:
            return bias.expand(len(lines), -1)
        states = self.states(vectors[lines])[torch.arange(len(lines)), (lengths - 1).clamp(min=0)]
        return bias + (states * (lengths > 0).unsqueeze(1)) @ vectors.T


def body_file(body: str) -> Path:
    """Return the file of a finished run's arrays, given as its folder or as the file in it."""
    path = Path(body)
    file = path if path.is_file() else path / "model.safetensors"
    if not file.is_file():
        raise FedrecError(f"model.body={body}: no model.safetensors there: give the folder of a finished run")
    return file
