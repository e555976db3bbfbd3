"""How many devices a second: ours through Flower and without it, the plain loop, Opacus, and peers, on one job.

    python -m simulations.benchmarks.engine

The job is one small network, trained on each device's items and sampled negatives. Without more, ours is measured on
the shipped users, by the engine that a new run takes and by stacked layers. `--bench` names a folder with the scripts
of the plain loop and the peers, which make the job of real users from MovieLens archives (`--data`), and then all are
measured on it. Ours, the loop and Opacus take the same examples through the same network; their processes take turns,
so that a busy machine is busy for all.
"""
