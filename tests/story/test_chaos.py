"""A federation of real processes under faults; the long form is tests/benchmarks/under_faults.py (`make chaos`)."""

from pathlib import Path

import pytest

from chaos.faults import KINDS, schedule
from chaos.lines import Lines
from chaos.storm import Asker, Federation, broken_promises, left_over
from hospitals import small_plan
from ynet.data.synthetic import make_federation

SITES = {"A": 24, "B": 18, "C": 18, "D": 12}
FAULTS = 12


def test_seed_draws_every_kind_of_fault_reproducibly() -> None:
    drawn = schedule(3, 2 * len(KINDS), "ABCD", long_sleeps=1)
    assert {kind for kind in KINDS if sum(fault.kind == kind for fault in drawn) == 2} == set(KINDS)
    assert drawn == schedule(3, 2 * len(KINDS), "ABCD", long_sleeps=1)
    assert drawn != schedule(4, 2 * len(KINDS), "ABCD", long_sleeps=1)
    assert sum(fault.lasts_s > 30 for fault in drawn) == 1


@pytest.mark.timeout(900)
def test_federation_under_faults_finishes_and_loses_nothing(
    tmp_path: Path,
) -> None:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    cohort = {"min_sites": 4, "quorum": 3, "round_deadline_s": 60}
    first = small_plan(tmp_path / "first.yaml", rounds=1, cohort=cohort)
    shaken = small_plan(tmp_path / "plan.yaml", rounds=12, seed=2, local_epochs=4, cohort=cohort)
    with Lines() as lines:
        federation = Federation(tmp_path / "trial", tmp_path / "data", lines)
        with federation.trial as trial:
            federation.open()
            quiet = federation.train(first)
            federation.calm(quiet)
            asker = Asker(trial, seed=1)
            asker.start()
            try:
                run = federation.train(shaken, schedule(1, FAULTS, sorted(SITES)))
                federation.calm(run)
            finally:
                asker.end()
            assert broken_promises(federation, [quiet, run], asker) == []
            assert asker.queries.total() > 0
        assert left_over(federation) == []
