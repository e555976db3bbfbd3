"""What a recommender is: what it may share, how it learns from examples, how it scores on the device.

Losses are on logits [..., 1+k], positive first: one value per interaction [...]. Shapes: V items of the catalogue,
B examples, 1+k columns (a positive, then its k negatives), n items of a history.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError, suggest
from fedrec.models.closed_forms import ClosedForm

Loss = Callable[[Tensor, Tensor], Tensor]


def bce(logits: Tensor, values: Tensor) -> Tensor:
    """Binary cross-entropy, summed over the positive and its negatives (He et al. 2017, eq. 7)."""
    target = torch.zeros_like(logits)
    target[..., 0] = 1.0
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=-1)


def bpr(logits: Tensor, values: Tensor) -> Tensor:
    """Bayesian personalised ranking, summed over the negatives of each positive (Rendle et al. 2009)."""
    return functional.softplus(logits[..., 1:] - logits[..., :1]).sum(dim=-1)


def mse(logits: Tensor, values: Tensor) -> Tensor:
    """Squared error on the rating of the positive; negatives play no part."""
    return (logits[..., 0] - values) ** 2


def labelled(logits: Tensor, values: Tensor) -> Tensor:
    """Binary cross-entropy of the first logit and a label, for models whose negatives are examples of their own."""
    return functional.binary_cross_entropy_with_logits(logits[..., 0], values, reduction="none")


LOSSES: dict[str, Loss] = {"bce": bce, "bpr": bpr, "mse": mse}


def get_loss(name: str) -> Loss:
    """Return the loss of that name."""
    if name not in LOSSES:
        raise FedrecError(f"model.loss={name} is not a loss.{suggest(name, LOSSES)}")
    return LOSSES[name]


Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Training examples of one device: one row per interaction, its positive first and its negatives behind it.

    The cohort engine puts one more dimension, the devices', in front.
    """

    items: Tensor  # [B, 1+k] int64
    values: Tensor  # [B] float32: the ratings of the positives


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What a model starts from that was trained elsewhere: the setting that names it, its name and its SHA-256.

    `file` is where it lies, with the card of its run beside it; `declared` says that a person declared it public.
    """

    setting: str
    name: str
    sha256: str
    file: Path | None = None
    declared: bool = False


class Recommender(nn.Module, ABC):
    """A model of one device.

    `name` is what results call it. `shared` is the allow-list of arrays that may leave the device: everything else is
    private by default. `ratings` says that the scores are on the scale of the ratings, so that RMSE means something;
    `items` is V.
    """

    name: ClassVar[str]
    shared: frozenset[str]
    ratings: bool = False
    items: int

    def __init_subclass__(cls, **settings: Any) -> None:
        """Call a class that says no name of its own by the name that it is defined under."""
        super().__init_subclass__(**settings)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def inputs(self, catalogue: Catalogue) -> tuple[ModelInput, ...]:
        """Return what this model starts from that was trained elsewhere; here nothing."""
        return ()

    @abstractmethod
    def scores(self, history: Tensor) -> Tensor:
        """Return a score for every item [V], on the device, from its own history [n] in the order of time."""

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices from their histories and private arrays [C, ...].

        The loop over `scores`, after which the private arrays are those of the last device. A model that overrides it
        gives the same scores to rounding.
        """
        own, found = self.state_dict(keep_vars=True), list[Tensor]()
        for device, history in enumerate(histories):
            with torch.no_grad():
                for name, array in private.items():
                    own[name].copy_(array[device])
            found.append(self.scores(history))
        return torch.stack(found)

    def item_contributions(self, history: Tensor, item: int) -> Tensor | None:
        """Return what each item of the history [n] adds to one item's score [n]; None where the score is no such sum.

        With the score that the item has for an empty history, they add up to its score.
        """
        return None

    def shared_arrays(self) -> Arrays:
        """Return copies of the arrays that may leave."""
        return self._named(shared=True)

    def private_arrays(self) -> Arrays:
        """Return copies of the arrays that stay on the device."""
        return self._named(shared=False)

    def load(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy named arrays into the model; unknown names and wrong shapes are errors."""
        if not arrays:
            return
        own = self.state_dict(keep_vars=True)
        for name, array in arrays.items():
            if name not in own or tuple(own[name].shape) != array.shape:
                shape = tuple(own[name].shape) if name in own else "no such array"
                raise FedrecError(f"{type(self).__name__} can't take {name} of shape {array.shape}: {shape} expected")
            with torch.no_grad():
                own[name].copy_(torch.from_numpy(array))

    def _named(self, shared: bool) -> Arrays:
        own = self.state_dict(keep_vars=True).items()
        return {name: v.detach().cpu().numpy().copy() for name, v in own if (name in self.shared) == shared}


class TrainableRecommender(Recommender):
    """A recommender with parameters that local training can improve: its `forward` gives logits for items [..., 1+k].

    `criterion` is the loss on those logits, one value per interaction. Private parameters start as independent
    N(0, private_std^2) draws.

    A model joins the cohort engine by saying `stackable = True`. It then promises that `forward` and `criterion` take
    any leading dimensions (items [B, 1+k] of one device, [C, B, 1+k] of many), so that they name dimensions from the
    end; that parameters are used through their layers alone, each once a loss (`fedrec.training.vectorized.layers`,
    `lookups` and `products` hold the layers known); and that `by_item` names the arrays, parameters and buffers, that
    have one row an item: of these, the engine keeps the rows that a device can touch.

    One whose logit has a closed form that is known here says so by `closed_form`: the kernel engine then trains it, in
    loops that are compiled for that form (`fedrec.training.kernels`).
    """

    criterion: Loss
    private_std: float = 0.0
    stackable: bool = False
    by_item: frozenset[str] = frozenset()
    pooled_user_rows: Tensor | None = None
    padded_examples: bool = False  # whether examples have as many places as the longest of their batch

    def user_rows(self, items: Tensor) -> Tensor:
        """Return the row of the user tables for each example [...], for items [..., 1+k]: 0, the device's own user.

        Training many users on pooled data gives the tables more rows and sets `pooled_user_rows` [B] before each batch.
        """
        if self.pooled_user_rows is not None:
            return self.pooled_user_rows
        return torch.zeros(items.shape[:-1], dtype=torch.long, device=items.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return one value per INTERACTION [...]: a positive and the negatives drawn for it are one example."""
        return self.criterion(self(batch.items), batch.values)

    @property
    def closed_form(self) -> ClosedForm | None:
        """What `forward` computes, where there is a kernel for it; here nothing is known of it."""
        return None

    @property
    def negatives_useful(self) -> bool:
        """Whether the loss looks at negatives; a loss on ratings does not."""
        return not self.ratings


def check_sizes(**sizes: float) -> None:
    """Raise unless each of a model's settings, given by name, is a finite number above 0."""
    for name, value in sizes.items():
        if not (math.isfinite(value) and value > 0):
            raise FedrecError(f"model.{name}={value} must be a finite number above 0")


PARTS = "_fedrec_parts"


def linear_over_parts(layer: nn.Module, *parts: Tensor) -> Tensor:
    """Return the linear layer's say on parts [..., i1], [..., i2], ... laid side by side, as `layer(torch.cat(parts))`.

    The cohort engine's layers take the parts as they are, and multiply one that is `expand`ed over the examples, say a
    user's vector, once for all of them. A plain layer notes how wide each is and whether
    it is repeated at all places: DP-SGD rounds parts for themselves.
    """
    own = getattr(layer, "forward_parts", None)
    if own is not None:
        return own(*parts)
    noted = tuple((part.shape[-1], part.dim() > 1 and part.stride(-2) == 0) for part in parts)
    setattr(layer, PARTS, noted)  # pyright knows tensors and modules alone as what a module holds
    return layer(torch.cat(parts, dim=-1))
