"""Pretrained encoders at the server: how they are kept, found and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from smallest_plan import smallest_plan

from ynet import weights
from ynet.errors import UserError
from ynet.plan import Plan
from ynet.plan_sections import Init, Network
from ynet_server import encoder_files
from ynet_server.rounds.run_folder import RunFolder

ARRAYS = {"conv1.weight": np.ones((2, 3), np.float32), "bn1.bias": np.zeros(2, np.float32)}


def added(folder: Path, name: str = "resnet18", value: float = 1.0) -> encoder_files.StoredEncoder:
    folder.mkdir(exist_ok=True, parents=True)
    arrays = {**ARRAYS, "conv1.weight": np.full((2, 3), value, np.float32)}
    weights.save(folder / "made.partial", arrays, {encoder_files.NAME: name})
    return encoder_files.keep(folder, folder / "made.partial")


def planned(sha256: str, encoder: str = "resnet18") -> Plan:
    return replace(smallest_plan(), network=Network(encoder=encoder, encoder_weights=sha256))  # type: ignore[arg-type]


def test_same_weights_have_the_same_digest(tmp_path: Path) -> None:
    one, two = added(tmp_path / "one"), added(tmp_path / "two")
    assert one == two
    assert added(tmp_path / "one") == one
    assert encoder_files.listed(tmp_path / "one") == [one]
    assert added(tmp_path / "one", value=2.0).sha256 != one.sha256
    assert not list((tmp_path / "one").glob("*.partial"))


def test_list_has_every_encoder_by_name(tmp_path: Path) -> None:
    assert encoder_files.listed(tmp_path / "absent") == []
    stored = {added(tmp_path, name) for name in ("resnet50", "convnext_tiny")}
    found = encoder_files.listed(tmp_path)
    assert set(found) == stored
    assert [one.encoder for one in found] == ["convnext_tiny", "resnet50"]


def test_run_begins_with_the_encoder_under_its_names_in_the_network(tmp_path: Path) -> None:
    stored = added(tmp_path / "encoders", value=3.0)
    folder = RunFolder(tmp_path / "run", encoders=tmp_path / "encoders").create(planned(stored.sha256))
    given = folder.init()
    assert given is not None
    assert set(given) == {"encoder.net.conv1.weight", "encoder.net.bn1.bias"}
    assert (given["encoder.net.conv1.weight"] == 3.0).all()


def test_init_comes_after_the_encoder(tmp_path: Path) -> None:
    stored = added(tmp_path / "encoders")
    init = {"encoder.net.bn1.bias": np.full(2, 7, np.float32), "hash.bias": np.ones(3, np.float32)}
    weights.save(tmp_path / "init.safetensors", init, {})
    digest = encoder_files._digest(tmp_path / "init.safetensors")
    plan = replace(planned(stored.sha256), init=Init("init.safetensors", digest))
    folder = RunFolder(tmp_path / "run", encoders=tmp_path / "encoders").create(plan, tmp_path / "init.safetensors")
    given = folder.init()
    assert given is not None
    assert (given["encoder.net.bn1.bias"] == 7).all()
    assert (given["encoder.net.conv1.weight"] == 1).all()
    assert "hash.bias" in given


def test_plan_without_weights_begins_with_none(tmp_path: Path) -> None:
    plan = replace(smallest_plan(), network=Network(encoder="resnet18"))
    assert RunFolder(tmp_path / "run", encoders=tmp_path / "encoders").create(plan).init() is None


def test_unknown_encoder_is_refused_before_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", encoders=tmp_path / "encoders")
    with pytest.raises(UserError, match="encoder weights aaaaaaaaaaaa cannot be used"):
        folder.create(planned("a" * 64))
    assert not folder.path.exists()


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    stored = added(tmp_path / "encoders", "resnet50")
    with pytest.raises(UserError) as raised:
        RunFolder(tmp_path / "run", encoders=tmp_path / "encoders").create(planned(stored.sha256))
    assert "they are of resnet50" in raised.value.why


def test_changed_file_is_refused(tmp_path: Path) -> None:
    stored = added(tmp_path / "encoders")
    folder = RunFolder(tmp_path / "run", encoders=tmp_path / "encoders").create(planned(stored.sha256))
    weights.save(tmp_path / f"encoders/{stored.sha256}.safetensors", ARRAYS, {encoder_files.NAME: "resnet18", "a": "b"})
    with pytest.raises(UserError) as raised:
        folder.init()
    assert "its file has changed" in raised.value.why


def test_file_that_is_no_encoder_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"b\.safetensors cannot be read"):
        encoder_files.listed(tmp_path)
