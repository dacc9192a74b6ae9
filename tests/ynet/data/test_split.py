"""The split of patients is fair to classes and depends on nothing but the seed and who they are."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as some

from ynet.data.split import split_patients

people = some.lists(some.tuples(some.text(min_size=1, max_size=3), some.sampled_from("abc")), min_size=1)


@given(people, some.integers(0, 2**31), some.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[str, str]], seed: int, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_patients(rows, seed) == split_patients(shuffled, seed)


@given(people, some.integers(0, 2**31))
def test_somebody_of_every_class_is_left_to_train_on(rows: list[tuple[str, str]], seed: int) -> None:
    alone = [(patient, label) for patient, label in dict(rows).items()]
    held_back = split_patients(alone, seed)
    assert {label for patient, label in alone if patient not in held_back} == {label for _, label in alone}


@given(some.integers(4, 200), some.integers(4, 200), some.integers(0, 2**31))
def test_a_quarter_of_the_patients_of_each_class_is_held_back(a: int, b: int, seed: int) -> None:
    rows = [(f"{label}{n}", label) for label, count in (("a", a), ("b", b)) for n in range(count)]
    held_back = Counter(patient[0] for patient in split_patients(rows, seed))
    assert abs(held_back["a"] - a / 4) <= 1
    assert abs(held_back["b"] - b / 4) <= 1
    assert abs(held_back.total() - (a + b) / 4) <= 0.5


def test_another_seed_holds_back_other_patients() -> None:
    rows = [(str(n), "a") for n in range(100)]
    assert split_patients(rows, 1) != split_patients(rows, 2)
