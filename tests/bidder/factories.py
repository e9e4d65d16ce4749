"""Requests, campaigns and snapshots with sensible defaults, so that a test shows only what matters to its rule."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec

from bidder import openrtb, snapshot
from bidder.call import Call
from bidder.campaigns import Campaign, Portfolio, Targeting
from bidder.config import BidderConfig, ExchangeConfig
from bidder.creatives import Creative
from bidder.decide import Decision, decide
from bidder.openrtb import Request
from bidder.pacing import Pace
from bidder.privacy import PrivacyDecision, policy
from bidder.privacy import decide as decide_privacy
from bidder.snapshot import Snapshot
from dmp import events
from dmp.events import Bid
from dmp.schema import NOBODY, User

NOW_US = 1_763_985_600_000_000  # Monday 2025-11-24 12:00:00 UTC
EXCHANGE = ExchangeConfig()


def a_creative(**fields: Any) -> Creative:
    return msgspec.convert(
        {
            "id": "c-300x250",
            "w": 300,
            "h": 250,
            "image_url": "https://cdn.example/a.png",
            "landing_url": "https://acme.example/",
        }
        | fields,
        Creative,
    )


def a_campaign(**fields: Any) -> Campaign:
    """targeting may be a dict; creatives a list of dicts or Creatives."""
    name = fields.get("id", "acme")
    creatives = [
        a_creative(**{"id": f"{name}-{i}"} | creative) if isinstance(creative, dict) else creative
        for i, creative in enumerate(fields.pop("creatives", [{}]))
    ]
    base = {
        "id": name,
        "advertiser": name,
        "adomain": "acme.example",
        "cat": ["IAB20"],
        "goal": "cpm",
        "price_micros": 2_000_000,
        "daily_budget_micros": 10**9,
    }
    targeting = fields.pop("targeting", {})
    made = msgspec.convert(base | fields | {"creatives": [msgspec.to_builtins(c) for c in creatives]}, Campaign)
    rules = targeting if isinstance(targeting, Targeting) else msgspec.convert(targeting, Targeting)
    return msgspec.structs.replace(made, targeting=rules)


def a_request(**fields: Any) -> Request:
    """A USA banner request in a first-price auction outside GDPR; fields replace top-level keys, None removes one."""
    return openrtb.decode(msgspec.json.encode(a_body(**fields)))


def a_body(**fields: Any) -> dict[str, Any]:
    imp = fields.pop("imp", {})
    imps = imp if isinstance(imp, list) else [imp]
    base: dict[str, Any] = {
        "id": "r1",
        "at": 1,
        "imp": [{"id": str(i + 1), "banner": {"w": 300, "h": 250}} | one for i, one in enumerate(imps)],
        "site": {"domain": "news.example"},
        "device": {"geo": {"country": "USA"}},
        "regs": {"gdpr": 0},
    }
    return {key: value for key, value in (base | fields).items() if value is not None}


def a_snapshot(*campaigns: Campaign, model: Any = None, **settings: Any) -> Snapshot:
    """Of a bidder that is reached by https, unless `public_url` says otherwise."""
    made = msgspec.convert(settings, BidderConfig)
    return snapshot.build(Portfolio(campaigns), model, made, "test", https=not made.public_url.startswith("http://"))


def a_call(request: Request, served: Snapshot, user: User | None, privacy: PrivacyDecision) -> Call:
    """A call on its way, of an ad without a record of its own."""
    serving: Any = SimpleNamespace(snapshot=served, challenger=None, logged=(b"",) * len(served.ads))
    endpoint: Any = SimpleNamespace(name="x", exchange=EXCHANGE)
    return Call(request, endpoint, serving, privacy, None, 0.0, 1.0, lambda _: None, user)


def logged_bid(record: bytes) -> Bid:
    """A record of the bid log as its readers have it."""
    found = events.decode(record)
    assert isinstance(found, Bid)
    return found


def decision(
    request: Request,
    *campaigns: Campaign,
    user: User | None = NOBODY,
    now_us: int = NOW_US,
    exchange: ExchangeConfig = EXCHANGE,
    exhausted: tuple[str, ...] = (),
    paces: Mapping[str, Pace] | None = None,
    drawn: Mapping[str, float] | None = None,
    **settings: Any,
) -> Decision:
    """Decide with a snapshot of these campaigns (one plain campaign when none is given)."""
    made = a_snapshot(*(campaigns or (a_campaign(),)), **settings)
    made.paces.of = paces or {}
    made.paces.draw(drawn or {})
    privacy = decide_privacy(request, policy(made.settings))
    return decide(request, privacy, user, made, now_us, exchange, "x", made.mask_of(exhausted))
