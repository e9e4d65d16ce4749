"""Whole auctions as data: every file of tests/cases/auction is a request, a user, campaigns and what must come of it.

Anyone can add one. `request` holds top-level keys that replace those of an ordinary banner request (null removes one),
each of `campaigns` those of an ordinary campaign of CPM 2.00 (`factories`). `user`: tags by name, audiences, and
`shown`: impressions within this hour by campaign; null = the store could not be read; absent = nothing is known.
`expect`: one entry per imp, either a reason or the campaign and price (and currency, deal, creative) of the best offer.
`sent`: per imp, the campaigns whose bids go out together (deals beside the open auction, pods), in their order.
`hot`: topics that are hot.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bidder.choosing import Pods, choose
from bidder.config import ExchangeConfig
from bidder.decide import decide
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy
from dmp import keys
from dmp.schema import NOBODY, Contact, User
from dmp.taxonomy import tag_id
from dmp.trends import stated
from tests.bidder.factories import NOW_US, a_campaign, a_request, a_snapshot

CASES = sorted((Path(__file__).parents[1] / "cases" / "auction").glob("*.json"))
KEYS = {"rule", "hot", "request", "campaigns", "user", "settings", "exchange", "exhausted", "expect", "sent"}


def user_of(case: dict[str, Any]) -> User | None:
    if "user" not in case:
        return NOBODY
    told = case["user"]
    if told is None:
        return None
    return User(
        {tag_id(name): score for name, score in told.get("tags", {}).items()},
        frozenset(map(keys.number, told.get("audiences", ()))),
        tuple(Contact(keys.number(name), NOW_US // 3_600_000_000, n) for name, n in told.get("shown", {}).items()),
    )


def test_there_are_cases() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_auction(path: Path) -> None:
    case = json.loads(path.read_text())
    assert set(case) <= KEYS, f"unknown keys in {path.name}: {sorted(set(case) - KEYS)}"
    request = a_request(**case["request"])
    snapshot = a_snapshot(*(a_campaign(**fields) for fields in case["campaigns"]), **case.get("settings", {}))
    snapshot.index.topics.take([stated(name, NOW_US) for name in case.get("hot", ())])
    exchange = msgspec.convert(case.get("exchange", {}), ExchangeConfig)
    exhausted = snapshot.mask_of(case.get("exhausted", ()))
    privacy = decide_privacy(request, policy(snapshot.settings))
    found = decide(request, privacy, user_of(case), snapshot, NOW_US, exchange, "x", exhausted)
    got: list[Any] = []
    for expected, offers, reason in zip(case["expect"], found.offers, found.reasons, strict=True):
        if not offers:
            got.append(reason.value)
            continue
        best = offers[0]
        told = {
            "campaign": snapshot.by_ad[best.ad_index].id,
            "price": best.price_micros / 1e6,
            "currency": best.currency,
            "deal": best.deal,
            "creative": snapshot.creatives[best.ad_index].id,
        }
        got.append({key: told[key] for key in expected} if isinstance(expected, dict) else told)
    assert got == case["expect"], case["rule"]
    if "sent" in case:
        pods: Pods = {}
        chosen = [
            [
                snapshot.by_ad[offer.ad_index].id
                for offer in choose(imp, offers, snapshot, exchange.open_bids, lambda _: True, pods)
            ]
            for imp, offers in zip(request.imp, found.offers, strict=True)
        ]
        assert chosen == case["sent"], case["rule"]
