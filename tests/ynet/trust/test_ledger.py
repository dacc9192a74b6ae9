"""The ledger keeps what was spent: over crashes, and against edits, cuts and old copies."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ynet.trust.ledger import (
    HEAD,
    LEDGER,
    NOTHING,
    BudgetExhaustedError,
    ChainHead,
    Ledger,
    LedgerEntry,
    LedgerError,
    Reservation,
)


def asked(number: int, weights: str = "w") -> Reservation:
    return Reservation("plan", number, 9, f"{weights}{number}", 1.1, 0.1, 10, 1e-3)


def anything(_: Sequence[LedgerEntry]) -> None:
    """A budget without end."""


def filled(home: Path, rounds: int = 3) -> Ledger:
    ledger = Ledger(home)
    for number in range(1, rounds + 1):
        ledger.reserve("data", asked(number), anything)
    return ledger


def test_what_was_reserved_is_there_after_a_restart(tmp_path: Path) -> None:
    before = filled(tmp_path)
    after = Ledger(tmp_path)
    assert after.entries == before.entries
    assert [entry.round for entry in after.entries] == [1, 2, 3]
    assert after.head == before.head


def test_the_last_round_is_reserved_once_and_an_earlier_one_or_another_beginning_once_more(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    assert ledger.reserve("data", asked(3), anything) == ledger.entries[2]
    assert Ledger(tmp_path).reserve("data", asked(3), anything) == ledger.entries[2]
    assert len(ledger.entries) == 3
    ledger.reserve("data", asked(3, "other"), anything)
    assert len(ledger.entries) == 4
    ledger.reserve("data", asked(2), anything)
    ledger.reserve("others", asked(2), anything)
    assert len(ledger.entries) == 6


def test_what_is_spent_on_one_data_set_is_nothing_to_another(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    ledger.reserve("others", asked(1), anything)
    assert len(ledger.of("data")) == 3
    assert len(ledger.of("others")) == 1


def test_a_reservation_beyond_the_budget_leaves_no_trace(tmp_path: Path) -> None:
    ledger = filled(tmp_path)

    def four_at_most(entries: Sequence[LedgerEntry]) -> None:
        if len(entries) > 3:
            raise BudgetExhaustedError("the round is refused", "the budget is spent", "ask the site's admin")

    with pytest.raises(BudgetExhaustedError):
        ledger.reserve("data", asked(4), four_at_most)
    assert ledger.entries == Ledger(tmp_path).entries
    assert len(ledger.entries) == 3
    ledger.reserve("data", asked(3), four_at_most)  # was granted before


def edit(home: Path) -> None:
    lines = (home / LEDGER).read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"steps":10', '"steps":1')
    (home / LEDGER).write_text("".join(lines))


def edit_and_chain_anew(home: Path) -> None:
    entries, previous, made = (home / LEDGER).read_text().splitlines(), NOTHING, b""
    for line in entries:
        entry = LedgerEntry(**{**json.loads(line), "steps": 1, "previous": previous})
        previous, made = entry.digest, made + entry.line()
    (home / LEDGER).write_bytes(made)


def cut(home: Path) -> None:
    lines = (home / LEDGER).read_text().splitlines(keepends=True)
    (home / LEDGER).write_text("".join(lines[:-1]))


def cut_in_the_middle(home: Path) -> None:
    content = (home / LEDGER).read_bytes()
    (home / LEDGER).write_bytes(content[:-20])


def leave_one_out(home: Path) -> None:
    lines = (home / LEDGER).read_text().splitlines(keepends=True)
    (home / LEDGER).write_text(lines[0] + lines[2])


def swap(home: Path) -> None:
    lines = (home / LEDGER).read_text().splitlines(keepends=True)
    (home / LEDGER).write_text(lines[1] + lines[0] + lines[2])


def reword(home: Path) -> None:
    text = (home / LEDGER).read_text()
    (home / LEDGER).write_text(text.replace('"steps":10', '"steps": 10'))


@pytest.mark.parametrize(
    "spoil",
    [
        edit,
        edit_and_chain_anew,
        cut,
        cut_in_the_middle,
        leave_one_out,
        swap,
        reword,
        lambda home: (home / LEDGER).unlink(),
        lambda home: (home / LEDGER).write_bytes(b""),
        lambda home: (home / HEAD).unlink(),
        lambda home: (home / HEAD).write_bytes(b"{}"),
    ],
)
def test_a_ledger_that_was_changed_is_noticed(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    filled(tmp_path)
    spoil(tmp_path)
    with pytest.raises(LedgerError, match="cannot be trusted"):
        Ledger(tmp_path)


def test_an_old_copy_of_ledger_and_head_is_noticed_by_whom_a_later_head_was_told(tmp_path: Path) -> None:
    filled(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    told = Ledger(tmp_path)
    told.reserve("data", asked(4), anything)
    for name in (LEDGER, HEAD):
        shutil.copy(tmp_path / "copy" / name, tmp_path / name)
    old = Ledger(tmp_path)
    with pytest.raises(LedgerError, match="old copy"):
        old.check_witness(told.head)
    old.reserve("data", asked(5), anything)  # as long as before, and still another one
    with pytest.raises(LedgerError, match="old copy"):
        old.check_witness(told.head)


def test_every_earlier_head_vouches_for_a_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    heads = [ledger.head]
    for number in (1, 2, 3):
        ledger.reserve("data", asked(number), anything)
        heads.append(ledger.head)
    for head in heads:
        Ledger(tmp_path).check_witness(head)
    for head in (
        ChainHead(4, heads[3].digest),
        ChainHead(0, heads[3].digest),
        ChainHead(-1, heads[3].digest),
        ChainHead(2, NOTHING),
    ):
        with pytest.raises(LedgerError):
            ledger.check_witness(head)


def test_a_reservation_that_a_power_cut_tore_was_never_granted(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    whole = (tmp_path / LEDGER).read_bytes()
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(whole.splitlines(keepends=True)[-1][:40])
    again = Ledger(tmp_path)
    assert again.entries == ledger.entries
    assert (tmp_path / LEDGER).read_bytes() == whole


def test_a_cut_between_ledger_and_head_costs_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    head = (tmp_path / HEAD).read_bytes()
    Ledger(tmp_path).reserve("data", asked(4), anything)
    (tmp_path / HEAD).write_bytes(head)
    again = Ledger(tmp_path)
    assert len(again.entries) == 4
    assert Ledger(tmp_path).head == again.head


def test_the_ledger_is_for_its_owner_alone_and_names_no_path(tmp_path: Path) -> None:
    filled(tmp_path)
    for name in (LEDGER, HEAD):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
        assert str(tmp_path) not in (tmp_path / name).read_text()


SPENDS = """
import sys
from pathlib import Path
from ynet.trust.ledger import Ledger, Reservation
ledger = Ledger(Path(sys.argv[1]))
number = len(ledger.entries)
while True:
    number += 1
    ledger.reserve("data", Reservation("plan", number, 9, "w", 1.0, 0.1, 1, 1e-3), lambda entries: None)
    print(number, flush=True)  # what is trained, and leaves
"""


def test_a_kill_at_any_moment_leaves_no_round_trained_that_was_not_recorded(tmp_path: Path) -> None:
    trained = 0
    for wait_s in (0.0, 0.003, 0.011, 0.02, 0.05):
        spender = subprocess.Popen([sys.executable, "-c", SPENDS, tmp_path], stdout=subprocess.PIPE, text=True)
        assert spender.stdout is not None
        trained = max(trained, int(spender.stdout.readline()))
        time.sleep(wait_s)
        spender.send_signal(signal.SIGKILL)
        spender.wait()
        trained = max([trained, *(int(line) for line in spender.stdout.read().split("\n")[:-1])])
        spender.stdout.close()
        assert len(Ledger(tmp_path).entries) >= trained
    assert trained > 5


@pytest.mark.parametrize(
    "head", ['{"number": -1, "digest": "%s"}', '{"number": "one", "digest": "%s"}', '{"number": 1, "digest": 7}', "[1]"]
)
def test_a_head_that_cannot_be_is_a_broken_ledger(tmp_path: Path, head: str) -> None:
    (tmp_path / HEAD).write_text(head.replace("%s", "0" * 64), "utf-8")
    with pytest.raises(LedgerError, match="cannot be read"):
        Ledger(tmp_path)
