"""How a device trains: the settings that every engine shares; light, for devices without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocalTrainingConfig:
    """How a device trains: `epochs` over batches of `batch_size`, `negatives` drawn per positive.

    A step follows the sum of the batch's gradients over `denominator`, or their mean where it is None.
    """

    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 0.1
    optimizer: str = "sgd"
    negatives: int = 4
    denominator: float | None = None
