"""How many devices a second: ours through Flower and without it, the plain loop, Opacus, and peers, on one job.

    python -m simulations.benchmarks.engine

The job is that of `../shared/bench`: real users, sampled negatives, one small network. Ours, the loop and Opacus take
the same examples through the same network; their processes take turns, so that a busy machine is busy for all.
"""
