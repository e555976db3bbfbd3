"""The passes that a device, or many at once, train on in one round."""

from collections.abc import Iterator
from functools import lru_cache

from fedrec.privacy.mechanisms.protocol import DpSgd, LocalSettings, Random
from fedrec.rng import Counter
from fedrec.training.batches import Histories, Keyed, Outside, Pass, poisson, shuffled, uniform_negatives

TRAIN_STREAM = 6  # keeps the draw of batches and negatives apart from that of noise


@lru_cache(maxsize=8)  # the devices of a round share one, and its key takes longer to derive than its draws
def open_draws(seed: int, round_number: int) -> Counter:
    """Return the source of the draws that no guarantee rests on: everybody may know them."""
    return Counter(seed, round_number, TRAIN_STREAM)


def epochs(
    histories: Histories, settings: LocalSettings, negatives: int, outside: Outside, random: Keyed
) -> Iterator[Pass]:
    """Yield each epoch: all examples shuffled, `negatives` of each drawn outside of the device's items."""
    for number in range(settings.epochs):
        order = shuffled(random, histories, number, settings.batch_size)
        drawn = outside.draw(random, histories, number, negatives)
        yield Pass(order, histories.sizes, drawn, settings.batch_size)


def samples(histories: Histories, public: DpSgd, negatives: int, items: int, random: Random) -> Iterator[Pass]:
    """Yield each step of DP-SGD as a pass of its own: a Poisson sample, negatives uniform over the catalogue.

    The guarantee rests on the negatives of one interaction being independent of all others: drawn in turn from a seed
    that the adversary knows, or outside of the device's items, an interaction more or less would shift the negatives of
    others, and clipping would bound nothing. So all draws are the mechanism's.
    """
    for number in range(public.local_steps):
        order, count = poisson(random, histories, number, public.sample_rate)
        drawn = uniform_negatives(random, histories, number, items, negatives)
        yield Pass(order, count, drawn, max(order.shape[1], 1))
