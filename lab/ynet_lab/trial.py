"""A whole consortium on this machine: a server and its sites as processes of their own, each with its own home."""

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
    """Started with `with`, stopped at its end, whatever happens in between. Its files stay in `folder`."""

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
        """`sites`: each site's name and manifest. `policy`, `disclosure`, `workbench`: what their settings say.

        Unsaid, they take part in all plans, and disclose what sites do by default. `metrics`: the ports at which a
        site, or `server`, shows them. `status_port`: where the status page is; 0: nowhere. `is_acquainted`: each
        site's settings name the fingerprints of the others, as admins who have met would write them; else nobody asks
        or answers before `ynet-client sites trust`.
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

    # --- places

    @property
    def server_home(self) -> Path:
        """The server's folder."""
        return self.folder / "server"

    def home(self, site: str) -> Path:
        """A site's folder."""
        return self.folder / "sites" / site

    def metrics_port(self, name: str) -> int:
        """Where a site, or `server`, shows its metrics."""
        return self._metrics[name]

    def log(self, name: str) -> str:
        """What a process has printed so far: a site's name, or `server`."""
        return self._logs[name].read_text("utf-8", errors="replace")

    # --- life

    def __enter__(self) -> "Trial":
        private_files.make_folder(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start_server(self, script: Sequence[object] = ()) -> None:
        """`ynet-server start`, or a script in its place; back when it is ready."""
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
        """Invite a site if it is new, and start `ynet-client join` with some flags; does not wait for it.

        `script` is what is run in the client's place.
        """
        arguments: list[object] = ["join", "--site", site, "--home", self.home(site), "--threads", self._threads]
        if not (self.home(site) / "membership.json").exists():
            invited = self.server_call("POST", "/invitations", json={"site": site, "replace": False})
            self.invitations[site] = invited["invitation"]
            arguments += ["--invitation", "-", "--data", self.sites[site], "--config", self.config(site)]
            self._spawn(site, *script, *arguments, *flags, said=invited["invitation"])
        else:
            self._spawn(site, *script, *arguments, *flags)

    def config(self, site: str) -> Path:
        """Write the settings with which a site joins, the other sites' fingerprints among them; where they lie."""
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
        """Join every site; back when all are connected."""
        for site in self.sites:
            self.join(site)
        self.wait_connected(*self.sites)

    def wait_connected(self, *sites: str) -> None:
        """Back when all of `sites` are connected."""
        until = time.monotonic() + READY_WITHIN_S
        while missing := set(sites) - set(self.server_call("GET", "/status")["connected"]):
            self._check_alive(*missing)
            if time.monotonic() > until:
                raise TimeoutError(
                    f"not connected: {sorted(missing)}\n" + "\n".join(map(self.log, sorted(missing & set(self._logs))))
                )
            time.sleep(0.05)

    def wait_for_event(self, run: int, kind: str, count: int) -> None:
        """Back when a run has had `count` events of a kind."""
        until = time.monotonic() + READY_WITHIN_S
        while True:
            events = self.server_call("GET", f"/runs/{run}/events")["events"]
            if sum(event["kind"] == kind for event in events) >= count:
                return
            if time.monotonic() > until:
                raise TimeoutError(f"run {run} had no {count} events {kind!r}: {events[-3:]}")
            time.sleep(0.02)

    def wait_indexed(self, model: str) -> None:
        """Back when every site answers queries with `model`."""
        until = time.monotonic() + INDEXED_WITHIN_S
        for site in self.sites:
            while self.site_call(site, "GET", "/status")["model"] != model:
                self._check_alive(site)
                if time.monotonic() > until:
                    raise TimeoutError(f"site {site} has not indexed\n{self.log(site)}")
                time.sleep(0.1)

    def stop(self, name: str) -> int:
        """End a process as Ctrl-C would, and wait for it; its exit code, below 0 when it had to be killed."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait()

    def stop_all(self) -> None:
        """End every process; the sites before the server."""
        for name in reversed(list(self._processes)):
            self.stop(name)

    def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def freeze(self, name: str) -> None:
        """Stop a process in the midst of what it does, as a machine that falls asleep would; `thaw` goes on."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen process go on."""
        self._processes[name].send_signal(signal.SIGCONT)

    def pid(self, name: str) -> int:
        """A process's number."""
        return self._processes[name].pid

    # --- talk

    def server_call(self, method: str, path: str, **request: Any) -> Any:
        """What the coordinator's commands call."""
        return control_server.call(self.server_home, method, path, "the server", "the trial starts it", **request)

    def site_call(self, site: str, method: str, path: str, **request: Any) -> Any:
        """What a site's commands call."""
        return control_server.call(self.home(site), method, path, f"site {site}", "the trial starts it", **request)

    def server_command(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """A command of the coordinator, run to its end."""
        return command("ynet_server", *arguments, home=self.server_home)

    def site_command(self, site: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """A command at a site, run to its end."""
        return command("ynet_client", *arguments, home=self.home(site))

    def query(self, site: str, image: Path, k: int = 10, split: str = "") -> dict[str, Any]:
        """The hits for an image, asked at `site`."""
        asked = Query(k, Filters(split=split))
        (answer,) = control_client.query(self.home(site), [control_client.read_image(image)], asked).answers
        return answer.to_json()

    # --- within

    def _acquaintances(self, site: str) -> list[str]:
        """The fingerprints of the other sites' lasting keys, as settings; the keys are made where they are none yet."""
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
        """`said`: what the process is told on its stdin."""
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
            self._check_alive(name)
            if time.monotonic() > until:
                raise TimeoutError(f"{name} did not say {word!r}\n{self.log(name)}")
            time.sleep(0.02)

    def _check_alive(self, *names: str) -> None:
        for name in names:
            if name in self._processes and self._processes[name].poll() is not None:
                raise RuntimeError(f"{name} has ended\n{self.log(name)}")


def environment() -> dict[str, str]:
    """The environment of every process here: several train on few cores, so idle threads must sleep."""
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1", "FLWR_TELEMETRY_ENABLED": "0"}


def command(module: str, *arguments: object, home: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A command run to its end; what it printed and its exit code."""
    extra = {} if home is None else {"YNET_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**environment(), **extra},
        check=False,
        stdin=subprocess.DEVNULL,
    )
