"""A run of load as the numbers of its report; the keys are a promise to whoever reads the JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from loadtest import referee
from loadtest.load import Result

PERCENTILES: dict[str, float] = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
LISTED_PROBLEMS = 20
_JSON = msgspec.json.Decoder()


def percentiles_us(values: npt.NDArray[np.int64]) -> dict[str, int | None]:
    """Values at each percentile, by the nearest rank, so each is one that happened; None when there are no values.

    >>> percentiles_us(np.arange(1, 1001))
    {'p50': 500, 'p90': 900, 'p99': 990, 'p999': 999, 'max': 1000}
    """
    if not len(values):
        return dict.fromkeys(PERCENTILES)
    ordered = np.sort(values)
    ranks = {name: max(1, int(np.ceil(round(q / 100 * len(ordered), 9)))) for name, q in PERCENTILES.items()}
    return {name: int(ordered[rank - 1]) for name, rank in ranks.items()}


def summarise(
    result: Result,
    bodies: Sequence[bytes] = (),
    server_cpu_s: float | None = None,
    no_bid_reasons: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The report of one run.

    bodies: what was sent, to check the kept answers against. server_cpu_s: CPU time of the server during the run,
    None when nobody measured it. Latency counts from the intended send time, over the answered requests; those
    without an answer are in `unanswered` and, by cause, in `errors`. `send_lag_us` is the generator's own delay: when
    it is not small beside the latency, the generator was the bottleneck and the numbers are not the server's.
    """
    n = len(result.due_us)
    answered = result.status > 0
    statuses = {
        str(code): int(count) for code, count in zip(*np.unique(result.status, return_counts=True), strict=True)
    }
    statuses.pop("0", None)
    bids = int(result.bid.sum())
    found: dict[str, Any] = {
        "requests": n,
        "statuses": statuses,
        "bids": bids,
        "bid_rate": round(bids / n, 6) if n else 0.0,
        "errors": dict(sorted(result.errors.items())),
        "unanswered": n - result.answered,
        "late": result.late,
        "latency_us": percentiles_us(result.latency_us[answered]),
        "send_lag_us": percentiles_us(result.lag_us),
        "server_cpu_us_per_request": round(server_cpu_s * 1e6 / n, 2) if server_cpu_s is not None and n else None,
        "generator_cpu_us_per_request": round(result.cpu_s * 1e6 / n, 2) if n else None,
        "no_bid_reasons": dict(no_bid_reasons or {}),
        "offered_rate": round(result.offered_rate, 2),
        "achieved_rate": round(result.achieved_rate, 2),
        "duration_s": round(result.duration_s, 3),
        "connections_opened": result.opened,
        "notes": list(notes),
    }
    if bodies:
        found |= check_bodies(result, bodies)
    return found


def check_bodies(result: Result, bodies: Sequence[bytes]) -> dict[str, Any]:
    """Judge the kept answers as an exchange would, and what was offered in them.

    `bodies_checked` answers with status 200 or 204; `body_problems` {fault: how often}, most frequent first;
    `offers` {campaign: {bids, mean_cpm}} in the currency of the bid, over the checked answers.
    """
    problems: Counter[str] = Counter()
    prices: dict[str, list[float]] = {}
    checked = 0
    for number, body in result.bodies.items():
        status = int(result.status[number])
        request = _object(bodies[number % len(bodies)])
        if status not in (200, 204) or request is None:
            continue  # what a broken request deserves is for whoever broke it to say
        checked += 1
        if faults := referee.violations(request, status, body):
            problems.update(faults)
        elif body:
            for seat in _JSON.decode(body).get("seatbid") or []:
                for bid in seat["bid"]:
                    prices.setdefault(str(bid.get("cid", "")), []).append(float(bid["price"]))
    return {
        "bodies_checked": checked,
        "body_problems": dict(problems.most_common(LISTED_PROBLEMS)),
        "offers": {
            campaign: {"bids": len(cpm), "mean_cpm": round(float(np.mean(cpm)), 4)}
            for campaign, cpm in sorted(prices.items(), key=lambda item: (-len(item[1]), item[0]))
        },
    }


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = _JSON.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
