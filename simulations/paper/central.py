"""Federated against centralised: the same model, trained on pooled data by the same losses, negatives and ranking.

    python -m simulations.paper.central dataset=ml-100k dataset.path=DIR model=mf privacy=none --seeds 0 1 2

trains the model both ways for each seed and prints NDCG@10 of both with intervals over users, and their ratio.
"""

import argparse
import json

import numpy as np
import torch
from torch import nn

from fedrec.data.dataset import Dataset
from fedrec.evaluation.batched import evaluate_many
from fedrec.evaluation.per_user import PerUserResults, mean_over_seeds
from fedrec.evaluation.summary import intervals
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.experiment.settings import Settings, load
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.simulation import Simulation, new_run
from fedrec.storage.run_folder import RunFolder, load_table

PATIENCE = 5  # epochs without a better validation before training stops


def pool(model: TrainableRecommender, users: int, seed: int) -> None:
    """Give every user table one row a user."""
    generator = torch.Generator().manual_seed(seed)
    for name in model.private_arrays():
        table = model.get_submodule(name.removesuffix(".weight"))
        if not isinstance(table, nn.Embedding):
            raise TypeError(f"{name} is no table of users")
        pooled = nn.Embedding(users, table.embedding_dim)
        nn.init.normal_(pooled.weight, std=model.private_std, generator=generator)
        model.set_submodule(name.removesuffix(".weight"), pooled)


def epoch(
    model: TrainableRecommender,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    generator: np.random.Generator,
    k: int,
) -> None:
    """Train once over all histories, in batches of 1,024 interactions of any user."""
    user, item, value = dataset.devices.train_rows()
    order = generator.permutation(len(user))
    seen = np.zeros((len(dataset.devices), model.items), bool)
    seen[user, item] = True
    for rows in np.split(order, np.arange(1024, len(order), 1024)):
        drawn = generator.integers(0, model.items, (len(rows), k))
        while (bad := seen[user[rows, None], drawn]).any():
            drawn[bad] = generator.integers(0, model.items, int(bad.sum()))
        model.pooled_user_rows = torch.from_numpy(user[rows])
        items = torch.from_numpy(np.concatenate([item[rows, None].astype(np.int64), drawn], axis=1))
        optimizer.zero_grad()
        model.loss(Batch(items, torch.from_numpy(value[rows]))).mean().backward()
        optimizer.step()


@torch.no_grad()
def ranked(model: TrainableRecommender, experiment: Experiment, dataset: Dataset, part: str) -> PerUserResults:
    """Return the per-user rows of the pooled model."""
    chosen = torch.from_numpy(experiment.evaluation.chosen(len(dataset.devices)))
    place = 0

    def score_many(histories: list[np.ndarray]) -> np.ndarray:
        nonlocal place
        parts = chosen[place : place + len(histories)].split(32)
        place += len(histories)
        scores = []
        for users in parts:
            model.pooled_user_rows = users
            scores.append(model(torch.arange(model.items).expand(len(users), -1)))
        return torch.cat(scores).numpy()

    return evaluate_many(score_many, dataset.devices, part, experiment.evaluation, "the pooled model")  # type: ignore[arg-type]


def train_centrally(
    experiment: Experiment, dataset: Dataset, learning_rate: float, most_epochs: int = 100
) -> PerUserResults:
    """Train with Adam until validation stops getting better; return the test rows of the best epoch."""
    model = experiment.build_model(dataset.catalogue)
    if not isinstance(model, TrainableRecommender):
        raise TypeError("only models that train can be trained centrally")
    pool(model, dataset.interactions.users, experiment.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    generator = np.random.default_rng(experiment.seed)
    best, since, test = -1.0, 0, dict[str, np.ndarray]()
    for _ in range(most_epochs):
        epoch(model, optimizer, dataset, generator, experiment.node()["algorithm"]["negatives"])
        score = float(ranked(model, experiment, dataset, "validation")["full_ndcg@10"].mean())
        since = since + 1
        if score > best:
            best, since, test = score, 0, ranked(model, experiment, dataset, "test")
        if since >= PATIENCE:
            break
    return {**test, "validation": np.array([best])}


def main() -> None:
    """Run the comparison and print it as a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003], help="Adam's rates; validation chooses")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    federated, central = list[PerUserResults](), list[PerUserResults]()
    for seed in options.seeds:
        settings = load([*options.overrides, f"seed={seed}", "privacy=none", "evaluation.baselines=[]"])
        dataset = load_dataset(settings.experiment)
        trained = [train_centrally(settings.experiment, dataset, rate) for rate in options.rates]
        central.append(max(trained, key=lambda rows: float(rows["validation"][0])))
        named, folder = new_run(
            Settings({**settings.document, "name": f"central-{dataset.name}-{seed}", "overwrite": True})
        )
        Simulation(named, folder).simulate()
        federated.append(federated_rows(folder))
    print(json.dumps(compared(federated, central)))


def federated_rows(folder: RunFolder) -> PerUserResults:
    """Return the per-user rows that a run left."""
    return load_table(folder.exact / "users.npz")


def compared(federated: list[PerUserResults], central: list[PerUserResults]) -> dict[str, object]:
    """Return both means with their intervals over users, seeds averaged, and the ratio of the means."""
    values = {
        name: mean_over_seeds(tables, "full_ndcg@10")
        for name, tables in (("federated", federated), ("central", central))
    }
    both = np.stack([values["federated"], values["central"]], axis=1)
    found = {name: [i.mean, i.low, i.high] for name, i in zip(values, intervals(both), strict=True)}
    draws = np.random.default_rng(0).integers(0, len(both), (1000, len(both)))
    ratios = both[draws, 0].mean(1) / both[draws, 1].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    print("\n".join(f"{name:10} NDCG@10 {m:.4f} ({a:.4f} to {b:.4f})" for name, (m, a, b) in found.items()))
    print(f"federated / central {both[:, 0].mean() / both[:, 1].mean():.3f} ({low:.3f} to {high:.3f})")
    per_seed = [[float(t["full_ndcg@10"].mean()) for t in tables] for tables in (federated, central)]
    return {
        **found,
        "ratio": [float(both[:, 0].mean() / both[:, 1].mean()), float(low), float(high)],
        "seeds": per_seed,
    }


if __name__ == "__main__":
    main()
