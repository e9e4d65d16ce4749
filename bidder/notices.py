"""Win, billing, loss, impression, view, playback and click: every notice counted once, whoever repeats it (S-11..S-16).

The token in the URL says which bid it is; one script books it: mark, record in the stream, money (`notices.lua`). Only
an exchange's event of record spends money and counts a contact, under a mark on the user's own slot. What the
store has not acknowledged is answered 503, so that the exchange sends it again; repeats are answered like the first.

A notice that cannot be believed (price above what we offered, negative, no number where money is due, encrypted and
told for another bid before) spends nothing: it goes to the same stream under the field `q` instead of `e`, is counted
as quarantined, and is answered like any other, because sending it again would not make it right.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import redis.exceptions

from bidder import contact
from bidder.budget import DAY_S, KEEP_S, Budgets, cost_micros
from bidder.config import DEFAULT_EXCHANGE, BidderConfig
from bidder.funnel import BILLED, CLICKED, WON, Funnel
from bidder.metrics import Metrics
from bidder.prices import STALE_S, PriceUnusable, iv_of, reported_micros
from bidder.tokens import ONE_MILLI, SKEW_S, Forged, Signer, Token
from bidder.vast import EVENTS
from dmp import events, keys
from dmp.link import Link

Kind = Literal["win", "billing", "loss", "impression", "click", "viewable", "progress"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BROWSER_KINDS: frozenset[Kind] = frozenset({"impression", "click", "viewable", "progress"})
VALID_S: Mapping[Kind, int] = dict.fromkeys(KINDS, 86_400) | {"click": 30 * 86_400}
"""S-11: how long after the bid a notice counts; marks live as long."""

POINTS = frozenset({*EVENTS, "error"})
"""What `progress` may tell."""

PRICED: frozenset[Kind] = frozenset({"win", "billing", "loss", "impression"})
"""Notices whose `p` is a price."""

STEPS: Mapping[Kind, str] = {"win": WON, "click": CLICKED}
"""Steps of a campaign's funnel; whatever is of record is billed."""

MAX_DEFERRED = 50_000
STREAM_MAX = 250_000  # entries of one of 16 streams, about 60 MB
SCRIPT = (Path(__file__).parent / "notices.lua").read_text()
SHA1 = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Result(IntEnum):
    """How a notice ended; the lower-case name is the metric label."""

    COUNTED = 0
    DUPLICATE = 1
    TEST = 2
    AUDIT = 3
    LATE = 4
    QUARANTINED = 5
    FORGED = 6
    UNAVAILABLE = 7
    UNKNOWN = 8
    OVER_BUDGET = 9
    DEFERRED = 10


class Notices:
    """Books notices over one link, which it shares with the budgets (see `bidder.budget`)."""

    def __init__(
        self,
        link: Link,
        signer: Signer,
        budgets: Budgets,
        settings: BidderConfig,
        metrics: Metrics,
        log: Callable[[Callable[[], bytes]], None],
    ) -> None:
        self.contacts_keep_s = contact.KEEP_S
        """The longest live frequency window (P-70)."""
        self.deferred: deque[tuple[Kind, Token, dict[str, str]]] = deque(maxlen=MAX_DEFERRED)
        """What a browser told while the store was away; it will not tell it again."""
        self._link = link
        self._signer = signer
        self._budgets = budgets
        self._settings = settings
        self._log = log
        self._counts = metrics.counts
        self._funnel = Funnel(metrics)
        self._paused = metrics.slot("tagbid_bills_of_paused_total")
        self._slots = {
            (kind, result): metrics.slot("tagbid_notices_total", kind=kind, result=result.name.lower())
            for kind in KINDS
            for result in Result
        }

    async def book(self, kind: Kind, query: Mapping[str, str]) -> tuple[Result, Token | None]:
        """One call of a notice URL. query: `t` the token; `p` the price, of a loss what would have won; `l` its reason.

        The token is None when it is not ours, or was made for another kind of URL.
        """
        token: Token | None
        try:
            token = self._signer.read(query.get("t", ""))
        except Forged:
            token = None
        if token is not None and token.browser is not (kind in BROWSER_KINDS):
            token = None
        result = Result.FORGED if token is None else await self._book(kind, token, query)
        if result is Result.UNAVAILABLE and token is not None and kind in BROWSER_KINDS:
            self.deferred.append((kind, token, dict(query)))
            result = Result.DEFERRED
        self._counts[self._slots[kind, result]] += 1
        return result, token

    async def book_deferred(self) -> None:
        """Book what browsers told while the store was away, in order, until it is away again."""
        while self.deferred:
            kind, token, query = told = self.deferred.popleft()  # before the wait: a full queue drops its first
            result = await self._book(kind, token, query)
            if result is Result.UNAVAILABLE:
                self.deferred.appendleft(told)
                return
            self._counts[self._slots[kind, result]] += 1

    async def _book(self, kind: Kind, token: Token, query: Mapping[str, str]) -> Result:
        price = query.get("p", "").strip()
        if token.test:
            return Result.TEST
        if price == "AUDIT":  # a quality render, not an impression (OpenRTB 2.6, section 4.4)
            return Result.AUDIT
        now_s = self._budgets.now_s()
        if now_s - token.issued_s > VALID_S[kind]:
            return Result.LATE
        if token.issued_s - now_s > SKEW_S:
            return Result.FORGED
        exchange = self._settings.exchanges.get(token.exchange, DEFAULT_EXCHANGE)
        of_record = kind == exchange.event_of_record
        local_micros = paid_micros = 0
        problem = ""
        if kind == "progress" and query.get("e") not in POINTS:
            return Result.UNKNOWN
        if kind in PRICED and (kind != "loss" or exchange.loss_price == "use"):
            try:
                local_micros = reported_micros(price, exchange, now_s)
                if kind != "loss":
                    paid_micros = self._paid_micros(local_micros, token)
            except PriceUnusable as error:
                # Only money needs a price; without it a macro that was not filled in is simply unknown.
                problem = str(error) if of_record or str(error) in ("negative", "above ceiling") else ""
                local_micros = paid_micros = 0
        if kind == "loss":
            problem = ""
        try:
            if of_record and not problem and exchange.price_encoding == "google" and not await self._own(price, token):
                problem = "told for another bid"
                local_micros = paid_micros = 0
            event = _event(kind, token, query, local_micros, int(time.time() * 1e6))
            fresh, over = await self._store(kind, token, event, paid_micros, of_record, problem, now_s)
            if of_record and not problem and not over and token.uid is not None and token.counts_contact:
                await contact.record(
                    self._link,
                    token.uid,
                    (keys.number(token.campaign),),
                    now_s * 1_000_000,
                    keys.contact_mark(token.uid, f"{token.bid_id}:{kind}"),
                    VALID_S[kind] + SKEW_S,
                    self.contacts_keep_s,
                )
        except redis.exceptions.RedisError:
            return Result.UNAVAILABLE
        if not fresh:
            return Result.DUPLICATE
        if over:
            return Result.OVER_BUDGET
        if problem:
            return Result.QUARANTINED
        if of_record and not self._budgets.active(token.campaign):
            self._counts[self._paused] += 1
        step = BILLED if of_record else STEPS.get(kind)
        if step is not None:
            self._funnel.count(token.campaign, step)
        self._log(partial(events.encode, event))
        return Result.COUNTED

    def _paid_micros(self, local_micros: int, token: Token) -> int:
        """The price in CPM micro-USD. Raises PriceUnusable when it is more than we offered (S-13)."""
        rate = self._settings.rates.get(token.currency)
        if rate is None:
            raise PriceUnusable("no rate")
        paid = local_micros if token.currency == "USD" else round(local_micros * rate)
        if paid > token.ceiling_micros + (token.currency != "USD"):  # converting may round the other way
            raise PriceUnusable("above ceiling")
        return min(paid, token.ceiling_micros)

    async def _own(self, price: str, token: Token) -> bool:
        """Whether an encrypted price belongs to this bid: to the first it is told for, as long as it is good (S-14)."""
        key, bid = keys.price_mark(iv_of(price)), token.bid_id.encode()
        if await self._link.execute("SET", key, bid, "NX", "EX", STALE_S + SKEW_S) is not None:
            return True
        return bool(await self._link.execute("GET", key) == bid)

    async def _store(
        self,
        kind: Kind,
        token: Token,
        event: events.Notice,
        paid_micros: int,
        of_record: bool,
        problem: str,
        now_s: int,
    ) -> tuple[bool, bool]:
        """Run the booking script and tell the budget: (whether this event was new, whether the budget had no room).

        A bill after its bid's hold, or after its loss, finds its money given to other bids: it is paid only out of what
        is free of the campaign's budget of that day, whether it is paused meanwhile or not.
        """
        campaign, day = token.campaign, token.issued_s // DAY_S
        spends = of_record and not problem
        settles = spends or kind == "loss"
        mark = event.event_id + (":q" if problem else "")
        arguments = (
            4,
            keys.money_mark(campaign, mark),
            keys.money_mark(campaign, f"{token.bid_id}:settled"),
            keys.spend(campaign, day),
            keys.notices(keys.money_partition(campaign)),
            VALID_S[kind] + SKEW_S,
            reserved_micros(paid_micros, token.multiplier_milli) if spends else 0,
            token.worker,
            events.encode(event),
            STREAM_MAX,
            int(settles),
            "q" if problem else "e",
            KEEP_S,
            self._budgets.limit(campaign),
            int(spends and now_s >= token.issued_s + token.hold_s),
        )
        try:
            fresh, first, lease, over = await self._link.execute("EVALSHA", SHA1, *arguments)
        except redis.exceptions.NoScriptError:
            fresh, first, lease, over = await self._link.execute("EVAL", SCRIPT, *arguments)
        if settles and token.worker == self._budgets.worker:
            reserved = reserved_micros(token.ceiling_micros, token.multiplier_milli)
            self._budgets.settled(campaign, token.issued_s, token.hold_s, reserved, lease, bool(first))
        return bool(fresh), bool(over)


def reserved_micros(ceiling_micros: int, multiplier_milli: int = ONE_MILLI) -> int:
    """What a bid can cost at most: no price up to the ceiling rounds to more. multiplier_milli: of a screen's audience.

    >>> reserved_micros(1_499), reserved_micros(1_500), reserved_micros(2_500_000, 30_300)
    (1, 2, 75750)
    """
    return cost_micros(ceiling_micros * multiplier_milli // 1000)


_EVENTS: Mapping[Kind, type[events.Notice]] = {
    "win": events.Win, "billing": events.Billing, "impression": events.Impression, "click": events.Click,
    "viewable": events.Viewable,
}  # fmt: skip


def _event(kind: Kind, token: Token, query: Mapping[str, str], price: int, now_us: int) -> events.Notice:
    common = {
        "event_id": f"{token.bid_id}:{kind}",
        "bid_id": token.bid_id,
        "imp_id": token.imp_id,
        "time_us": now_us,
        "campaign": token.campaign,
        "creative": token.creative,
        "exchange": token.exchange,
        "uid": token.uid,
    }
    if kind == "loss":
        return events.Loss(**common, reason=_code(query.get("l", "")), min_to_win_micros=price)  # type: ignore[arg-type]
    if kind == "progress":
        point = query["e"]
        named = common | {"event_id": f"{token.bid_id}:{point}"}
        return events.Progress(**named, point=point, code=_code(query.get("c", "")))  # type: ignore[arg-type]
    return _EVENTS[kind](**common, price_micros=price)  # type: ignore[arg-type]


def _code(text: str) -> int:
    """A reason or error code from a URL; 0 for what is none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
