"""Counts for Prometheus, over HTTP on loopback: the text format needs no library."""

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fedrec.errors import FedrecError


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name with its unit, what it is, and its value, None where there is none now."""

    name: str
    help: str
    value: float | None
    kind: str = "gauge"


def text(figures: Sequence[Metric], labels: Mapping[str, str]) -> str:
    """Return the figures in Prometheus' text format, version 0.0.4, all with the same labels."""
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items()))
    lines = list[str]()
    for figure in figures:
        if figure.value is not None:
            lines += [f"# HELP {figure.name} {figure.help}", f"# TYPE {figure.name} {figure.kind}"]
            lines.append(f"{figure.name}{{{shown}}} {figure.value!r}" if shown else f"{figure.name} {figure.value!r}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@contextlib.contextmanager
def serve_metrics(port: int | None, page: Callable[[], str]) -> Generator[None]:
    """Serve `page()` at http://127.0.0.1:port/metrics while inside; None serves nothing."""
    if port is None:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer /metrics."""
            if self.path.split("?")[0] != "/metrics":
                self.send_error(404)
                return
            content = page().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise FedrecError(f"--metrics {port}: {error}; another port is needed") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
