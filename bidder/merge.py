"""One metrics page from those of several workers.

Counters and histograms are summed, and those of a worker that has gone stay in the sums, so that they never fall.
Gauges keep their worker apart by a label, because what adding them up means differs from one to the next.
"""

from collections.abc import Iterator

from bidder.metrics import BY_CAMPAIGN

_Page = dict[str, float]


class Merged:
    """The latest page of each worker, and what workers that have gone had counted."""

    def __init__(self) -> None:
        self._heads: dict[str, tuple[str, str]] = {}  # name: its HELP and TYPE lines
        self._pages: dict[str, _Page] = {}
        self._gone: _Page = {}

    def update(self, worker: str, text: str, brief: bool = False) -> None:
        """Take a worker's page, as `bidder.metrics.Metrics.expose` wrote it; "" as worker labels no gauge.

        brief: series that are not in it are as they were.
        """
        page: _Page = self._pages.get(worker, {}) if brief else {}
        for line in text.splitlines():
            if line.startswith("# HELP "):
                self._heads.setdefault(line.split(" ", 3)[2], (line, ""))
            elif line.startswith("# TYPE "):
                name = line.split(" ", 3)[2]
                self._heads[name] = (self._heads[name][0], line)
            elif line:
                sample, _, value = line.rpartition(" ")
                page[sample] = float(value)
        self._pages[worker] = page

    def leave(self, worker: str) -> None:
        """A worker has ended: keep what it counted, forget its gauges."""
        for sample, value in self._pages.pop(worker, {}).items():
            if not self._is_gauge(sample):
                self._gone[sample] = self._gone.get(sample, 0.0) + value

    def expose(self, brief: bool = False) -> str:
        """The page of all; brief: as of `Metrics.pieces`."""
        sums = dict(self._gone)
        gauges: list[tuple[str, float]] = []
        for worker, page in self._pages.items():
            for sample, value in page.items():
                if self._is_gauge(sample):
                    gauges.append((_labelled(sample, worker), value))
                else:
                    sums[sample] = sums.get(sample, 0.0) + value
        by_name: dict[str, list[str]] = {name: [] for name in self._heads}
        for sample, value in [*sums.items(), *gauges]:
            by_name[self._family(sample)].append(f"{sample} {value:.17g}")
        return "".join(line + "\n" for line in self._lines(by_name, BY_CAMPAIGN if brief else frozenset()))

    def _lines(self, by_name: dict[str, list[str]], left_out: frozenset[str]) -> Iterator[str]:
        for name, samples in by_name.items():
            if samples and name not in left_out:
                yield from (*self._heads[name], *samples)

    def _is_gauge(self, sample: str) -> bool:
        return self._heads[self._family(sample)][1].endswith(" gauge")

    def _family(self, sample: str) -> str:
        """The name a sample's HELP and TYPE stand under."""
        name = sample.partition("{")[0]
        return name if name in self._heads else name.rpartition("_")[0]


def _labelled(sample: str, worker: str) -> str:
    """A sample with its worker, if it has one, as a further label.

    >>> _labelled("a", "1"), _labelled('a{b="c"}', "1")
    ('a{worker="1"}', 'a{b="c",worker="1"}')
    """
    if not worker:
        return sample
    name, brace, labels = sample.partition("{")
    return f'{name}{{{labels[:-1]},worker="{worker}"}}' if brace else f'{name}{{worker="{worker}"}}'
