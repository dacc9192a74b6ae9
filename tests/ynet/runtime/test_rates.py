"""Token buckets, and the counting of what they refuse."""

from ynet.errors import UserError
from ynet.runtime import rates
from ynet.runtime.rates import Buckets, Rate, Restraint


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    buckets = Buckets(Rate(3, 0.5))
    assert [buckets.take("A", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert not buckets.take("A", 1.0)
    assert buckets.take("A", 2.0)
    assert not buckets.take("A", 2.0)
    assert buckets.take("B", 2.0)  # another's is full


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    buckets = Buckets(Rate(2, 10.0))
    assert [buckets.take("A", 1000.0) for _ in range(3)] == [True, True, False]
    assert [buckets.take("A", 2000.0) for _ in range(3)] == [True, True, False]


def test_names_without_end_take_bounded_memory() -> None:
    buckets, told = Buckets(Rate(1, 1.0)), list[tuple[str, int]]()
    restraint = Restraint(Rate(0, 0), Rate(0, 0), lambda name, count: told.append((name, count)), lambda: 0.0)
    for number in range(3 * rates.MOST_WATCHED):
        buckets.take(str(number), 0.0)
        assert not restraint.admits(str(number))
    assert len(buckets._left) <= rates.MOST_WATCHED
    restraint.flush()
    assert len(told) == rates.MOST_WATCHED + 1
    assert sum(count for _, count in told) == 3 * rates.MOST_WATCHED


def test_of_many_refusals_one_line_is_told_with_their_number() -> None:
    told, now = list[tuple[str, int]](), [0.0]
    restraint = Restraint(Rate(2, 1.0), Rate(100, 1.0), lambda *one: told.append(one), lambda: now[0])
    assert sum(restraint.admits("A") for _ in range(4114)) == 2
    restraint.flush()
    restraint.flush()
    assert told == [("A", 4112)]


def test_all_names_together_have_a_rate_too() -> None:
    restraint = Restraint(Rate(10, 0), Rate(15, 0), lambda *_: None, lambda: 0.0)
    assert sum(restraint.admits(f"site {number}") for number in range(100)) == 15


def test_what_could_not_be_told_is_told_the_next_time() -> None:
    told, is_full = list[tuple[str, int]](), [True]

    def tell(name: str, count: int) -> None:
        if is_full[0]:
            raise UserError("not written", "the disk is full", "make room")
        told.append((name, count))

    restraint = Restraint(Rate(0, 0), Rate(0, 0), tell, lambda: 0.0)
    restraint.admits("A")
    restraint.flush()
    restraint.admits("A")
    is_full[0] = False
    restraint.flush()
    assert told == [("A", 2)]
