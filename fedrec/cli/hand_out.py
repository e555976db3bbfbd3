"""`fedrec data split`: a data set as the files of devices, to try real devices with real data."""

import csv
from pathlib import Path

import numpy as np

from fedrec.data.dataset import Dataset
from fedrec.data.interactions import FlatInteractions
from fedrec.data.io.catalogue_csv import write_items
from fedrec.data.io.device_csv import COLUMNS
from fedrec.errors import FedrecError


def hand_out(dataset: Dataset, devices: int, folder: Path) -> list[str]:
    """Write items.csv and one CSV for each of the first users; return what was written, one line each."""
    table = dataset.interactions
    if isinstance(table, FlatInteractions):
        raise FedrecError(f"{dataset.name} has no times to hand out: choose another data set")
    if not 1 <= devices <= table.users:
        raise FedrecError(f"--devices {devices}: {dataset.name} has {table.users} users")
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.csv", dataset.catalogue)
    said = [f"{folder / 'items.csv'}: {len(dataset.catalogue):,} items, public"]
    for user in range(devices):
        rows, path = np.flatnonzero(table.user == user), folder / f"{user + 1:0{len(str(devices))}}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in rows:
                item = dataset.catalogue.ids[table.item[row]]
                writer.writerow([item, f"{table.time[row]:.17g}", f"{table.value[row]:.9g}", "rating"])
        said.append(f"{path}: {len(rows):,} interactions of user {table.user_ids[user]}")
    return said
