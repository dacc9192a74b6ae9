"""The output of commands: three lines for a user's error, JSON on request, exit codes, logs."""

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ynet.errors import EXIT_OUR_FAULT, UserError
from ynet.runtime import disk_faults, private_files
from ynet.runtime.home import homeless

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
LOG_BYTES, LOGS_KEPT = 10 << 20, 3


def run(app: typer.Typer) -> None:
    """Run a command line and exit: 0 done, 1 a fault of ynet, 2 a user's error, 3 refused, 4 unreachable.

    Files that the command writes are private.
    """
    private_files.as_default()
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]  # otherwise ~ is the root of the file system
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 (the last resort of a process)
        if (fault := disk_faults.in_words(error) or homeless(error)) is not None:
            print(fault, file=sys.stderr)  # noqa: T201
            sys.exit(fault.exit_code)
        if logging.getLogger().handlers:
            logging.getLogger("ynet").error("%s", traceback.format_exc())
        print(f"error: a fault of ynet: {type(error).__name__}\n{traceback.format_exc()}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_OUR_FAULT)


def show(value: Any, *, as_json: bool, human: Callable[[], object]) -> None:
    """Print `value` as JSON, or what `human` returns."""
    if as_json:
        print(json.dumps(value, indent=2))  # noqa: T201
    else:
        text = human()
        if isinstance(text, str):
            print(text)  # noqa: T201 (as it is: no markup, no folding)
        else:
            out.print(text)


def hint(text: str) -> None:
    """Print a hint for a person on stderr; stdout holds the result only."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)  # noqa: T201


def leave() -> None:
    """End the process now with exit code 0, without waiting for threads."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def say(line: str) -> None:
    """Print a line and flush it. Ignores a closed terminal, so that a server keeps running."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)  # noqa: T201


def rows(title: str, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> Table:
    """Return a table of text."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(Text(str(cell)) for cell in line))
    return table


def show_settings(title: str, home: str, source: str, listed: Sequence[tuple[str, Any, str]], *, as_json: bool) -> None:
    """Print the home folder, then each setting's key, value and source."""
    shown = [{"key": key, "value": value, "source": where} for key, value, where in listed]
    lines = [("(home)", home, source), *((key, json.dumps(value), where) for key, value, where in listed)]
    table = rows(f"settings of the {title}", ("", "value", "from"), lines)
    show({"home": home, "home_source": source, "settings": shown}, as_json=as_json, human=lambda: table)


def log_to(path: Path) -> None:
    """Send this process's log to a file; drop the informational lines of Flower and of the web server.

    The file is rotated at LOG_BYTES; LOGS_KEPT old files are kept.
    """
    path.touch(mode=0o600)
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.setLevel(logging.WARNING)
    flower.propagate = True
    for noisy in ("httpx", "httpcore", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def when(seconds: float | None) -> str:
    """Format a time as date and minute, in this machine's time zone."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def clock(seconds: float) -> str:
    """Format a time as hours, minutes, seconds."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))
