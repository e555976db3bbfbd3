"""How fast noise on the whole numbers is drawn, as a ratio to torch's `normal_`, which draws float32.

    python -m simulations.benchmarks.noise --numbers 1000000

prints numbers a second over those of `normal_` in the same process: one thread, the best of `--times`.
"""

import argparse
from collections.abc import Callable
from time import perf_counter, process_time

import torch

from fedrec.privacy.discrete_gaussian import gaussian_table, gaussian_tables
from fedrec.privacy.noise import SystemNoise

DEVIATIONS = (64, 512, 4096, 8192, 65_536, 1 << 20)


def best_seconds(call: Callable[[], object], times: int) -> float:
    """Return the least processor time of some calls."""
    found = list[float]()
    for _ in range(times):
        start = process_time()
        call()
        found.append(process_time() - start)
    return min(found)


def main() -> None:
    """Print one line for each standard deviation in grid steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    floats, random = torch.empty(args.numbers), SystemNoise()
    yardstick = best_seconds(floats.normal_, args.times)
    print(f"torch normal_: {args.numbers / yardstick / 1e6:.0f} M numbers a second")
    drawn = best_seconds(lambda: random.gaussian((args.numbers,), 1.0), args.times)
    print(f"floats of this source: {yardstick / drawn:.2f} x")
    for deviation in DEVIATIONS:
        gaussian_table.cache_clear()
        start = perf_counter()
        tables = gaussian_tables(deviation**2)
        built = perf_counter() - start
        drawn = best_seconds(lambda d=deviation: random.discrete_gaussian((args.numbers,), d * d), args.times)
        print(f"deviation {deviation}: {yardstick / drawn:.2f} x, {len(tables)} tables built in {built:.2f} s")


if __name__ == "__main__":
    main()
