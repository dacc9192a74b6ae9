"""A site's settings are checked when they are given, and stored only when they work on this machine."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from ynet.config import parse
from ynet.data.synthetic import make_federation
from ynet.errors import UserError
from ynet.learning import device
from ynet_client import settings_check
from ynet_client.settings import FILE, ClientSettings, load, read
from ynet_lab.trial import command

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
PAGE = {"enabled": True}


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"device": "mps"}, "the device 'mps' cannot be used"),
        ({"workbench": {**PAGE, "host": "192.0.2.1"}}, "the setting workbench.host is '192.0.2.1'"),
        ({"workbench": {**PAGE, "host": "no-such-host.invalid"}}, "the setting workbench.host is"),
        ({"metrics": {"host": "192.0.2.1", "port": 1}}, "the setting metrics.host is '192.0.2.1'"),
        ({"workbench": {**PAGE, "port": 8450}, "metrics": {"port": 8450}}, "the setting metrics.port cannot be used"),
        ({"workbench": {**PAGE, "certificate": "/no/file", "key": "/no/file"}}, "workbench.certificate"),
        ({"workbench": {**PAGE, "key": "/no/file"}}, "the workbench's certificate cannot be used"),
        ({"disclosure": {"allow": ["A"], "deny": ["A"]}}, "site A is both allowed and denied"),
        ({"disclosure": {"deny": ["-A"]}}, "'-A' cannot name a site"),
        ({"sites": ["B=1234"]}, "fingerprint"),
    ],
)
def test_a_setting_that_this_machine_cannot_do_is_named(values: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        settings_check.check(parse(ClientSettings, values, "settings"))
    assert caught.value.do


def test_the_defaults_and_two_pages_on_two_addresses_are_fit() -> None:
    two = {"workbench": {**PAGE, "port": 8450}, "metrics": {"host": "127.0.0.2", "port": 8450}}
    for values in ({}, two):
        settings_check.check(parse(ClientSettings, values, "settings"))


def test_removed_setting_is_refused_but_its_remembered_default_is_dropped(tmp_path: Path) -> None:
    home, other = tmp_path / FILE, tmp_path / "other.yaml"
    for file, value in ((home, "true"), (other, "true"), (other, "false")):
        file.write_text(f"disclosure:\n  max_k: 7\n  detail: {value}\n", "utf-8")
        with pytest.raises(UserError, match=r"the key 'disclosure\.detail' was removed") as refused:
            read(tmp_path, None if file == home else other)
        assert refused.value.do == "delete the line"
    home.write_text("disclosure:\n  max_k: 7  # default\n  detail: false  # default\n", "utf-8")
    assert load(tmp_path, None).disclosure.max_k == 7
    assert "detail" not in home.read_text("utf-8")


@no_gpu
@pytest.mark.may_skip
def test_a_gpu_that_is_not_there_is_refused_by_name_and_auto_does_without() -> None:
    with pytest.raises(UserError, match="the device 'cuda' cannot be used") as caught:
        device.choose("cuda")
    assert torch.__version__ in caught.value.why
    assert device.choose("auto") == torch.device("cpu")


@no_gpu
@pytest.mark.may_skip
def test_join_check_doctor_and_config_show_refuse_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 8}, seed=1, size=32)
    data, home = tmp_path / "data" / "A" / "manifest.csv", tmp_path / "home"
    joining = ("join", "--site", "A", "--invitation", "x", "--data", data)
    refused = command("ynet_client", *joining, "--device", "cuda", home=home)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[0] == "error: the device 'cuda' cannot be used"
    assert not (home / FILE).exists()  # and the next join, without the flag, is not refused for it
    (home / FILE).write_text(f"data: {data}\ndevice: cuda\n", "utf-8")
    for arguments in (("check",), ("config", "show"), joining):
        done = command("ynet_client", *arguments, "--home", home)
        assert done.returncode == 2, done.stderr
        assert "the device 'cuda' cannot be used" in done.stderr, arguments


@pytest.mark.parametrize(("flag", "value"), [("--device", "cuda:7"), ("--threads", "-1")])
def test_a_flag_out_of_its_range_is_the_users_to_mend(tmp_path: Path, flag: str, value: str) -> None:
    done = command("ynet_client", "join", "--site", "A", "--data", "x.csv", flag, value, home=tmp_path / "home")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"error: the flags of join: '{flag[2:]}' is ")


def test_a_server_whose_ports_are_one_or_whose_host_is_elsewhere_does_not_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for listen, what in (
        ({"host": "127.0.0.1", "hub_port": port, "enrolment_port": port}, "listen.hub_port is"),
        ({"host": "192.0.2.1"}, "listen.host is '192.0.2.1'"),
    ):
        (tmp_path / "server.yaml").write_text(f"listen: {listen}\n", "utf-8")
        done = command("ynet_server", "start", "--config", tmp_path / "server.yaml", home=tmp_path / "home")
        assert done.returncode == 2
        assert what in done.stderr
