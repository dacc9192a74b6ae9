"""How a test declares the programs that it needs: without them it is skipped, and the run's last lines count it.

    subprocess.run([needed("fish"), "-c", script])   # where the program starts
    pytestmark = needs("chromium")                    # before expensive fixtures

The names are those of programs.py; add a new one there, with its Debian package.
"""

import pytest
from programs import COMMAND, find, missing, packages

REASON = "missing here: "


def needed(name: str) -> str:
    """Return the path of a program; skip the test if it is missing."""
    __tracebackhide__ = True  # report the skip at the test
    found = find(name)
    if found is None:
        pytest.skip(REASON + name)
    return found


def needs(*names: str, unless: bool = False) -> pytest.MarkDecorator:
    """Make a mark that skips a test if one of the programs is missing, `unless` the test works without it here."""
    gone = missing(names)
    return pytest.mark.skipif(bool(gone) and not unless, reason=REASON + ", ".join(gone))


def said_last(reasons: list[str]) -> list[str]:
    """Return the last lines of a run about tests skipped for missing programs; empty if none was missing."""
    ours = [reason.partition(REASON)[2] for reason in reasons if REASON in reason]
    if not ours:
        return []
    names = sorted({name for one in ours for name in one.split(", ")})
    return [
        f"{len(ours)} tests were skipped, because these are missing here: {', '.join(names)}",
        f"`{COMMAND}` installs Debian's packages {' '.join(packages(names))}",
    ]
