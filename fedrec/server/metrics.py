"""metrics.json of a run on real devices: what the server may know."""

from typing import Any

from fedrec.evaluation.metrics import Sums
from fedrec.federated.exchange import EVALUATE_SECONDS
from fedrec.federated.state import Session
from fedrec.report.metrics_json import CONTRACT_BASELINES, privacy
from fedrec.server.directory import EnrolledDirectory
from fedrec.update import Arrays

CONSENTED = "exact, over the devices whose people let them be evaluated; not covered by epsilon"


def evaluated(session: Session, arrays: Arrays, number: int) -> Sums:
    """Return metric sums over the devices that let themselves be evaluated and are there."""
    directory, found = session.directory, Sums.zero()
    if not isinstance(directory, EnrolledDirectory) or not directory.evaluating:
        return found
    directory.refresh()
    rows = [n for n, hosted in directory.hosted.items() if int(hosted[0]) in directory.evaluating]
    devices = [int(directory.hosted[node][0]) for node in rows]
    requests = directory.requests("evaluate", devices, arrays, part="test", round=number)  # type: ignore[arg-type]
    for node, reply in directory.nodes.ask(requests, EVALUATE_SECONDS):
        sums, count = reply.header.get("sums"), reply.header.get("count")
        if node in requests and isinstance(sums, dict) and count in (0, 1):
            good = {str(name): float(value) for name, value in sums.items() if 0 <= float(value) <= 1}
            found = found.merge(Sums(good if count else {}, count))
    return found


def results(session: Session, number: int, found: Sums, seconds: float) -> dict[str, Any]:
    """Return the content of metrics.json: the keys of a simulation's, empty where nobody may know."""
    experiment, dataset, lines = session.experiment, session.dataset, session.folder.exact_rounds()
    means, train = found.result(), sum(line["seconds"] for line in lines)
    test = {
        kind: {name.removeprefix(f"{kind}_"): value for name, value in means.items() if name.startswith(f"{kind}_")}
        for kind in ("full", "sampled")
    }
    return {
        "dataset": {
            "name": dataset.name,
            "users": dataset.interactions.users,
            "items": len(dataset.catalogue),
            "interactions": None,
            "split": dataset.split,
            "population": dataset.population,
            "catalogue": dataset.catalogue.origin,
        },
        **experiment.names(),
        "engine": "devices",
        "rounds": number,
        "seed": experiment.seed,
        "refit": experiment.algorithm.refit,
        "release": CONSENTED,
        "validation": None,
        "test": {**test, "users": found.count},
        "baselines": {name: {} for name in CONTRACT_BASELINES},
        "privacy": privacy(session),
        "devices_per_second": sum(line["answered"] for line in lines) / max(train, 1e-9),
        "bytes": {key: sum(line[f"bytes_{key}"] for line in lines) for key in ("down", "up")},
        "seconds": {"train": train, "evaluate": 0.0, "total": seconds},
    }
