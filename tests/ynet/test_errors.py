"""What a user is shown of an error: three lines, whatever stands in them."""

from ynet.errors import MOST_SHOWN, UserError


def test_what_stands_in_others_files_neither_breaks_the_lines_nor_steers_the_terminal() -> None:
    shown = str(UserError("manifest a\nb.csv", "its columns are i\x0bmage, \x1b[2J, \ud800", "rename them\r"))
    assert shown.splitlines() == [
        "error: manifest a b.csv",
        "  why: its columns are i mage,  [2J,  ",
        "   do: rename them ",
    ]
    shown.encode()


def test_a_long_line_is_cut() -> None:
    assert len(str(UserError("a" * 10**6, "b", "c"))) < MOST_SHOWN + 50
