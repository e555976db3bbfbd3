"""What a device needs: `python -m simulations.benchmarks.device` measures memory, imports and recommendations.

Memory and imports: each engine in a process of its own, a device of 165 interactions on a catalogue of ML-1M's size
(3,706 items), MF of 32 dimensions, through the same `Device`, beside Flower's part of the one process that a device
keeps. Answers: the service in a process of its own on a Unix socket, 62,000 items of 64 dimensions, 200 interactions.
The data are drawn; sizes decide the cost.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data import catalogue as wire
from fedrec.data.catalogue import Catalogue
from fedrec.experiment.settings import load
from fedrec.messages import PROTOCOL, Message, pack

TRAINED_ITEMS, TRAINED_EVENTS, TRAINED_DIM = 3_706, 165, 32
SERVED_ITEMS, SERVED_EVENTS, SERVED_DIM = 62_000, 200, 64
WILLING = '[privacy]\ntrust = ["server", "none"]\n[participation]\nidle = false\ncharging = false\nunmetered = false\n'
ENGINES = {"light": "import fedrec.numpy_engine.node", "torch": "import fedrec.federated.node, opacus"}
CHILD = """
import resource, sys, time
from pathlib import Path

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

def clock():
    return time.perf_counter(), time.process_time()

start = clock()
import numpy, fedrec.flower.fleet
base, base_memory = clock(), memory("VmRSS")
import fedrec.device.process
{imports}
end, loaded = clock(), memory("VmRSS")
if len(sys.argv) > 1:
    from fedrec.device.device import Device
    from fedrec.device.home import Home
    from fedrec.messages import unpack
    request = unpack(Path(sys.argv[2]).read_bytes())
    device = Device(Home(Path(sys.argv[1])))
    for number in (1, 2, 3):
        request.header["round"] = number
        reply = device.answer(request)
        assert reply.header.get("count") == 1, reply.header
taken = [b - a for one, two in ((start, base), (base, end)) for a, b in zip(one, two)]
work = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # a round is carried out in a process of its own
print(*taken, base_memory, loaded, max(memory("VmHWM"), work))
"""


def drawn(items: int, dim: int) -> tuple[Catalogue, dict[str, Any]]:
    """Return a catalogue of that many items and the shared arrays of an MF model on it."""
    rng = np.random.default_rng(0)
    ids = np.array([f"m{n}" for n in range(items)])
    titles = np.array([f"The film with the number {n} ({1920 + n % 100})" for n in range(items)])
    names = tuple(f"genre:{n}" for n in range(18))
    features = (rng.random((items, 18)) < 0.1).astype(np.float32)
    arrays = {"item.weight": rng.normal(0, 0.3, (items, dim)), "item_bias.weight": rng.normal(0, 0.3, (items, 1))}
    return Catalogue(ids, titles, features, names, "item file"), {n: a.astype(np.float32) for n, a in arrays.items()}


def prepared(folder: Path, engine: str, items: int, dim: int, events: int) -> tuple[Any, Message]:
    """Make a device with a catalogue, a model and a history; return its home and a train request for it."""
    from fedrec.device import saved_state
    from fedrec.device.home import Enrolment, Home, enroll
    from fedrec.device.store import Event

    home, (catalogue, arrays) = Home(folder), drawn(items, dim)
    enroll(home, Enrolment("127.0.0.1:1", None, engine), None)
    home.policy.write_text(WILLING)
    chosen = ["dataset=devices", "dataset.devices=1", "dataset.path=items.csv", "model=mf", f"model.dim={dim}"]
    experiment = load([*chosen, "privacy=none"]).experiment
    header = {"protocol": PROTOCOL, "run": "bench", "round": 1, "kind": "train", "part": "train", "devices": [0]}
    request = Message({**header, "experiment": experiment.document, "hash": experiment.hash, "privacy": {}}, arrays)
    store = home.store()
    saved_state.save_catalogue(store, Message(*wire.encode(catalogue)))
    saved_state.save_model(store, request)
    rows = np.random.default_rng(1).choice(items, events, replace=False)
    store.log_events(Event(str(catalogue.ids[row]), float(at)) for at, row in enumerate(rows))
    store.close()
    return home, request


def environment() -> dict[str, str]:
    """Return an environment in which children find the apps and fedrec, on one thread."""
    paths = [str(Path(__file__).parents[2])]
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}


def client(engine: str, repeats: int) -> dict[str, float]:
    """Return seconds and MiB of one engine: medians of imports, the peak of three rounds of training."""
    with tempfile.TemporaryDirectory() as folder:
        home, request = prepared(Path(folder) / "device", engine, TRAINED_ITEMS, TRAINED_DIM, TRAINED_EVENTS)
        (Path(folder) / "request").write_bytes(pack(request))
        command = [sys.executable, "-c", CHILD.replace("{imports}", ENGINES[engine])]
        runs = list[list[float]]()
        for number in range(repeats):
            more = [str(home.path), f"{folder}/request"] if number == 0 else []
            said = subprocess.run([*command, *more], env=environment(), stdout=subprocess.PIPE, text=True, check=True)
            runs.append([float(word) for word in said.stdout.split()[-7:]])
    named = ("import_flwr_and_numpy_seconds", "the_same_cpu_seconds", "import_on_top_seconds", "on_top_cpu_seconds")
    seconds = {name: statistics.median(run[place] for run in runs) for place, name in enumerate(named)}
    return {**seconds, "flwr_and_numpy_mib": runs[0][4], "imported_mib": runs[0][5], "training_peak_mib": runs[0][6]}


def processor_ms(process: int) -> float:
    """Return how long the threads of a process have had a processor, in milliseconds."""
    found = 0
    for path in list(Path(f"/proc/{process}/task").iterdir()):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += int((path / "schedstat").read_text().split()[0])
    return found / 1e6


def timed(
    process: int, call: Callable[[], Any], times: int, before: Callable[[], Any] | None = None
) -> dict[str, float]:
    """Return percentiles of a call in milliseconds, and of what it took of the service's processor time.

    The second hardly depends on what else the machine does. 20 calls don't count; the time of `before`, which is
    called before each, is not a call's.
    """
    taken, worked = list[float](), list[float]()
    for number in range(-20, times):
        if before is not None:
            before()
        had, begun = processor_ms(process), time.perf_counter()
        call()
        if number >= 0:
            taken.append(1000 * (time.perf_counter() - begun))
            worked.append(processor_ms(process) - had)
    return {
        **{f"p{p}_ms": float(np.percentile(taken, p)) for p in (50, 99)},
        **{f"processor_p{p}_ms": float(np.percentile(worked, p)) for p in (50, 99)},
        "calls": times,
    }


def service(times: int, size: int) -> dict[str, Any]:
    """Return how long the recommender takes to answer over its socket, from a catalogue of that size."""
    import grpc

    from fedrec.device import recommender_pb2, recommender_pb2_grpc

    with tempfile.TemporaryDirectory() as folder:
        home, _ = prepared(Path(folder) / "device", "light", size, SERVED_DIM, SERVED_EVENTS)
        command = [sys.executable, "-m", "fedrec", "client", "serve", "--home", str(home.path)]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        try:
            with grpc.insecure_channel(f"unix:{home.path / 'recommend.sock'}") as channel:
                grpc.channel_ready_future(channel).result(timeout=120)
                stub = recommender_pb2_grpc.RecommenderStub(channel)
                plain, told = (recommender_pb2.RecommendRequest(k=10, explain=explain) for explain in (False, True))
                items = iter(range(size))

                def event() -> Any:
                    return stub.LogEvent(recommender_pb2.Event(item=f"m{next(items)}"))

                few = max(1, times // 4)
                found = {
                    "recommend": timed(process.pid, lambda: stub.Recommend(plain), times),
                    "recommend_with_reasons": timed(process.pid, lambda: stub.Recommend(told), times),
                    "log_event": timed(process.pid, event, few),
                    "recommend_right_after_an_event": timed(process.pid, lambda: stub.Recommend(plain), few, event),
                    "with_reasons_right_after_an_event": timed(process.pid, lambda: stub.Recommend(told), few, event),
                }
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
        finally:
            process.terminate()
            process.wait(30)
    return {**found, "items": size, "dimensions": SERVED_DIM, "service_peak_mib": peak}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m simulations.benchmarks.device", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="processes a median is over (default: 5)")
    parser.add_argument("--calls", type=int, default=2000, help="calls timed (default: 2000)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[*ENGINES], help="(default: both)")
    parser.add_argument("--items", type=int, default=SERVED_ITEMS, help=f"of the service (default: {SERVED_ITEMS})")
    options = parser.parse_args()
    clients = {engine: client(engine, options.repeats) for engine in options.engines}
    found = {"clients": clients, "service": service(options.calls, options.items), "load_average": os.getloadavg()[0]}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
