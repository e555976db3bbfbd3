"""Metrics for Prometheus, over HTTP on loopback."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from fedrec.errors import FedrecError

INDEX = '<!doctype html><html lang="en"><title>fedrec</title><p><a href="/metrics">Metrics for Prometheus</a></html>\n'


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name with its unit, what it is, and its value, None where there is none now.

    A counter only grows while its process runs; Prometheus reads it under its name with `_total` behind it.
    """

    name: str
    help: str
    value: float | None
    counter: bool = False


@dataclass(frozen=True, eq=False)
class Metrics(Collector):
    """Metrics as they are now, all with the same labels."""

    metrics: Sequence[Metric]
    labels: Mapping[str, str]

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield those that have a value."""
        for metric in self.metrics:
            if metric.value is not None:
                family = CounterMetricFamily if metric.counter else GaugeMetricFamily
                one = family(metric.name, metric.help, labels=list(self.labels))
                one.add_metric(list(self.labels.values()), metric.value)
                yield one


def text(metrics: Sequence[Metric], labels: Mapping[str, str]) -> str:
    """Return the metrics in Prometheus' text format, all with the same labels."""
    registry = CollectorRegistry()
    registry.register(Metrics(metrics, labels))
    return generate_latest(registry).decode()


class QuietHandler(WSGIRequestHandler):
    """Answers without a line in the log."""

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextlib.contextmanager
def serve_metrics(port: int | None, page: Callable[[], str]) -> Generator[None]:
    """Serve `page()` at http://127.0.0.1:port/metrics while inside, and a link to it at /; None serves nothing."""
    if port is None:
        yield
        return

    def answer(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        found = {"/": ("text/html; charset=utf-8", lambda: INDEX), "/metrics": (CONTENT_TYPE_LATEST, page)}
        kind, content = found.get(environ["PATH_INFO"], ("text/plain", None))
        body = b"not found: the metrics are at /metrics\n" if content is None else content().encode()
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        start_response("404 Not Found" if content is None else "200 OK", headers)
        return [body]

    try:
        server = make_server("127.0.0.1", port, answer, ThreadingWSGIServer, QuietHandler)
    except (OSError, OverflowError) as error:
        raise FedrecError(f"--metrics {port}: {error}; another port is needed") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
