"""An event of a shop decides about the next bid: collector, stream, store and bidder as processes of their own."""

import json
import secrets
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmp.catalogue import open_catalogue
from loadtest import stage
from loadtest.stage import EXCHANGE, Stage
from tests.bidder.factories import a_body

IFA = "6d92078a-8246-4ba4-ae5b-76104861e7dc"
RETARGETING = """
[[campaign]]
id = "come-back"
advertiser = "shop"
adomain = "shop.example"
goal = "cpm"
price_micros = 2_000_000
daily_budget_micros = 1_000_000_000
targeting = { tags = { "intent.fashion" = 20 } }
creatives = [{ id = "c1", w = 300, h = 250, html = "<b>still yours</b>", landing_url = "https://shop.example/" }]
"""
WITHIN_S = 15.0  # until the test gives up on a machine under load; how long it took is in the report of the run


def posted(url: str, body: Any, **headers: str) -> tuple[int, bytes]:
    sent = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, json.dumps(body).encode(), sent)  # noqa: S310 - our own loopback servers
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return answer.status, answer.read()


def test_one_cart_event_brings_the_retargeting_bid(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "campaigns.toml").write_text(RETARGETING)
    on = Stage(tmp_path / "data", secrets.token_bytes(32), tmp_path / "campaigns.toml", tmp_path / "models")
    with stage.store(on), stage.streamer(on), stage.dmp(on) as collector, stage.bidder(on) as bidder:
        catalogue = open_catalogue(tmp_path / "data")
        catalogue.add_advertiser("shop", 1)
        key = catalogue.issue_key("shop", 1, scopes=("events",))
        catalogue.close()

        def bid() -> int:
            device = {"geo": {"country": "USA"}, "ifa": IFA}
            return posted(f"{bidder.url}/bid/{EXCHANGE}", a_body(id=secrets.token_hex(8), device=device))[0]

        assert bid() == 204
        cart = {"kind": "cart", "event_id": "1", "id": IFA, "id_type": "device", "consent": 7, "category": "fashion"}
        assert posted(f"{collector.url}/v1/events", cart, Authorization=f"Bearer {key}")[0] == 202
        accepted = time.monotonic()
        while bid() != 200:
            assert time.monotonic() - accepted < WITHIN_S
        record_property("event_to_bid_s", round(time.monotonic() - accepted, 3))
        assert posted(f"{bidder.url}/bid/{EXCHANGE}", a_body(id="other", device={"geo": {"country": "USA"}}))[0] == 204
