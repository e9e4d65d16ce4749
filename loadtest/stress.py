"""The bidder beyond what it can do, and without its store: two drills and what is read off them.

`overload` offers twice what one process can decide; `outage` stops the tag store in the middle of a half load. Both
return figures; the arithmetic on what came back is pure.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from dmp.errors import TagbidError
from loadtest import generator, scrape
from loadtest.load import Load, Result

SLICE_S = 0.1
WELL = 0.95  # of a slice's answers in time, for the bidder to count as recovered
BREAKER = 'tagbid_store_up{link="lookup"}'
SHED = 'tagbid_no_bid_total{reason="overload"}'
_CID = re.compile(rb'"cid":"([^"]*)"')
Flags = npt.NDArray[np.bool_]


class Overload(msgspec.Struct, frozen=True):
    """What twice the possible load leaves.

    Only requests that get a bid at leisure are sent, so that an answer without one is a refusal. cores: CPU seconds per
    second of who took part: a generator or a store near 1 has run out of processor itself.

    offered, saturation: requests per second. goodput_share: bids in time per second over `saturation`. in_time: share
    of the bids that came within their deadline. shed_p99_ms: of the refusals. shed: requests refused for overload.
    unanswered: requests without any answer, by reason. recovery_s: from the end of the overload until a half load was
    answered in time again, None when that took longer than `RECOVERY_S`.
    """

    offered: float
    saturation: float
    seconds: float
    goodput_share: float
    in_time: float
    shed_p99_ms: float
    shed: int
    unanswered: dict[str, int]
    recovery_s: float | None
    longest_stall_ms: float
    cores: dict[str, float]


class Outage(msgspec.Struct, frozen=True):
    """What a store that stands still costs.

    errors: answers with 5xx. in_time: share of the answers within their deadline during the stop. free_kept: bids per
    second of campaigns that need nothing of the user, during the stop over before it. breaker_ms: from the stop to the
    link being given up. back_s: from the resumption to the first bid that needed tags; None when there was none.
    """

    seconds: float
    rate: float
    errors: int
    in_time: float
    free_kept: float
    breaker_ms: float | None
    back_s: float | None


RECOVERY_S = 5.0


def overload(
    url: str,
    admin: str,
    bodies: Sequence[bytes],
    saturation: float,
    seconds: float,
    tmax_ms: int,
    pids: Mapping[str, Sequence[int]],
) -> Overload:
    """Offer twice `saturation` (of these very requests, per second) for so long, then half of it.

    bodies: requests that get a bid (`bid_on`). pids: processes whose CPU is told.
    """
    before, spent = scrape.metrics(admin), {name: scrape.cpu_s(of) for name, of in pids.items()}
    hard = generator.play(
        Load(url, bodies, rate=2 * saturation, duration_s=seconds, poisson=True, keep_every=0, tmax_ms=tmax_ms)
    )
    after, ended_s = scrape.metrics(admin), time.monotonic()
    cores = cores_used(spent, pids, hard)
    soft = generator.play(
        Load(url, bodies, rate=saturation / 2, duration_s=RECOVERY_S, poisson=True, keep_every=0, tmax_ms=tmax_ms)
    )
    started_s = time.monotonic() - soft.elapsed_s
    recovered = recovery_s(soft)
    bids = hard.status == 200
    return Overload(
        offered=round(hard.offered_rate, 1),
        saturation=round(saturation, 1),
        seconds=seconds,
        goodput_share=round(int((bids & in_time(hard)).sum()) / seconds / saturation, 4),
        in_time=round(float(in_time(hard)[bids].mean()), 5) if bids.any() else 0.0,
        shed_p99_ms=round(float(np.percentile(hard.latency_us[hard.status == 204], 99)) / 1000, 2),
        shed=int(after.get(SHED, 0) - before.get(SHED, 0)),
        unanswered=hard.errors,
        recovery_s=None if recovered is None else round(max(0.0, started_s - ended_s) + recovered, 2),
        longest_stall_ms=round(1000 * after.get("tagbid_longest_stall_seconds", 0.0), 1),
        cores=cores,
    )


def cores_used(before: Mapping[str, float], pids: Mapping[str, Sequence[int]], result: Result) -> dict[str, float]:
    """CPU seconds per second of the run, of processes and of the generator. before: CPU seconds when it began."""
    found = {name: (scrape.cpu_s(of) - before[name]) / result.elapsed_s for name, of in pids.items()}
    return {name: round(value, 3) for name, value in {**found, "generator": result.cpu_s / result.elapsed_s}.items()}


def bid_on(url: str, bodies: Sequence[bytes], rate: float) -> list[bytes]:
    """The requests that get a bid when each is sent once, `rate` a second. Raises TagbidError when none does."""
    asked = generator.play(Load(url, bodies, rate, duration_s=1.0, count=len(bodies), keep_every=0, tmax_ms=1_000))
    found = [bodies[number] for number in np.flatnonzero(asked.bid).tolist()]
    if not found:
        raise TagbidError(f"{url} bids on none of {len(bodies)} requests; there is nothing to overload it with")
    return found


def in_time(result: Result) -> Flags:
    """(n,) whether a request was answered within its own limit."""
    return (result.status > 0) & (result.latency_us <= result.tmax_us)


def recovery_s(result: Result) -> float | None:
    """When a run became well for good: the end of the last slice in which fewer than `WELL` were answered in time.

    0.0 when there is no such slice; None when the last slice is one.
    """
    slices = (result.due_us / (SLICE_S * 1e6)).astype(np.int64)
    last = int(slices[-1])
    good = np.bincount(slices, weights=in_time(result), minlength=last + 1)
    ill = np.flatnonzero(good < WELL * np.bincount(slices, minlength=last + 1))
    if not len(ill):
        return 0.0
    return None if ill[-1] == last else float(ill[-1] + 1) * SLICE_S


def outage(
    url: str,
    admin: str,
    store_pid: int,
    bodies: Sequence[bytes],
    rate: float,
    free: Collection[str],
    tagged: Collection[str],
    tmax_ms: int,
    stopped_s: float = 10.0,
    around_s: float = 5.0,
) -> Outage:
    """Stop the store in the middle of a run. free, tagged: campaigns that need nothing of the user, that need tags."""
    moments: dict[str, float] = {}
    begun_s = 0.0

    def drill(sent: int, _: int) -> None:
        nonlocal begun_s
        now_s = time.monotonic()
        if not sent:
            return
        begun_s = begun_s or now_s
        if "stop" not in moments and now_s - begun_s >= around_s:
            os.kill(store_pid, signal.SIGSTOP)
            moments["stop"] = time.monotonic()
        elif "stop" in moments and "breaker" not in moments and not scrape.metrics(admin)[BREAKER]:
            moments["breaker"] = time.monotonic()
        if "stop" in moments and "resume" not in moments and now_s - moments["stop"] >= stopped_s:
            os.kill(store_pid, signal.SIGCONT)
            moments["resume"] = time.monotonic()

    try:
        seconds = stopped_s + 2 * around_s
        result = generator.play(Load(url, bodies, rate, seconds, poisson=True, tmax_ms=tmax_ms), on_tick=drill)
    finally:
        os.kill(store_pid, signal.SIGCONT)
    stop, resume = moments["stop"] - begun_s, moments["resume"] - begun_s
    return read_outage(
        result, rate, stop, resume, moments["breaker"] - moments["stop"] if "breaker" in moments else None, free, tagged
    )


def read_outage(
    result: Result,
    rate: float,
    stop_s: float,
    resume_s: float,
    breaker_s: float | None,
    free: Collection[str],
    tagged: Collection[str],
) -> Outage:
    """Figures of a run whose store stood still from `stop_s` to `resume_s`, seconds since its first moment."""
    due_s = result.due_us / 1e6
    during, before = (due_s >= stop_s) & (due_s < resume_s), due_s < stop_s
    of_free, of_tagged = _named(result, free), _named(result, tagged)
    rate_before = of_free[before].sum() / stop_s
    back = np.flatnonzero(of_tagged & (due_s >= resume_s))
    return Outage(
        seconds=round(resume_s - stop_s, 2),
        rate=round(rate, 1),
        errors=int((result.status >= 500).sum()),
        in_time=round(float(in_time(result)[during].mean()), 5),
        free_kept=round(float(of_free[during].sum() / (resume_s - stop_s) / rate_before), 4) if rate_before else 0.0,
        breaker_ms=None if breaker_s is None else round(1000 * breaker_s),
        back_s=round(float(due_s[back[0]]) - resume_s, 3) if len(back) else None,
    )


def _named(result: Result, campaigns: Collection[str]) -> Flags:
    """(n,) whether the answer names one of some campaigns."""
    named = np.zeros(len(result.due_us), np.bool_)
    wanted = {name.encode() for name in campaigns}
    for number, body in result.bodies.items():
        named[number] = any(cid in wanted for cid in _CID.findall(body))
    return named


def rss_mb(pid: int) -> float:
    """Memory of a process that it does not share with files: RssAnon of /proc/<pid>/status, MB; Linux only."""
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:  # noqa: PTH123 - a pseudo file
        found = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return round(found / 1024, 1)


def replaced_s(kill: Callable[[], None], admin: str, workers: int, patience_s: float = 30.0) -> float | None:
    """Seconds from the kill of one worker until as many serve again and the loss has been counted; None for never."""
    before = scrape.metrics(admin).get("tagbid_worker_exits_total", 0.0)
    began_s = time.monotonic()
    kill()
    while time.monotonic() - began_s < patience_s:
        found = scrape.metrics(admin)
        if found.get("tagbid_worker_exits_total", 0.0) > before and found['tagbid_workers{state="serving"}'] == workers:
            return round(time.monotonic() - began_s, 3)
        time.sleep(0.01)
    return None
