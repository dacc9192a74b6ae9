"""The split of patients depends on the seed and each patient's own id, and on nobody else."""

from hypothesis import given
from hypothesis import strategies as some

from ynet.data.manifest import Row, to_cases
from ynet.data.split import is_held_back

ids = some.text(some.characters(codec="utf-8"), min_size=1, max_size=8)


def splits(people: dict[str, str], seed: int) -> dict[str, str]:
    """The split of each patient, one row a patient, without a column `split`."""
    rows = [
        Row(number, {"image": "a.png", "mask": "", "label": label, "patient": patient})
        for number, (patient, label) in enumerate(people.items(), start=2)
    ]
    return {case.patient: case.split for case in to_cases(rows, seed)}


@given(some.dictionaries(ids, some.sampled_from("abc"), min_size=1), some.integers(0, 2**31), some.data())
def test_split_of_a_patient_is_the_same_whoever_else_is_there(
    people: dict[str, str], seed: int, data: some.DataObject
) -> None:
    whole = splits(people, seed)
    kept = data.draw(some.sets(some.sampled_from(sorted(people))))
    assert splits({name: people[name] for name in sorted(kept, reverse=True)}, seed) == {
        name: whole[name] for name in kept
    }


@given(some.dictionaries(ids, some.sampled_from("abc"), min_size=1), some.integers(0, 2**31))
def test_split_of_a_patient_is_the_same_whatever_the_labels(people: dict[str, str], seed: int) -> None:
    assert splits(people, seed) == splits(dict.fromkeys(people, "a"), seed)


def test_split_holds_a_quarter_of_the_patients_back() -> None:
    for seed in range(5):
        held_back = sum(is_held_back(f"P{number}", seed) for number in range(10_000))
        assert abs(held_back - 2500) < 200  # 4.6 standard deviations


def test_split_of_another_seed_holds_back_others() -> None:
    names = [f"P{number}" for number in range(100)]
    assert [is_held_back(name, 1) for name in names] != [is_held_back(name, 2) for name in names]
