"""Consortia of real processes on loopback, small enough for a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from modes import open_to_others, umask

from canaries import strays
from hospitals import SITES, plant_canaries
from ynet.data.manifest import find_sites
from ynet.data.synthetic import make_federation
from ynet_lab.trial import Trial


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make three synthetic hospitals with canaries in their manifests."""
    folder = tmp_path_factory.mktemp("hospitals")
    make_federation(folder, SITES, seed=1, size=48)
    for manifest in find_sites(folder).values():
        plant_canaries(manifest)
    return folder


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Trial]:
    """Start a consortium with connected sites; the hub's traffic goes to `record`."""
    folder = tmp_path_factory.mktemp("consortium")
    recording = [
        Path(__file__).parent / "recording_server.py",
        folder / "server",
        folder / "server.yaml",
        folder / "record",
    ]
    with umask(), Trial(folder, find_sites(data)) as running:
        running.start_server(recording)
        running.join_all()
        yield running
        assert not strays(running)
        assert not open_to_others(*map(running.home, running.sites))
