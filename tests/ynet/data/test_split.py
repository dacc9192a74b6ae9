"""The split of a patient depends on the seed and the patient id only."""

from hypothesis import given
from hypothesis import strategies as some

from ynet.data.manifest import Case, Manifest, SheetRow, to_cases
from ynet.data.split import is_held_back

Person = tuple[str, str]

people = some.lists(some.tuples(some.text(min_size=1, max_size=3), some.sampled_from("abc")), min_size=1)
seeds = some.integers(0, 2**31 - 1)


def splits(people: list[Person], seed: int) -> dict[str, str]:
    """The split of each patient of a manifest without a `split` column."""
    return {case.patient: case.split for case in cases(people, seed)}


def validation(people: list[Person], seed: int) -> dict[str, str]:
    """The validation split of the training patients."""
    held = Manifest(root=None, cases=cases(people, seed)).for_validation()  # type: ignore[arg-type]
    return {case.patient: case.split for case in held.cases}


def cases(people: list[Person], seed: int) -> tuple[Case, ...]:
    named = [{"image": "i.png", "mask": "", "label": label, "patient": patient} for patient, label in people]
    return to_cases([SheetRow(number, cells) for number, cells in enumerate(named, start=2)], seed)


@given(people, seeds, some.data())
def test_removing_a_patient_moves_no_other_patient(rows: list[Person], seed: int, data: some.DataObject) -> None:
    gone = data.draw(some.sampled_from([patient for patient, _ in rows]))
    left = [row for row in rows if row[0] != gone]
    for split in (splits, validation):
        before = split(rows, seed)
        before.pop(gone, None)
        assert split(left, seed) == before


@given(people, seeds, some.data())
def test_changed_label_moves_no_patient(rows: list[Person], seed: int, data: some.DataObject) -> None:
    number = data.draw(some.integers(0, len(rows) - 1))
    changed = [*rows[:number], (rows[number][0], "d"), *rows[number + 1 :]]
    assert splits(changed, seed) == splits(rows, seed)
    assert validation(changed, seed) == validation(rows, seed)


@given(people, seeds, some.randoms(use_true_random=False))
def test_row_order_does_not_matter(rows: list[Person], seed: int, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert splits(rows, seed) == splits(shuffled, seed)
    assert validation(rows, seed) == validation(shuffled, seed)


def test_about_a_quarter_is_held_back() -> None:
    held_back = sum(is_held_back(str(number), 1) for number in range(10_000))
    assert abs(held_back - 2500) < 5 * (10_000 * 0.25 * 0.75) ** 0.5


def test_another_seed_holds_back_other_patients() -> None:
    names = [str(number) for number in range(100)]
    assert [is_held_back(name, 1) for name in names] != [is_held_back(name, 2) for name in names]


def test_validation_is_independent_of_test_under_one_seed() -> None:
    rows = [(str(number), "a") for number in range(400)]
    for seed in (1, 2026):
        held_back = list(validation(rows, seed).values())
        assert 0.15 < held_back.count("test") / len(held_back) < 0.35
