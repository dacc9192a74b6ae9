"""Show what `join` does: progress bars on a terminal, plain lines elsewhere."""

import sys
import threading
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ynet.runtime import terminal

LINE_EVERY_S = 10.0


class Display:
    """Lines, and at most one bar below them. Any thread may call it."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._lock = threading.Lock()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True) if sys.stdout.isatty() else None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def say(self, line: str) -> None:
        """Print one line, with the time."""
        stamped = f"{time.strftime('%H:%M:%S')}  {line}"
        with self._lock:
            if self._bar:
                self._console.print(stamped, markup=False, soft_wrap=True)
            else:
                terminal.say(stamped)

    def progress(self, title: str, done: int, total: int) -> None:
        """Show the progress of some work; the bar disappears at its end. Without a terminal, a line every 10 s."""
        if self._bar:
            self._draw(title, done, total)
        elif time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.say(f"{title}: {done} of {total}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()

    def _draw(self, title: str, done: int, total: int) -> None:
        with self._lock:
            if not self._bar:
                return
            if self._task is None:
                self._task = self._bar.add_task(title, total=total)
                self._bar.start()
            self._bar.update(self._task, description=title, completed=done, total=total)
            if done >= total:
                self._bar.stop()
                self._bar.remove_task(self._task)
                self._task = None
