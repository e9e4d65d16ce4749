"""Progress of a command with many steps: one bar a step, in order, with the time each took."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]


class Steps:
    """seconds: {step: how long it took}, in order."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def step(self, name: str, total: int = 1) -> Iterator[Advance]:
        """One step; what is yielded moves its bar on. Leaving fills the bar."""
        started = time.monotonic()
        task = self._bar.add_task(name, total=total)
        yield lambda count: self._bar.advance(task, count)
        self._bar.update(task, completed=total)
        self._bar.stop_task(task)
        self.seconds[name] = round(time.monotonic() - started, 2)
