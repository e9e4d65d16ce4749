"""Where the time of whole bids goes while they are made, next to what each step costs when it is done over and over.

Between the other steps a step finds its code and its data no longer in the caches and costs up to three times what
`loadtest.micro_steps` finds, so the steps by themselves do not add up to a bid. Here clocks stand around the very calls
of the bid path. What is left of the processor's time is the loop's: its own work, system calls, the log's thread.
"""

import gc
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bidder import bidding, openrtb, reserving, shortlist, signing, targeting
from bidder import decide as deciding
from bidder.bidding import Bidder
from bidder.bidlog import BidLog
from bidder.config import BidderConfig
from bidder.funnel import Funnel
from dmp.lookup import Lookup
from dmp.pseudonym import KeyRing
from dmp.store import Store
from dmp.wire import Wire
from loadtest import micro_steps
from loadtest.watch import Place, watching

PLACES = (
    Place(openrtb, "decode", "decode"),
    Place(bidding, "decide_privacy", "privacy"),
    Place(bidding, "after_lookup", "privacy"),
    Place(bidding, "user_uid", "pseudonym"),
    Place(Lookup, "get", "store"),
    Place(Wire, "_flush", "store"),
    Place(Wire, "data_received", "store"),
    Place(Wire, "_deliver", "store"),
    Place(Lookup, "decode", "user"),
    Place(bidding, "decide", "decide"),
    Place(deciding, "view", "view"),
    Place(deciding, "strip", "view"),
    Place(targeting, "eligible", "filter"),
    Place(targeting, "eligible_for", "filter"),
    Place(shortlist, "context", "score"),
    Place(shortlist, "score", "score"),
    Place(shortlist, "priced", "price"),
    Place(reserving, "reserve", "reserve"),
    Place(signing, "signed", "sign"),
    Place(signing, "body", "encode"),
    Place(BidLog, "put", "log"),
    Place(BidLog, "_make", "log"),
    Place(Funnel, "ask", "funnel"),
    Place(Bidder, "handle", "bidding"),
    Place(Bidder, "_resume", "bidding"),
    Place(Bidder, "_answer_read", "bidding"),
)
INSIDE = {"whole": "", "user": "store"} | dict.fromkeys(("view", "filter", "score", "price"), "decide")
"""What a step is a part of; the others are of the whole. "bidding" is what holds the steps together."""


async def measured(
    settings: BidderConfig, data_dir: Path, store: Store, ring: KeyRing, bodies: Sequence[bytes], rounds: int
) -> dict[str, list[float]]:
    """{step: CPU µs a request, of each round}, "whole" and the "loop" among them; all of the requests are bid on."""
    found: dict[str, list[float]] = {}
    # A loop keeps the methods of its connections, so the clocks must be there before the store is connected.
    with watching(PLACES) as watch, ExitStack() as after:
        async with micro_steps.opened(settings, data_dir, store, ring) as stage:
            gc.collect()
            gc.freeze()  # as the bidder does with a new snapshot
            after.callback(gc.unfreeze)
            for number in range(-1, rounds):
                watch.clear()
                begun_ns = time.process_time_ns()
                await micro_steps.all_bid(stage, bodies, micro_steps.TURN)
                spent_us = (time.process_time_ns() - begun_ns) / 1000 / len(bodies)
                if number < 0:
                    continue  # warming up
                own = watch.found_us(len(bodies))
                whole = spent_us - watch.cost_us(len(bodies))
                round_us = {"whole": whole, **own, "loop": whole - sum(own.values())}
                for step, inside in INSIDE.items():
                    if inside in own:
                        round_us[inside] += own[step]
                for step, us in round_us.items():
                    found.setdefault(step, []).append(us)
    return found
