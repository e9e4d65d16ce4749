"""Conversions: an advertiser's pixel or server tells that a click of ours led to something, counted once (S-12).

The click redirect puts the click's id, which is the bid's browser token, into the landing address (`${CLICK_ID}`); the
advertiser hands it back. A pixel (`/conv`) needs nothing else; a server (`/postback/<advertiser>`) also sends the
advertiser's secret. Orders have ids: an order counts once per campaign, whatever told it how often. What has no
order id, or one that names a person, counts once per click. A click id is no secret, so one click has a limited number
of conversions, whatever order ids are made up for it, and what a browser says one is worth is believed up to a limit of
its campaign.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path

import redis.exceptions

from bidder.budget import DAY_S
from bidder.config import BidderConfig
from bidder.metrics import Metrics
from bidder.notices import STREAM_MAX
from bidder.prices import PriceUnusable, price_micros
from bidder.tokens import SKEW_S, Forged, Signer, Token
from dmp import events, keys
from dmp.link import Link
from dmp.naming import names_somebody
from dmp.schema import NO_UID

SCRIPT = (Path(__file__).parent / "conversions.lua").read_text()
SHA1 = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
MAX_ORDER_CHARS = 256
MAX_VALUE_MICROS = 10**15


class Told(StrEnum):
    """How a conversion ended; the metric label."""

    COUNTED = "counted"
    DUPLICATE = "duplicate"
    TOO_MANY = "too_many"
    TEST = "test"
    LATE = "late"
    BAD_VALUE = "bad_value"
    FORGED = "forged"
    UNAVAILABLE = "unavailable"


class Conversions:
    """Books conversions over the link that notices use."""

    def __init__(
        self,
        link: Link,
        signer: Signer,
        now_s: Callable[[], int],
        settings: BidderConfig,
        metrics: Metrics,
        log: Callable[[Callable[[], bytes]], None],
    ) -> None:
        self._link = link
        self._signer = signer
        self._now_s = now_s
        self._settings = settings
        self._log = log
        self._counts = metrics.counts
        self._cut = metrics.slot("tagbid_conversion_values_cut_total")
        self._slots = {told: metrics.slot("tagbid_conversions_total", result=told.value) for told in Told}

    def token(self, text: str) -> Token | None:
        """The click behind an id; None when it is none of ours."""
        try:
            token = self._signer.read(text)
        except Forged:
            return None
        return token if token.browser else None

    async def book(self, token: Token | None, query: Mapping[str, str], most_micros: int = MAX_VALUE_MICROS) -> Told:
        """One conversion. query: `v` its value and `cur` the currency of that (USD), `o` the order's id; all
        optional. most_micros: what whoever tells is believed; a higher value is cut to that.
        """
        told = Told.FORGED if token is None else await self._book(token, query, most_micros)
        self._counts[self._slots[told]] += 1
        return told

    async def _book(self, token: Token, query: Mapping[str, str], most_micros: int) -> Told:
        if token.test:
            return Told.TEST
        now_s = self._now_s()
        if now_s - token.issued_s > self._settings.conversion_days * DAY_S:
            return Told.LATE
        try:
            value = self._value_micros(query.get("v", "").strip(), query.get("cur", "").strip() or "USD")
        except PriceUnusable:
            return Told.BAD_VALUE
        if value > most_micros:
            self._counts[self._cut] += 1
            value = most_micros
        order = query.get("o", "").strip()[:MAX_ORDER_CHARS]
        if names_somebody(order):  # neither it nor a hash of it may be kept (P-60): the click alone tells copies apart
            order = ""
        # An order's id is the advertiser's text: only its hash goes into a key (S-22).
        name = f"order:{hashlib.blake2b(order.encode(), digest_size=16).hexdigest()}" if order else token.bid_id
        mark = f"{keys.number(token.campaign)}:{name}:conversion"
        event = events.Conversion(
            event_id=mark,
            uid=token.uid or NO_UID,
            time_us=time.time_ns() // 1000,
            source="advertiser",
            consent=events.CONSENT_MEASURE if token.uid is not None else 0,
            value_micros=value,
            campaign=token.campaign,
            bid_id=token.bid_id,
            # A text that may name a person; without an id to join it to, nobody has a use for it (P-64).
            order_id=order if token.uid is not None else "",
        )
        arguments = (
            3,
            keys.money_mark(token.campaign, mark),
            keys.money_mark(token.campaign, f"{token.bid_id}:conversions"),
            keys.notices(keys.money_partition(token.campaign)),
            self._settings.conversion_days * DAY_S + SKEW_S,
            events.encode(event),
            STREAM_MAX,
            self._settings.conversions_per_click,
        )
        try:
            try:
                told = await self._link.execute("EVALSHA", SHA1, *arguments)
            except redis.exceptions.NoScriptError:
                told = await self._link.execute("EVAL", SCRIPT, *arguments)
        except redis.exceptions.RedisError:
            return Told.UNAVAILABLE
        result = Told(told.decode())
        if result is Told.COUNTED:
            self._log(partial(events.encode, event))
        return result

    def _value_micros(self, text: str, currency: str) -> int:
        """Micro-USD; 0 when no value was told. Raises PriceUnusable on a value nobody can book."""
        if not text:
            return 0
        rate = self._settings.rates.get(currency.upper())
        if rate is None:
            raise PriceUnusable("no rate")
        micros = round(price_micros(text) * rate)
        if micros > MAX_VALUE_MICROS:
            raise PriceUnusable("too much")
        return micros
