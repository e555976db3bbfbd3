"""What a user may choose about evaluation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedrec.errors import FedrecError, suggest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADLINE = 10  # the cutoff that every result carries, and the length of the lists that coverage is counted on
BASELINES = ("popularity", "private_popularity", "no_privacy", "local", "item_knn", "ease", "ials")


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How models are evaluated.

    `negatives` is the number of sampled candidates beside the target, `every` the rounds between two validations,
    `seed` that of candidates, of the sample of users and of the bootstrap. `users` bounds how many devices are
    evaluated (a seeded sample); None means all. `select` is the round whose model is released. `head` bounds how many
    items pooled baselines cover, the most popular ones, as statistics do; None means all. One that would take longer
    than `baselines_seconds` by its estimate is left out; None means that it is waited for.
    """

    cutoffs: tuple[int, ...] = (5, 10, 20)
    negatives: int = 99
    every: int = 5
    seed: int = 0
    select: str = "last"
    baselines: tuple[str, ...] = ("popularity", "private_popularity", "no_privacy", "ials")
    users: int | None = None
    head: int | None = None
    baselines_seconds: float | None = 600.0

    def __post_init__(self) -> None:
        """Refuse settings that make no sense; lists, as yaml gives them, become tuples."""
        object.__setattr__(self, "cutoffs", tuple(sorted(set(self.cutoffs))))
        object.__setattr__(self, "baselines", tuple(self.baselines))
        if HEADLINE not in self.cutoffs or self.cutoffs[0] < 1:
            raise FedrecError(
                f"evaluation.cutoffs is {self.cutoffs}: positive numbers, {HEADLINE} among them, expected"
            )
        for name in ("negatives", "every", "seed", "users", "head", "baselines_seconds"):
            value, least = getattr(self, name), 0 if name in ("seed", "baselines_seconds") else 1
            if value is not None and value < least:
                raise FedrecError(f"evaluation.{name} is {value}: at least {least} expected")
        if self.select not in ("last", "best"):
            raise FedrecError(f"evaluation.select is '{self.select}'.{suggest(self.select, ('last', 'best'))}")
        for name in self.baselines:
            if name not in BASELINES:
                raise FedrecError(f"evaluation.baselines names '{name}'.{suggest(name, BASELINES)}")

    def chosen(self, population: int) -> "NDArray[np.int64]":
        """Return the rows of the devices to evaluate, ascending: all of `population`, or a seeded sample of `users`."""
        import numpy as np  # a typo in a study is told from this file before anything heavy

        if self.users is None or self.users >= population:
            return np.arange(population)
        return np.sort(np.random.default_rng(self.seed).choice(population, self.users, replace=False))
