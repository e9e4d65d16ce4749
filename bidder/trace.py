"""One request traced: what each step of the bid path said and took, without a bid, a reservation or a log record.

Answers `POST /trace/<exchange>` where the header `X-Tagbid-Trace` holds the operator's secret (`trace_token`). What it
tells holds no id: of the user only whether something was known.
"""

import asyncio
import time
from typing import Any

import msgspec

from bidder import explain, openrtb
from bidder.config import ExchangeConfig
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy
from bidder.snapshot import Snapshot
from bidder.user_ids import user_uid
from dmp.lookup import Lookup
from dmp.pseudonym import KeyRing
from dmp.schema import NOBODY, User

HEADER = "X-Tagbid-Trace"
READ_S = 1.0  # nobody's auction is waiting


class Step(msgspec.Struct, frozen=True):
    """What one step took, in microseconds."""

    step: str
    us: float


class Trace(msgspec.Struct, frozen=True):
    """steps: in their order. user: "read", "unknown" (nothing is known of the id), "unread" (the store did not answer),
    "no id" or "not permitted". explanation: every rule's answer for every campaign.
    """

    snapshot: str
    steps: list[Step]
    user: str
    explanation: explain.Explanation


async def trace(
    body: bytes, name: str, exchange: ExchangeConfig, snapshot: Snapshot, lookup: Lookup, ring: KeyRing
) -> Trace:
    """Follow a body down the bid path. Raises BadRequest when it is no bid request."""
    steps: list[Step] = []
    began_s = time.perf_counter()

    def done(step: str) -> None:
        nonlocal began_s
        now_s = time.perf_counter()
        steps.append(Step(step, round((now_s - began_s) * 1e6, 1)))
        began_s = now_s

    request = openrtb.decode(body)
    done("decode")
    privacy = decide_privacy(request, policy(snapshot.settings))
    done("privacy")
    user, known = await _user(request, name, privacy.use_ids, privacy.lookup_tags, snapshot, lookup, ring)
    done("user")
    explanation = explain.explain(request, user, snapshot, time.time_ns() // 1000, exchange, name)
    done("explain")
    return Trace(snapshot.version, steps, known, explanation)


async def _user(
    request: openrtb.Request,
    name: str,
    use_ids: bool,
    lookup_tags: bool,
    snapshot: Snapshot,
    lookup: Lookup,
    ring: KeyRing,
) -> tuple[User | None, str]:
    if not (use_ids and lookup_tags):
        return None, "not permitted"
    uid = user_uid(request, name, ring, snapshot.settings.eid_sources)
    if uid is None:
        return None, "no id"
    later: asyncio.Future[User | None] = asyncio.get_running_loop().create_future()
    if not lookup.get(uid, time.monotonic() + READ_S, later.set_result):
        return None, "unread"
    user: Any = await later
    if user is None:
        return None, "unread"
    return user, "read" if user != NOBODY else "unknown"
