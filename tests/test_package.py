"""Properties of the installed packages."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = "import sys; sys.modules.update(dict.fromkeys({names!r})); import {module}"


def imports_without(module: str, *names: str) -> bool:
    script = BLOCK.format(names=names, module=module)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("module", ["ynet_server.commands.cli", "ynet_server.process", "ynet_server.rounds.server_app"])
def test_server_runs_without_torch(module: str) -> None:
    assert imports_without(module, "torch", "timm", "torchvision", "jaxtyping", "PIL", "opacus", "faiss", "ray")


def test_a_site_connects_before_torch_is_loaded() -> None:
    assert imports_without("ynet_client.join", "torch")
    assert not imports_without("ynet_client.resources", "torch")


def test_timm_is_imported_for_its_own_encoders_alone() -> None:
    assert imports_without("ynet.learning.model", "timm", "torchvision")
    assert not imports_without("ynet.learning.timm_encoder", "timm")


def test_timm_needs_no_client_of_a_model_hub() -> None:
    assert imports_without("ynet.learning.timm_encoder", "huggingface_hub")


def test_generated_code_matches_proto_files(tmp_path: Path) -> None:
    sources = ["ynet/federation/hub.proto", "ynet/federation/retrieval.proto"]
    generate = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", *sources]
    subprocess.run(generate, cwd=ROOT, check=True)
    for source in sources:
        generated = source.replace(".proto", "_pb2.py")
        assert (tmp_path / generated).read_text("utf-8") == (ROOT / generated).read_text("utf-8")


def test_server_without_terminal_stops_cleanly(tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("listen: {host: 127.0.0.1, hub_port: 0, enrolment_port: 0}\n")
    command = [sys.executable, "-m", "ynet_server", "start", "--home", tmp_path / "home", "--config", config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        while not server.stdout.readline().startswith(b"ready"):
            pass
        server.stdout.close()
        server.terminate()
        assert b"Traceback" not in server.stderr.read()
