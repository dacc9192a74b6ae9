"""A site whose data are away for a while during a run, needed for the quorum or not."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Consortium, play, runs, tiny_app
from tiny_runs import TRAININGS, by_hand, events, federate, honest, model, plan

from ynet.errors import UserError
from ynet.weights import Flat
from ynet_server.rounds import attendance
from ynet_server.rounds.run_folder import RunFolder

AWAY_S = 1.2


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attendance, "WAIT_AFTER_FAILED_ROUND_S", 0.05)
    monkeypatch.setattr(attendance, "POLL_S", 0.02)
    return iter(())


class Data:
    """Site A's data, in a folder that goes away when round 1 reads it, and comes back."""

    def __init__(self, folder: Path, away_for_s: float = AWAY_S) -> None:
        self._file, self._away_for_s = folder / "data" / "case", away_for_s
        self._file.parent.mkdir()
        self._file.touch()
        self._back: threading.Timer | None = None

    def train(self, number: int, flat: Flat) -> Flat:
        if number == 1 and self._back is None:
            self._file.parent.rename(self._file.parent.with_name("away"))
            self._back = threading.Timer(self._away_for_s, self.come_back)
            self._back.daemon = True
            self._back.start()
        try:
            self._file.read_bytes()
        except OSError as error:
            raise UserError("image case cannot be read", str(error.strerror), "check the path") from None
        return TRAININGS["A"][0](number, flat)

    def come_back(self) -> None:
        self._file.parent.with_name("away").rename(self._file.parent)


def test_a_run_waits_for_a_site_whose_share_is_away_and_has_its_update(tmp_path: Path) -> None:
    apps, cases = honest()
    folder = RunFolder(tmp_path / "run").create(plan(min_sites=3, quorum=3, deadline_s=20))

    async def story(consortium: Consortium) -> None:
        joined = {}
        for name, app in {**apps, "A": tiny_app(Data(tmp_path).train, 30)}.items():
            joined[name] = await consortium.join(name, runs(app, cases[name]))
        await federate(consortium, folder)
        assert sum("tried again for 18 s" in line for line in joined["A"].said) == 1

    play(tmp_path, story)
    np.testing.assert_allclose(model(folder), by_hand(2), rtol=1e-5)
    assert not events(folder, "under_quorum")


def test_unavailable_data_beyond_a_round_do_not_end_the_run(tmp_path: Path) -> None:
    apps, cases = honest()
    folder = RunFolder(tmp_path / "run").create(plan(min_sites=3, quorum=3, deadline_s=2.0))

    async def story(consortium: Consortium) -> None:
        for name, app in {**apps, "A": tiny_app(Data(tmp_path, 6.0).train, 30)}.items():
            await consortium.join(name, runs(app, cases[name]))
        await federate(consortium, folder)

    play(tmp_path, story)
    np.testing.assert_allclose(model(folder), by_hand(2), rtol=1e-5)
    assert attendance.REFUSED_AT_MOST < len(events(folder, "under_quorum")) < 20  # spaced: 0.05 s each would be 80
    reasons = {event["reason"] for event in events(folder, "site_failed")}
    assert "the site cannot read its data, or its disk is full, at the moment" in reasons


def test_a_site_whose_data_stay_away_holds_up_one_round_and_no_more(tmp_path: Path) -> None:
    apps, cases = honest()
    folder = RunFolder(tmp_path / "run").create(plan(rounds=4, min_sites=3, deadline_s=5.0))

    async def story(consortium: Consortium) -> None:
        for name, app in {**apps, "A": tiny_app(Data(tmp_path, 60.0).train, 30)}.items():
            await consortium.join(name, runs(app, cases[name]))
        await federate(consortium, folder)

    play(tmp_path, story)
    np.testing.assert_allclose(model(folder), by_hand(4, "BC"), rtol=1e-5)
    assert {event["site"] for event in events(folder, "site_failed")} == {"A"}
    first, *others = [event["seconds"] for event in events(folder, "round")]
    assert first > 4.4
    assert max(others) < 4.4
