"""Counters as slots of one list, latencies in logarithmic buckets, and their Prometheus text.

A place that counts asks for its slot once and then does `counts[slot] += 1`; nothing is looked up by name per request.
With 5,000 campaigns a page has some 80,000 lines, so it is made in pieces between which bids are answered, and there
is a brief one without what is told campaign by campaign.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

HELP: dict[str, tuple[str, str]] = {
    "tagbid_requests_total": ("counter", "Bid requests that reached the bidder, by exchange."),
    "tagbid_responses_total": ("counter", "Answers to bid requests by HTTP status."),
    "tagbid_bids_total": ("counter", "Bids made (a request with several impressions may get several)."),
    "tagbid_no_bid_total": ("counter", "Requests without a bid, by the first rule that left nothing."),
    "tagbid_contextual_total": ("counter", "Requests handled without the user, by what did not permit or provide it."),
    "tagbid_bid_seconds": ("histogram", "From the arrival of a bid request to its answer."),
    "tagbid_store_total": ("counter", "User reads by result."),
    "tagbid_store_up": ("gauge", "Share of all keys whose server answers, by link; 1 when all is well."),
    "tagbid_store_redirected_total": ("counter", "Commands a node of a cluster sent on to another one, by link."),
    "tagbid_lease_copies_total": ("counter", "Grown budget leases, by whether a replica had them in time."),
    "tagbid_in_flight": ("gauge", "Bid requests waiting for the tag store."),
    "tagbid_in_flight_limit": ("gauge", "Bid requests that may wait at once, from what decisions take now."),
    "tagbid_longest_stall_seconds": ("gauge", "The longest time the event loop stood still since the start."),
    "tagbid_connections": ("gauge", "Open connections on the lane."),
    "tagbid_closed_total": ("counter", "Connections closed by us, by reason."),
    "tagbid_budget_micros": ("gauge", "Budget of the day by campaign and state, as this worker knows it."),
    "tagbid_pace": (
        "gauge",
        "How campaigns that do not bid all out are paced: multiplier on value, share of requests.",
    ),
    "tagbid_hot_topics": ("gauge", "Topics that are hot now, as this worker knows them."),
    "tagbid_hot_reads_total": ("counter", "Looks for hot topics while campaigns ask for them, by what was found."),
    "tagbid_cost_unknown": ("gauge", "Campaigns paid per conversion that bid less as nobody tells what one costs."),
    "tagbid_preference_total": ("counter", "Stored preferences of users that a model asked for, by what came of them."),
    "tagbid_first_price_total": ("counter", "First-price bids by what shaded them."),
    "tagbid_explored_total": ("counter", "First-price bids whose price was varied to learn from."),
    "tagbid_bidlog_records_total": ("counter", "Records written to the bid log."),
    "tagbid_bidlog_dropped_total": ("counter", "Records the bid log had no room for."),
    "tagbid_notices_total": ("counter", "Notices by kind and result."),
    "tagbid_bids_left_out_total": ("counter", "Bids that an exchange's answers had no room for beside dearer ones."),
    "tagbid_conversion_values_cut_total": ("counter", "Conversions told by browsers with a value above their limit."),
    "tagbid_bills_of_paused_total": ("counter", "Events of record booked for campaigns that may not spend any more."),
    "tagbid_workers": ("gauge", "Worker processes by state."),
    "tagbid_worker_exits_total": ("counter", "Worker processes that ended without being told to."),
    "tagbid_funnel_sampled_total": ("counter", "Requests whose rules were all asked, for tagbid_funnel_total."),
    "tagbid_funnel_total": (
        "counter",
        "Impressions of sampled requests by campaign and step, or rule that took them.",
    ),
    "tagbid_campaign_total": ("counter", "Bids by campaign: sent, won, billed, clicked."),
    "tagbid_conversions_total": ("counter", "Conversions told by pixels and servers, by result."),
    "tagbid_snapshot_total": ("counter", "Attempts to load new campaigns or models, by result."),
    "tagbid_snapshot_timestamp_seconds": ("gauge", "When the snapshot in use was made."),
    "tagbid_errors_total": ("counter", "Defects caught at the edge of the process; each is a bug."),
    "process_cpu_seconds_total": ("counter", "User and system CPU time of this process."),
    "process_start_time_seconds": ("gauge", "When this process started."),
}

Labels = tuple[tuple[str, str], ...]
Labelled = dict[Labels, float]

BY_CAMPAIGN = frozenset({"tagbid_budget_micros", "tagbid_pace", "tagbid_funnel_total", "tagbid_campaign_total"})
"""What a brief page leaves out."""

PIECE = 500  # lines of a page that are made in one go: less than a millisecond

OCTAVES = 23  # 4 us up to 33 s
BUCKETS = 4 * OCTAVES


class Histogram:
    """Durations in whole microseconds; four buckets an octave, so a quantile is off by at most 1/8 upwards."""

    def __init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.sum_us = 0

    def observe(self, us: int) -> None:
        self.sum_us += us
        shift = us.bit_length() - 3
        if shift < 0:
            self.buckets[0] += 1
        elif shift < OCTAVES:
            self.buckets[4 * shift + (us >> shift) - 4] += 1
        else:
            self.buckets[-1] += 1

    def bound_us(self, bucket: int) -> int:
        """The least duration that is too long for a bucket.

        >>> Histogram().bound_us(0), Histogram().bound_us(5)
        (5, 12)
        """
        shift, quarter = divmod(bucket, 4)
        return (5 + quarter) << shift


class Metrics:
    """All numbers of one bidder process."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.latency = Histogram()
        self._slots: dict[str, dict[Labels, int]] = {name: {} for name in HELP}
        self._readers: dict[str, list[Callable[[], Iterable[tuple[Labels, float]]]]] = {name: [] for name in HELP}
        started_s = time.time()
        self.read("process_cpu_seconds_total", lambda: {(): time.process_time()})
        self.read("process_start_time_seconds", lambda: {(): started_s})

    def slot(self, name: str, **labels: str) -> int:
        """The index in `counts` of one series; the same labels give the same slot. name: a key of `HELP`."""
        slots = self._slots[name]
        key = tuple(labels.items())
        if key not in slots:
            slots[key] = len(self.counts)
            self.counts.append(0)
        return slots[key]

    def read(self, name: str, reader: Callable[[], Labelled]) -> None:
        """A series kept elsewhere: `reader` is asked at every scrape. name: a key of `HELP`."""
        self.read_many(name, lambda: reader().items())

    def read_many(self, name: str, reader: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """As `read`, of thousands: they are made one after the other, with bids in between."""
        self._readers[name].append(reader)

    def pieces(self, brief: bool = False) -> Iterator[str]:
        """Prometheus text format 0.0.4, every name once with its help and type, in pieces of about `PIECE` lines.

        Things may be counted between two pieces. brief: without what is told campaign by campaign.
        """
        for name, (kind, text) in HELP.items():
            if brief and name in BY_CAMPAIGN:
                continue
            samples = self._samples(name)
            if (first := next(samples, "")) == "":
                continue
            lines = chain((f"# HELP {name} {text}", f"# TYPE {name} {kind}", first), samples)
            while piece := list(islice(lines, PIECE)):
                yield "\n".join(piece) + "\n"

    def expose(self) -> str:
        """The whole page."""
        return "".join(self.pieces())

    def _samples(self, name: str) -> Iterator[str]:
        if name == "tagbid_bid_seconds":
            yield from _histogram(name, self.latency)
        for labels, slot in list(self._slots[name].items()):
            yield f"{name}{_labels(labels)} {self.counts[slot]}"
        for reader in self._readers[name]:
            for labels, value in reader():
                yield f"{name}{_labels(labels)} {value:.17g}"


def _histogram(name: str, histogram: Histogram) -> list[str]:
    lines = []
    total = 0
    for bucket, count in enumerate(histogram.buckets):
        total += count
        lines.append(f'{name}_bucket{{le="{histogram.bound_us(bucket) / 1e6:.6g}"}} {total}')
    lines += [f'{name}_bucket{{le="+Inf"}} {total}', f"{name}_sum {histogram.sum_us / 1e6}", f"{name}_count {total}"]
    return lines


def _labels(labels: Labels) -> str:
    r"""{a="b"} with the three characters the format escapes.

    >>> _labels((("campaign", 'a"b'),))
    '{campaign="a\\"b"}'
    """
    if not labels:
        return ""
    escaped = ((key, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for key, value in labels)
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"
