"""Adapters of low rank (Hu et al., "LoRA: low-rank adaptation of large language models", 2022).

A layer that was learned elsewhere stays as it is; trained beside it is the product of two thin matrices, so that an
update, and the noise on it, grows with the rank.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Adapted(nn.Linear):
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
