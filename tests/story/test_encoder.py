"""A pretrained encoder travels to a hospital once: over kills of both programs, and for every later plan."""

import json
from pathlib import Path
from typing import Any

import yaml

from hospitals import small_plan
from ynet import plan as plans
from ynet import weights
from ynet.data.manifest import find_sites
from ynet.data.synthetic import make_federation
from ynet.encoders import EncoderName
from ynet.learning.model import arrays_of
from ynet.learning.timm_encoder import TimmEncoder
from ynet.runtime import private_files
from ynet_client import audit
from ynet_lab.trial import Trial
from ynet_server import encoder_files

NAME: EncoderName = "tf_efficientnet_lite0"


def added(home: Path) -> encoder_files.StoredEncoder:
    """Add an encoder with random weights to a server's folder."""
    folder = private_files.make_folder(home / encoder_files.FOLDER)
    weights.save(folder / "made.partial", arrays_of(TimmEncoder(NAME, is_pretrained=True).net), {"encoder": NAME})
    return encoder_files.keep(folder, folder / "made.partial")


def planned(path: Path, sha256: str, seed: int) -> dict[str, Any]:
    cohort = {"min_sites": 1, "quorum": 1, "round_deadline_s": 300}
    values = yaml.safe_load(small_plan(path, cohort=cohort, trained="heads", seed=seed).read_text("utf-8"))
    values["network"] = {"code_bits": 64, "encoder": NAME, "encoder_weights": sha256}
    path.write_text(yaml.safe_dump(values), "utf-8")
    return {"plan": json.loads(plans.read(path).canonical()), "init": None}


def test_encoder_is_fetched_once_over_kills_and_plans(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 16}, seed=1, size=32)
    with Trial(tmp_path / "trial", find_sites(tmp_path / "data")) as trial:
        trial.start_server()
        stored = added(trial.server_home)
        trial.join("A")
        trial.wait_connected("A")
        first = trial.server_call("POST", "/runs", json=planned(tmp_path / "1.yaml", stored.sha256, 1))["run"]
        trial.wait_for_event(first, "started", 1)
        trial.kill("A")
        trial.kill("server")
        trial.start_server()
        trial.join("A")
        trial.wait_for_event(first, "finished", 1)
        second = trial.server_call("POST", "/runs", json=planned(tmp_path / "2.yaml", stored.sha256, 2))["run"]
        trial.wait_for_event(second, "finished", 1)
        fetched = [entry.about for entry in audit.read(trial.home("A")) if entry.kind == "fetched"]
        assert fetched == [f"encoder {stored.sha256}, {stored.bytes} bytes"]
