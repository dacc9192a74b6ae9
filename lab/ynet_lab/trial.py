"""A consortium on this machine: a server and sites, each a separate process with its own home folder."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from ynet.runtime import control_server, private_files
from ynet.runtime.home import prepare, write_private
from ynet.trust import lasting_key
from ynet_client import control_client
from ynet_client.gallery.filters import Filters
from ynet_client.membership import membership
from ynet_client.retrieval.query import Query

READY_WITHIN_S = 60.0
INDEXED_WITHIN_S = 600.0
STOP_WITHIN_S = 20.0


class Trial:
    """A server and its sites, as a context manager that stops them on exit. Their files stay in `folder`."""

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, Path],
        threads: int = 1,
        federation: str = "trial",
        policy: Mapping[str, Any] | None = None,
        disclosure: Mapping[str, Any] | None = None,
        workbench: Mapping[str, Any] | None = None,
        metrics: Mapping[str, int] | None = None,
        status_port: int = 0,
        *,
        is_acquainted: bool = True,
    ) -> None:
        """Configure the trial.

        Args:
            folder: Where all files are.
            sites: Each site's name and manifest.
            threads: Threads of each site.
            federation: The federation's name.
            policy: The sites' settings of that name. By default they accept all plans.
            disclosure: The sites' settings of that name.
            workbench: The sites' settings of that name.
            metrics: The ports of metrics, by site or `server`.
            status_port: The status page's port; 0: off.
            is_acquainted: Each site's settings have the others' fingerprints. Otherwise no site queries or answers
                before `ynet-client sites trust`.
        """
        self.status_port, self._metrics = status_port, dict(metrics or {})
        self._disclosure, self._workbench = dict(disclosure or {}), dict(workbench or {})
        self._policy = {"new_plans": "accept"} if policy is None else dict(policy)
        self.invitations: dict[str, str] = {}  # by site, as they were made
        self.folder, self.sites, self._threads, self._federation = folder, dict(sites), threads, federation
        self._is_acquainted = is_acquainted
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._logs: dict[str, Path] = {}
        self._begun: dict[str, int] = {}  # where the newest process's lines begin

    # --- paths and ports

    @property
    def server_home(self) -> Path:
        """The server's folder."""
        return self.folder / "server"

    def home(self, site: str) -> Path:
        """A site's folder."""
        return self.folder / "sites" / site

    def metrics_port(self, name: str) -> int:
        """Return the port of the metrics of a site or of `server`."""
        return self._metrics[name]

    def log(self, name: str) -> str:
        """Return the output of a process so far: a site's, or `server`'s."""
        return self._logs[name].read_text("utf-8", errors="replace")

    # --- processes

    def __enter__(self) -> "Trial":
        private_files.make_folder(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start_server(self, script: Sequence[object] = ()) -> None:
        """Run `ynet-server start`, or a script instead; return once it is ready."""
        config = self.folder / "server.yaml"
        listen = {"host": "127.0.0.1", "hub_port": 0, "enrolment_port": 0}
        page = {"status": {"enabled": True, "port": self.status_port}} if self.status_port else {}
        config.write_text(
            yaml.safe_dump({"federation": self._federation, "listen": listen, **page, **self._metrics_of("server")})
        )
        first = ["--config", config] if not (self.server_home / "server.yaml").exists() else []
        ordinary = ["-m", "ynet_server", "start", "--home", self.server_home, *first]
        self._spawn("server", *(script or ordinary))
        self._wait("server", "ready")

    def join(self, site: str, *flags: object, script: Sequence[object] = ("-m", "ynet_client")) -> None:
        """Invite a site if it is new, and start `ynet-client join`, or `script` instead, without waiting for it."""
        arguments: list[object] = ["join", "--site", site, "--home", self.home(site), "--threads", self._threads]
        if not (self.home(site) / "membership.json").exists():
            invited = self.server_call("POST", "/invitations", json={"site": site, "replace": False})
            self.invitations[site] = invited["invitation"]
            arguments += ["--invitation", "-", "--data", self.sites[site], "--config", self.config(site)]
            self._spawn(site, *script, *arguments, *flags, said=invited["invitation"])
        else:
            self._spawn(site, *script, *arguments, *flags)

    def config(self, site: str) -> Path:
        """Write a site's settings, with the other sites' fingerprints; return the path."""
        settings: dict[str, Any] = {
            "policy": self._policy,
            "disclosure": self._disclosure,
            "workbench": self._workbench,
        }
        settings["sites"] = self._acquaintances(site)
        config: Path = self.folder / f"client-{site}.yaml"
        config.write_text(yaml.safe_dump({**settings, **self._metrics_of(site)}))
        return config

    def join_all(self) -> None:
        """Join every site; return once all are connected."""
        for site in self.sites:
            self.join(site)
        self.wait_connected(*self.sites)

    def wait_connected(self, *sites: str) -> None:
        """Wait until all of `sites` are connected."""
        until = time.monotonic() + READY_WITHIN_S
        while missing := set(sites) - set(self.server_call("GET", "/status")["connected"]):
            self.check_alive(*missing)
            if time.monotonic() > until:
                raise TimeoutError(
                    f"not connected: {sorted(missing)}\n" + "\n".join(map(self.log, sorted(missing & set(self._logs))))
                )
            time.sleep(0.05)

    def wait_for_event(self, run: int, kind: str, count: int) -> None:
        """Wait until a run has `count` events of a kind."""
        until = time.monotonic() + READY_WITHIN_S
        while True:
            events = self.server_call("GET", f"/runs/{run}/events")["events"]
            if sum(event["kind"] == kind for event in events) >= count:
                return
            if time.monotonic() > until:
                raise TimeoutError(f"run {run} had no {count} events {kind!r}: {events[-3:]}")
            time.sleep(0.02)

    def wait_indexed(self, model: str, within_s: float = INDEXED_WITHIN_S) -> None:
        """Wait until every site answers queries with `model`."""
        until = time.monotonic() + within_s
        for site in self.sites:
            while self.site_call(site, "GET", "/status")["model"] != model:
                self.check_alive(site)
                if time.monotonic() > until:
                    raise TimeoutError(f"site {site} has not indexed\n{self.log(site)}")
                time.sleep(0.1)

    def stop(self, name: str) -> int:
        """Terminate a process and wait for it; return its exit code, negative if it had to be killed."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait()

    def stop_all(self) -> None:
        """Stop all processes, the sites before the server."""
        for name in reversed(list(self._processes)):
            self.stop(name)

    def kill(self, name: str) -> None:
        """Kill a process."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def check_alive(self, *names: str) -> None:
        """Raise RuntimeError when a process that was started has ended without `stop`."""
        for name in names:
            if name in self._processes and self._processes[name].poll() is not None:
                raise RuntimeError(f"{name} has ended\n{self.log(name)}")

    def freeze(self, name: str) -> None:
        """Suspend a process, like a machine that falls asleep, until `thaw`."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Resume a frozen process."""
        self._processes[name].send_signal(signal.SIGCONT)

    def pid(self, name: str) -> int:
        """Return the id of a process."""
        return self._processes[name].pid

    # --- calls and commands

    def server_call(self, method: str, path: str, **request: Any) -> Any:
        """Call the server's control socket."""
        return control_server.call(self.server_home, method, path, "the server", "the trial starts it", **request)

    def site_call(self, site: str, method: str, path: str, **request: Any) -> Any:
        """Call a site's control socket."""
        return control_server.call(self.home(site), method, path, f"site {site}", "the trial starts it", **request)

    def server_command(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run a command of the coordinator."""
        return command("ynet_server", *arguments, home=self.server_home)

    def site_command(self, site: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run a command at a site."""
        return command("ynet_client", *arguments, home=self.home(site))

    def query(self, site: str, image: Path, k: int = 10, split: str = "") -> dict[str, Any]:
        """Return the answer to a query with an image at `site`."""
        asked = Query(k, Filters(split=split))
        (answer,) = control_client.query(self.home(site), [control_client.read_image(image)], asked).answers
        return answer.to_json()

    # --- details

    def _acquaintances(self, site: str) -> list[str]:
        """Return the fingerprints of the other sites' lasting keys, as settings; make missing keys."""
        if not self._is_acquainted:
            return []
        return [f"{other}={self._fingerprint(other)}" for other in self.sites if other != site]

    def _fingerprint(self, site: str) -> str:
        key = prepare(self.home(site)) / membership.LASTING
        if not key.exists():
            write_private(key, lasting_key.new_key())
        return lasting_key.fingerprint_of(site, lasting_key.public_of(key.read_bytes()))

    def _metrics_of(self, name: str) -> dict[str, Any]:
        return {"metrics": {"port": self._metrics[name]}} if name in self._metrics else {}

    def _spawn(self, name: str, *arguments: object, said: str = "") -> None:
        """Start a process; `said` is its standard input."""
        log = self._logs[name] = self.folder / f"{name}.out"
        self._begun[name] = log.stat().st_size if log.exists() else 0
        with open(log, "ab", opener=private_files.opener) as file:
            process = self._processes[name] = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE,
                env=environment(),
                text=True,
            )
        if process.stdin:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it may have ended
                pipe.write(said)

    def _wait(self, name: str, word: str) -> None:
        until = time.monotonic() + READY_WITHIN_S
        while word not in self.log(name)[self._begun[name] :]:
            self.check_alive(name)
            if time.monotonic() > until:
                raise TimeoutError(f"{name} did not say {word!r}\n{self.log(name)}")
            time.sleep(0.02)


def environment() -> dict[str, str]:
    """Return the environment of every process: several train on few cores, so idle threads must sleep."""
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1", "FLWR_TELEMETRY_ENABLED": "0"}


def command(module: str, *arguments: object, home: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; return its output and its exit code."""
    extra = {} if home is None else {"YNET_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**environment(), **extra},
        check=False,
        stdin=subprocess.DEVNULL,
    )
