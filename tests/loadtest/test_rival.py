"""The yardstick of the bench is honest only while it makes the bids the bidder makes, from the same users and rules."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import pytest

from bidder.campaigns import parse
from bidder.config import BidderConfig, ExchangeConfig
from bidder.decide import decide
from bidder.openrtb import decode
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy
from bidder.snapshot import build
from dmp.config import DmpConfig
from dmp.pseudonym import KeyRing
from dmp.store import Store, read_users
from loadtest import scenario
from loadtest.bench_servers import NOT_WHOLE, not_whole
from loadtest.rival import Rival

USERS, REQUESTS, CAMPAIGNS = 150, 250, 60
SETTINGS = BidderConfig(gdpr_when_unknown="never", explore_share=0.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_rival_makes_the_bidders_bids(store: Store, tmp_path: Path) -> None:
    made = scenario.make(seed=3, users=USERS, requests=REQUESTS)
    ring = KeyRing(bytes(32))
    now_us = time.time_ns() // 1000
    config = DmpConfig(data_dir=str(tmp_path / "data"), redis_url=store.url)
    scenario.load_users(made, config, store, ring, now_us, tmp_path / "events")
    portfolio = parse(scenario.portfolio(made, CAMPAIGNS), "bench portfolio")
    snapshot = build(portfolio, None, SETTINGS, "test")

    with (tmp_path / "log").open("w") as log:
        rival = Rival(portfolio, None, ring, store, log, b"key")

        async def theirs() -> list[list[tuple[str, float]]]:
            found = []
            for body in made.bodies:
                answer = await rival.decide(json.loads(body), scenario.EXCHANGE)
                found.append(
                    [(bid["crid"], bid["price"]) for seat in (answer or {}).get("seatbid", ()) for bid in seat["bid"]]
                )
            await rival.redis.aclose()
            return found

        bids = asyncio.run(theirs())

    client = store.sync()
    seen: Counter[str] = Counter()
    for body, bid in zip(made.bodies, bids, strict=True):
        request = decode(body)
        uid = rival.user_id(json.loads(body), scenario.EXCHANGE)
        assert uid is not None
        user = read_users(client, [uid], now_us // 1_000_000)[0]
        privacy = decide_privacy(request, policy(SETTINGS))
        ours = decide(request, privacy, user, snapshot, now_us, ExchangeConfig(), scenario.EXCHANGE)
        assert bid == [
            (snapshot.ads[found[0].ad_index].creative, found[0].price_micros / 1e6) for found in ours.offers if found
        ]
        seen["bid" if bid else "none"] += 1
        seen[f"at {request.at}"] += 1
    client.close()
    assert min(seen[kind] for kind in ("bid", "none", "at 1", "at 2")) > 0  # the comparison met every kind


def test_what_was_shed_or_cut_short_is_told_apart_from_decisions() -> None:
    before = dict.fromkeys(NOT_WHOLE, 10.0)
    after = {name: 10.0 + 2**i for i, name in enumerate(NOT_WHOLE)} | {'tagbid_no_bid_total{reason="floor"}': 500.0}
    assert not_whole(before, after) == 2 ** len(NOT_WHOLE) - 1
    assert not_whole({}, {}) == 0
