"""Which rows the places of examples read: the draws of `fedrec.training.batches`, word for word, and rows by number.

A device numbers its rows in the order in which they come up: its row r is item `item[first + r]`, where `first` is how
many rows the devices before it have. A number is looked up in a sparse set (Briggs & Torczon 1993): `where[x]` is a
guess at the number of item x, and right if that row is of item x; so nothing is ever cleared.

Shapes: C devices, P passes, N examples of all of them, R rows, k negatives, V items.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.rng import CounterRNG
from fedrec.training.batches import ATTEMPTS, NEGATIVE, Epoch, Histories, LocalTrainingConfig, shuffled
from fedrec.training.kernels.compiled import below, compiled, word_at

ATTEMPT_SHIFT, PASS_SHIFT, PURPOSE_SHIFT = np.uint64(40), np.uint64(48), np.uint64(62)  # of `batches._index`
Ints, Rows = NDArray[np.int64], NDArray[np.int32]


class Places(NamedTuple):
    """The examples of a tile: those of pass p of device c are passes[c P + p] to passes[c P + p + 1] - 1.

    `rows` [N, 1+k] are the device's own numbers of each place's row, the positive's first, `values` [N] ratings.
    Device c has rows first[c] to first[c + 1] - 1 of the tile, of the items `item` [R].
    """

    first: Ints
    item: Rows
    passes: Ints
    rows: Rows
    values: NDArray[np.float32]


class Due(NamedTuple):
    """The rows that pass p of device c reads and that wait for noise: starts[c P + p] to starts[c P + p + 1] - 1.

    `rows` are the device's own numbers of them, `counts` the steps whose noise each waits for; `read` [R] is the last
    pass that each row was read in.
    """

    starts: Ints
    rows: Rows
    counts: Ints
    read: Ints


def epoch_places(
    own: Histories, random: CounterRNG, settings: LocalTrainingConfig, negatives: int, where: Rows
) -> Places:
    """Return the places of all epochs: each shuffled, negatives drawn outside of the device's items.

    `where` [V] is scratch.
    """
    numbers = range(settings.epochs)
    order = stacked([shuffled(random, own, number, settings.batch_size) for number in numbers])
    places = room_for(np.repeat(own.sizes[:, None], settings.epochs, axis=1), 1 + negatives, len(where))
    number_epochs((own.items, own.values), order, random.firsts(own.users), places, where)
    return places._replace(item=places.item[: places.first[-1]])


def sample_places(own: Histories, drawn: list[Epoch], where: Rows) -> tuple[Places, Due]:
    """Return the places of passes that were drawn beforehand, and the rows that wait for noise in each of them."""
    counts, width = np.stack([one.count for one in drawn], axis=1), 1 + drawn[0].negatives.shape[2]
    places = room_for(counts, width, len(where))
    passes, first, item = places.passes, places.first, places.item
    reads = 0 if len(drawn) == 1 else width * int(passes[-1])
    due = Due(
        np.zeros(len(passes), np.int64),
        np.empty(reads, np.int32),
        np.empty(reads, np.int64),
        np.zeros(len(item), np.int64),
    )
    order, negatives = stacked([one.order for one in drawn]), stacked([one.negatives for one in drawn])
    number_samples((own.items, own.values), order, negatives, places, due, where)
    due = Due(due.starts, due.rows[: due.starts[-1]], due.counts[: due.starts[-1]], due.read[: first[-1]])
    return places._replace(item=item[: first[-1]]), due


def stacked(passes: list[Ints]) -> Ints:
    """Return the arrays of all passes in one, laid out as the compiled loops are compiled for."""
    return np.ascontiguousarray(np.stack(passes))


def room_for(counts: Ints, width: int, items: int) -> Places:
    """Return places to be filled in, for passes of so many examples [C, P] of `width` places each."""
    passes = np.concatenate([[0], counts.ravel().cumsum()])
    # There is room for one row more, which may be written before it is known.
    most = np.minimum(counts.sum(1) * width, items).sum() + 1
    rows, values = np.empty((passes[-1], width), np.int32), np.empty(passes[-1], np.float32)
    return Places(np.zeros(len(counts) + 1, np.int64), np.empty(most, np.int32), passes, rows, values)


@compiled
def row_of(item: Rows, first: int, rows: int, where: Rows, x: Any) -> int:
    """Return the number of item x among the rows of a device, of which it has `rows`; that many, noted, if it is new.

    Without a branch: which items are new can't be foreseen, and what is known already is written once more as it is.
    """
    guess = min(int(where[x]), rows)
    row = guess if (guess < rows) & (item[first + guess] == x) else rows
    where[x] = row
    item[first + row] = x
    return row


@compiled
def holds(item: Rows, first: int, rows: int, where: Rows, x: Any) -> bool:
    """Say whether item x is among the rows of a device."""
    guess = min(where[x], rows)
    return (guess < rows) & (item[first + guess] == x)


@compiled
def number_epochs(
    history: tuple[Rows, NDArray[np.float32]], order: Ints, words: NDArray[np.uint64], places: Places, where: Rows
) -> None:
    """Fill in the places of passes of drawn order [P, C, n]; the words of device c begin at words[c]."""
    (items, ratings), (_, item, passes, numbers, values), epochs = history, places, len(order)
    drawn = np.empty((items.shape[1], numbers.shape[1] - 1), np.int64)
    rest = np.empty(len(where), np.int64)
    for c in range(len(items)):
        first, rows, n = places.first[c], 0, passes[c * epochs + 1] - passes[c * epochs]
        for s in range(n):
            rows = max(rows, row_of(item, first, rows, where, items[c, s]) + 1)
        used = rows
        for number in range(epochs):
            draw_negatives(drawn[:n], (item, first, used, where), rest, words[c], number)
            at = passes[c * epochs + number]
            for s in range(n):
                there = order[number, c, s]
                values[at + s] = ratings[c, there]
                numbers[at + s, 0] = row_of(item, first, rows, where, items[c, there])
                for j in range(drawn.shape[1]):
                    row = row_of(item, first, rows, where, drawn[s, j])
                    rows = max(rows, row + 1)
                    numbers[at + s, 1 + j] = row
        places.first[c + 1] = first + rows


@compiled
def draw_negatives(
    drawn: Ints, used: tuple[Rows, int, int, Rows], rest: Ints, first_word: np.uint64, number: int
) -> None:
    """Draw items that a device has not trained on for a pass, as `batches.NegativeSampler` does; `rest` [V] is scratch.

    `used` is what `row_of` takes: the device's rows are the items that it trained on.
    """
    (item, first, rows, where), items, left = used, len(rest), 0
    base = (np.uint64(NEGATIVE) << PURPOSE_SHIFT) + (np.uint64(number) << PASS_SHIFT)
    flat = drawn.reshape(-1)
    if 2 * rows > items:  # of most of the catalogue: what is left is drawn from, or all of it where nothing is
        for x in range(items):
            if not holds(item, first, rows, where, x):
                rest[left] = x
                left += 1
        base += np.uint64(ATTEMPTS) << ATTEMPT_SHIFT
        for p in range(len(flat)):
            word = word_at(first_word, base + np.uint64(p))
            flat[p] = rest[below(word, left)] if left else below(word, items)
        return
    for p in range(len(flat)):
        flat[p] = below(word_at(first_word, base + np.uint64(p)), items)
    for p in range(len(flat)):
        attempt = 1
        while attempt < ATTEMPTS and holds(item, first, rows, where, flat[p]):
            place = base + (np.uint64(attempt) << ATTEMPT_SHIFT) + np.uint64(p)
            flat[p] = below(word_at(first_word, place), items)
            attempt += 1


@compiled
def number_samples(
    history: tuple[Rows, NDArray[np.float32]], order: Ints, negatives: Ints, places: Places, due: Due, where: Rows
) -> None:
    """Fill in the places of passes of drawn order [P, C, n] and negatives [P, C, n, k], and what noise is due."""
    (items, ratings), (_, item, passes, numbers, values), (starts, waiting, counts, read) = history, places, due
    steps, k, many = len(order), negatives.shape[3], 0
    for c in range(len(items)):
        first, rows = places.first[c], 0
        for number in range(steps):
            at = passes[c * steps + number]
            for s in range(passes[c * steps + number + 1] - at):
                there = order[number, c, s]
                values[at + s] = ratings[c, there]
                for j in range(1 + k):
                    x = items[c, there] if j == 0 else negatives[number, c, s, j - 1]
                    row = row_of(item, first, rows, where, x)
                    rows = max(rows, row + 1)
                    numbers[at + s, j] = row
                    if read[first + row] < number:
                        waiting[many], counts[many] = row, number - read[first + row]
                        read[first + row] = number
                        many += 1
            starts[c * steps + number + 1] = many
        places.first[c + 1] = first + rows
