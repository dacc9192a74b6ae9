"""The same two apps on Flower's own infrastructure, with TLS and node authentication. Flower makes it slow."""

import datetime as dt
import ipaddress
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hospitals import small_plan
from ynet import plan as plans
from ynet.data.synthetic import make_federation
from ynet_lab.trial import command
from ynet_server.rounds.run_folder import RunFolder

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 60.0


def write_certificate(folder: Path) -> None:
    """Write a self-signed certificate for 127.0.0.1: key.pem, certificate.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))


def write_node_key(folder: Path, site: str) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    private = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    (folder / site).write_bytes(key.private_bytes(*private))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (folder / f"{site}.pub").write_bytes(public)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def running(log: Path, environment: dict[str, str], *command: object) -> Iterator[None]:
    """Run a process in its own session, and end it with all its children."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(BIN / str(command[0])), *map(str, command[1:])],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def wait_until_listening(port: int) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until, f"nothing listens on port {port}"
            time.sleep(0.1)


@pytest.mark.timeout(280)
def test_superlink_round_leaves_the_same_run_folder(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 12, "B": 12}, seed=1, size=32)
    plan = small_plan(tmp_path / "plan.yaml", rounds=1)
    plan.write_text(plan.read_text("utf-8").replace("min_sites: 3", "min_sites: 2").replace("quorum: 3", "quorum: 2"))
    write_certificate(tmp_path)
    port = free_port()
    flower_home = tmp_path / "flwr"
    flower_home.mkdir()
    root = tmp_path / "certificate.pem"
    (flower_home / "config.toml").write_text(
        f'[superlink]\ndefault = "trial"\n'
        f'[superlink.trial]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{root}"\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }

    def flwr(*arguments: object) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    link = ("--ssl-ca-certfile", root, "--ssl-certfile", root, "--ssl-keyfile", tmp_path / "key.pem")
    safe = ("--enable-supernode-auth", "--disable-runtime-dependency-installation")
    place = ("--database", tmp_path / "state.db", "--host", "127.0.0.1", "--port", port)
    with running(tmp_path / "superlink.log", environment, "flower-superlink", *link, *safe, *place):
        wait_until_listening(port)
        for site in ("A", "B"):
            write_node_key(tmp_path, site)
            flwr("supernode", "register", tmp_path / f"{site}.pub", "trial")

        def node(site: str) -> tuple[object, ...]:
            manifest = tmp_path / "data" / site / "manifest.csv"
            home = tmp_path / "homes" / site
            accepted = command("ynet_client", "plan", "accept", plans.read(plan).id, "--home", home)
            assert accepted.returncode == 0, accepted.stderr
            own = ("--port", free_port(), "--node-config", f'manifest="{manifest}" home="{home}" device="cpu"')
            server = ("--superlink", f"127.0.0.1:{port}", "--root-certificates", root)
            return ("flower-supernode", *server, "--auth-supernode-private-key", tmp_path / site, *own)

        with (
            running(tmp_path / "A.log", environment, *node("A")),
            running(tmp_path / "B.log", environment, *node("B")),
        ):
            where = f'plan="{plan}" output="{tmp_path / "run"}"'
            shown = flwr("run", ROOT, "trial", "--stream", "--run-config", where)
    logs = shown + "".join(f"\n{n}: {(tmp_path / f'{n}.log').read_text()[-3000:]}" for n in ("superlink", "A", "B"))
    folder = RunFolder(tmp_path / "run")
    events = folder.events()
    assert events, logs
    assert [event["kind"] for event in events][-1] == "finished", (events, logs)
    assert len(events[-2]["sites"]) == 2
    assert folder.card()["model_id"] == events[-1]["model"]
