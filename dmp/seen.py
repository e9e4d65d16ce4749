"""Which events an ingest folder holds already, by content, so that a copy is told in any later file or run.

Copies have the same time, so contents (64 bits of a hash) are kept by UTC day, and two events are taken for copies
when day and content agree: among 10^9 events in 90 days one is lost to chance with probability 3e-4. The part files
are the only store; a day is read from them when an event of that day comes. Logs in order of time touch one or two days
at once; memory is bounded by letting go of the days not asked for longest.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from dmp.journal import Step, part

DAY_US = 86_400_000_000
MAX_CONTENTS = 64_000_000  # 512 MB
Contents = npt.NDArray[np.uint64]


class Seen:
    """The contents of a folder's events; one for a run."""

    def __init__(self, root: Path, steps: list[Step]) -> None:
        self._root = root
        self._parts: dict[int, list[int]] = {}  # {day: steps with events of it}
        for step in steps:
            for day in step.days:
                self._parts.setdefault(day, []).append(step.n)
        self._days: dict[int, list[Contents]] = {}  # {day: sorted runs}, the day asked for last at the end

    def fresh(self, time_us: npt.NDArray[np.int64], content: Contents) -> npt.NDArray[np.bool_]:
        """Which of some events are new: neither held nor a copy of one before them. Shape and order as given."""
        order = np.argsort(content, kind="stable")
        ordered = content[order]
        new = np.zeros(len(content), np.bool_)
        new[order[np.r_[True, ordered[1:] != ordered[:-1]][: len(order)]]] = True
        days = time_us // DAY_US
        for day in np.unique(days).tolist():
            if day not in self._parts:
                continue
            here = np.flatnonzero(days == day)
            for run in self._runs(day):
                place = np.searchsorted(run, content[here])
                new[here[run[np.minimum(place, len(run) - 1)] == content[here]]] = False
        return new

    def add(self, n: int, time_us: npt.NDArray[np.int64], content: Contents) -> dict[int, int]:
        """Take note of the events of step n, which is safe on disk; returns {day: events}."""
        counts = by_day(time_us)
        days = time_us // DAY_US
        for day in counts:
            if day in self._days or day not in self._parts:  # else it is read from the parts when asked for
                _insert(self._days.setdefault(day, []), np.sort(content[days == day]))
            self._parts.setdefault(day, []).append(n)
        self._let_go()
        return counts

    def _runs(self, day: int) -> list[Contents]:
        if day in self._days:
            self._days[day] = self._days.pop(day)
        else:
            runs: list[Contents] = []
            for n in self._parts[day]:
                held = pq.read_table(part(self._root, n), columns=["time_us", "content"])
                time_us, content = held["time_us"].to_numpy(), held["content"].to_numpy()
                _insert(runs, np.sort(content[time_us // DAY_US == day]))
            self._days[day] = runs
            self._let_go()
        return self._days[day]

    def _let_go(self) -> None:
        held = sum(len(run) for runs in self._days.values() for run in runs)
        while held > MAX_CONTENTS and len(self._days) > 1:
            oldest = next(iter(self._days))
            held -= sum(map(len, self._days.pop(oldest)))


def by_day(time_us: npt.NDArray[np.int64]) -> dict[int, int]:
    """{UTC day since 1970: events}."""
    days, counts = np.unique(time_us // DAY_US, return_counts=True)
    return dict(zip(days.tolist(), counts.tolist(), strict=True))


def _insert(runs: list[Contents], run: Contents) -> None:
    """Add a sorted run; runs of like size are merged, so that there are few and each is sorted few times."""
    while runs and len(runs[-1]) <= 2 * len(run):
        run = np.sort(np.concatenate([runs.pop(), run]), kind="stable")  # stable: merges what is sorted
    runs.append(run)
