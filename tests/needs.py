"""How a test says which programs it needs: it is skipped where they are missing, and the run's last lines count it.

    subprocess.run([needed("fish"), "-c", script])   # where the program is started
    pytestmark = needs("chromium")                    # before fixtures that cost something are made

The names are those of programs.py: a new one is added there, with its Debian package.
"""

import pytest
from programs import COMMAND, find, missing, packages

REASON = "missing here: "


def needed(name: str) -> str:
    """Where it is; the test is skipped where it is missing."""
    __tracebackhide__ = True  # the test is where it was skipped
    found = find(name)
    if found is None:
        pytest.skip(REASON + name)
    return found


def needs(*names: str, unless: bool = False) -> pytest.MarkDecorator:
    """The mark of a test that is skipped where one of them is missing, `unless` it can do without here."""
    gone = missing(names)
    return pytest.mark.skipif(bool(gone) and not unless, reason=REASON + ", ".join(gone))


def said_last(reasons: list[str]) -> list[str]:
    """What a run says at its end of the tests that it skipped for those reasons; nothing if no program was missing."""
    ours = [reason.partition(REASON)[2] for reason in reasons if REASON in reason]
    if not ours:
        return []
    names = sorted({name for one in ours for name in one.split(", ")})
    return [
        f"{len(ours)} tests were skipped, because of what is missing here: {', '.join(names)}",
        f"`{COMMAND}` installs Debian's packages {' '.join(packages(names))}",
    ]
