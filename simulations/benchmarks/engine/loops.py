"""Rounds of a plain loop over devices, and of Opacus on each device, by the bench's own functions."""

from pathlib import Path

import numpy as np
import torch

from simulations.benchmarks.engine.job import script, spread_out
from simulations.benchmarks.engine.task import Play, Task


def loop(task: Task, mode: str = "") -> Play:
    """Return rounds as those of the bench's `loop.py`, with the devices spread over all sizes; `mode` is Opacus'."""
    torch.set_num_threads(task.threads)
    job, net, table = script("job", task.work), script("net", task.work), task.table()
    items, labels = torch.from_numpy(table.item).long(), torch.from_numpy(table.value)
    users = torch.from_numpy(job.init_users(len(table)))
    state = {name: torch.from_numpy(array) for name, array in job.init(table.items).items()}
    cohort = spread_out(np.diff(table.start), task.devices)

    def one() -> int:
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        for user in cohort.tolist():
            model = net.NCF(table.items)
            model.load_state_dict(state)
            part = slice(table.start[user], table.start[user + 1])
            if mode:
                after = net.train_opacus(model, users[user], items[part], labels[part], mode)
            else:
                users[user] = net.train(model, users[user], items[part], labels[part])
                after = model.state_dict()
            for name, value in after.items():
                total[name] += value - state[name]
        for name, value in total.items():
            state[name] = state[name] + value / len(cohort)
        return int((table.start[cohort + 1] - table.start[cohort]).sum())

    return one


def plain(task: Task, folder: Path) -> Play:
    """Return rounds of the plain loop."""
    return loop(task)


def hooks(task: Task, folder: Path) -> Play:
    """Return rounds of DP-SGD by Opacus' hooks."""
    return loop(task, "hooks")


def ghost(task: Task, folder: Path) -> Play:
    """Return rounds of DP-SGD by Opacus' ghost clipping."""
    return loop(task, "ghost")
