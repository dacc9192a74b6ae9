"""A real Prometheus (Debian's package) for tests."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from needs import needed

WITHIN_S = 60.0


def free_ports(count: int) -> list[int]:
    """Return unused ports."""
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in opened]
    for one in opened:
        one.close()
    return ports


class Prometheus:
    """A running Prometheus and its HTTP API."""

    def __init__(self, port: int) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=10)

    def close(self) -> None:
        self._http.close()

    def ask(self, path: str, **query: str) -> Any:
        """Return the data of an answer, or None while Prometheus is not ready."""
        try:
            answer = self._http.get(path, params=query)
        except httpx.TransportError:
            return None
        return answer.json()["data"] if answer.is_success else None

    def value(self, query: str) -> float | None:
        """Return the single value of a query, or None without one."""
        found = self.ask("/query", query=query)
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

    def until(self, query: str, holds: Callable[[float], bool]) -> float:
        """Wait for an expected value and return it."""
        end, value = time.monotonic() + WITHIN_S, None
        while time.monotonic() < end:
            value = self.value(query)
            if value is not None and holds(value):
                return value
            time.sleep(0.1)
        raise TimeoutError(f"{query} is {value}")


@contextmanager
def prometheus(folder: Path, config: Path, targets: Mapping[str, list[int]]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `targets`, by job, each second, with the rest of `config` unchanged."""
    (port,) = free_ports(1)
    folder.mkdir()
    values = yaml.safe_load(config.read_text("utf-8"))
    values["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    values["rule_files"] = [str(config.parent / name) for name in values["rule_files"]]
    for job in values["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{one}" for one in targets[job["job_name"]]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(values), "utf-8")
    flags = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([needed("prometheus"), *flags], stdout=log, stderr=log)
    asked = Prometheus(port)
    try:
        yield asked
    finally:
        asked.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
