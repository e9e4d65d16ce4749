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
from msgspec.structs import replace

from bidder import blocking, people, targeting
from bidder import decide as decide_file
from bidder import offers as offers_file
from bidder import shortlist as shortlist_file
from bidder.choosing import Pods, choose
from bidder.config import ExchangeConfig
from bidder.decide import Decision, decide
from bidder.explain import explain
from bidder.index import Index
from bidder.openrtb import Request
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy
from bidder.reasons import Reason
from bidder.rulebook import remembering
from bidder.snapshot import Snapshot
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
    assert len(CASES) >= 250


def read(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(path.read_text())
    assert set(case) <= KEYS, f"unknown keys in {path.name}: {sorted(set(case) - KEYS)}"
    return case


def snapshot_of(case: dict[str, Any]) -> Snapshot:
    made = a_snapshot(*(a_campaign(**fields) for fields in case["campaigns"]), **case.get("settings", {}))
    made.index.topics.take([stated(name, NOW_US) for name in case.get("hot", ())])
    return made


def decided(case: dict[str, Any], snapshot: Snapshot) -> tuple[Request, Decision]:
    request = a_request(**case["request"])
    exchange = msgspec.convert(case.get("exchange", {}), ExchangeConfig)
    exhausted = snapshot.mask_of(case.get("exhausted", ()))
    privacy = decide_privacy(request, policy(snapshot.settings))
    return request, decide(request, privacy, user_of(case), snapshot, NOW_US, exchange, "x", exhausted)


def played(case: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    """What came of a case, in the words of its `expect` and `sent`."""
    request, found = decided(case, snapshot)
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
    if "sent" not in case:
        return {"expect": got}
    open_bids, pods = msgspec.convert(case.get("exchange", {}), ExchangeConfig).open_bids, Pods()
    sent = [
        [snapshot.by_ad[offer.ad_index].id for offer in choose(imp, offers, snapshot, open_bids, lambda _: True, pods)]
        for imp, offers in zip(request.imp, found.offers, strict=True)
    ]
    return {"expect": got, "sent": sent}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_auction(path: Path) -> None:
    case = read(path)
    wanted = {key: case[key] for key in ("expect", "sent") if key in case}
    assert played(case, snapshot_of(case)) == wanted, case["rule"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_was_decided_is_explained(path: Path) -> None:
    """The same reasons, and of a rule that left nothing some campaign's verdict."""
    case = read(path)
    if "exhausted" in case:
        return  # what has money is known to a running bidder only
    snapshot = snapshot_of(case)
    exchange = msgspec.convert(case.get("exchange", {}), ExchangeConfig)
    request, found = decided(case, snapshot)
    told = explain(request, user_of(case), snapshot, NOW_US, exchange, "x")
    assert (told.reason, [imp.reason for imp in told.imps]) == (found.reason.value, [r.value for r in found.reasons])
    for imp, offers in zip(told.imps, found.offers, strict=True):
        verdicts = {answer.campaign: answer.verdict for answer in imp.campaigns}
        assert {name for name, verdict in verdicts.items() if verdict == "offered"} == {
            snapshot.by_ad[offer.ad_index].id for offer in offers
        }
        asked = {rule for answer in imp.campaigns for rule in answer.rules}
        if imp.reason in asked:
            assert imp.reason in verdicts.values()


RULES = sorted(
    {
        Reason.SEAT, Reason.AUDIT, Reason.AUCTION_TYPE, Reason.DEVICE, Reason.OS, Reason.SCHEDULE, Reason.GEO,
        Reason.INVENTORY, Reason.NO_USER, Reason.CATEGORY, Reason.BLOCKED_CATEGORY, Reason.BLOCKED_ADVERTISER,
        Reason.BLOCKED_APP, Reason.LANGUAGE, Reason.AUDIENCE, Reason.TAGS, Reason.KEYWORD, Reason.HOT, Reason.SEGMENT,
        Reason.FREQUENCY_CAP, Reason.DEAL, Reason.SECURE, Reason.REWARDED, Reason.METRIC, Reason.SIZE,
        Reason.CREATIVE_TYPE, Reason.NOT_RUNNING, Reason.TRANSPARENCY, *targeting.MEDIA_RULES,
    }
)  # fmt: skip


def without(index: Index, rule: Reason) -> Index:
    """An index whose ads are never asked about one rule."""
    lists = [name for name in index.__struct_fields__ if name.endswith("rules") or name.startswith("asked")]
    return remembering(
        replace(index, **{name: tuple(r for r in getattr(index, name) if r[0] is not rule) for name in lists})
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_held_by_a_case(rule: Reason, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget one rule, and a case that expects it goes wrong."""
    cases = [case for case in map(read, CASES) if rule.value in case["expect"]]
    monkeypatch.setattr(targeting, "MEDIA_RULES", tuple(one for one in targeting.MEDIA_RULES if one is not rule))
    for case in cases:
        made = snapshot_of(case)
        if played(case, replace(made, index=without(made.index, rule)))["expect"] != case["expect"]:
            return
    pytest.fail(f"{len(cases)} cases expect {rule.value}, and all of them pass without it")


@pytest.mark.parametrize(
    ("where", "name", "mistake"),
    [
        (decide_file, "bid_currency", lambda _allowed, _rates: "USD"),
        (shortlist_file, "floor_micros", lambda _floor, _named, _currency, _rates: 0),
        (offers_file, "length_floor", lambda _told, _length, otherwise: otherwise),
        (offers_file, "length_floor", lambda _told, _length, _otherwise: None),
        (shortlist_file, "guidance", lambda _imp: {}),
        (offers_file, "value_micros", lambda _goal, price, _expected: price),
        (offers_file, "price_micros", lambda worth, _floor, _at, _shaded, _most: int(worth)),
        (offers_file, "price_micros", lambda _worth, _floor, _at, shaded, _most: int(shaded)),
        (targeting, "deals_of", lambda imp: imp.pmp.deals or () if imp.pmp is not None else ()),
        (targeting, "deal_ads", lambda index, deal: index.deals.get(deal.id, 0)),
        (blocking, "in_range", lambda _language, _ranges: True),
        (decide_file, "_keep_capped_once", lambda _offers, _snapshot: None),
        (people, "over_cap", lambda _caps, _contacts, _now: False),
        (decide_file, "strip", lambda request, _privacy: request),
        (decide_file, "usable", lambda user, _privacy, _settings: user),
        (decide_file.traffic, "refusal", lambda *_: None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_step_that_money_or_the_law_hangs_on_is_held_by_a_case(
    where: Any, name: str, mistake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break one step, and a case goes wrong."""
    monkeypatch.setattr(where, name, mistake)
    for case in map(read, CASES):
        wanted = {key: case[key] for key in ("expect", "sent") if key in case}
        if played(case, snapshot_of(case)) != wanted:
            return
    pytest.fail(f"every case passes without {name}")
