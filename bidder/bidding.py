"""One bid request, from its bytes to the bytes of the answer: the steps of the bid path in order, at their edge.

decode -> privacy -> time left? -> user (one read, shared with other requests of the loop turn) -> decide -> reserve ->
sign -> answer -> log. Without a user to read the answer is returned at once; else it is handed over when the user
is there, when the store says it will not be, or at the deadline.
"""

import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from secrets import token_bytes

import msgspec
from msgspec.structs import replace

from bidder import answer, openrtb, transparency
from bidder.answer import Sent
from bidder.budget import Budgets
from bidder.choosing import Pods, choose
from bidder.config import BidderConfig
from bidder.decide import Decision, decide
from bidder.endpoints import Endpoint
from bidder.experiments import Assignment, assign
from bidder.funnel import SENT, Funnel
from bidder.markup import for_imp, most_bytes
from bidder.metrics import Metrics
from bidder.notices import reserved_micros
from bidder.offers import Offer
from bidder.openrtb import BadRequest, Imp, Reason, Request, nbr
from bidder.openrtb import User as RequestUser
from bidder.overload import Pressure
from bidder.privacy import PrivacyDecision, after_lookup
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy as privacy_policy
from bidder.quoting import Quote
from bidder.redact import permitted
from bidder.serving import Serving
from bidder.tastes import RESULTS
from bidder.tokens import WORKER_BYTES, Signer, bid_id_text, text_field
from bidder.vast import PRICE
from dmp import keys
from dmp.events import Bid, Event
from dmp.lookup import Lookup
from dmp.pseudonym import KeyRing
from dmp.schema import Uid, User
from models import features
from models.context import NAN, Ad, Context, encode_context
from models.features import USER_COLUMNS
from models.landscape import HOWS

OK, NO_CONTENT, BAD_REQUEST = 200, 204, 400
Answer = bytes | int
"""A body, sent with 200; or a status without a body."""

DEFECTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error,
    msgspec.MsgspecError,
)  # fmt: skip
"""What a mistake of ours raises. It costs the request it happens in, not its connection or its neighbours."""

MAX_TMAX_MS = 10_000.0
_COUNTER_BYTES = 6


def new_worker() -> bytes:
    """The name of one bidder process, never used again: the first half of all its bid ids."""
    return token_bytes(WORKER_BYTES)


class Bidder:
    """Answers bid requests. `serving` may be replaced at any time; a request keeps the one it started with."""

    def __init__(
        self,
        settings: BidderConfig,
        serving: Serving,
        lookup: Lookup,
        budgets: Budgets,
        signer: Signer,
        ring: KeyRing,
        worker: bytes,
        metrics: Metrics,
        pressure: Pressure,
        log: Callable[[Callable[[], Event]], None],
        report: Callable[[BaseException], None],
        saw: Callable[[str, Quote], None] = lambda _campaign, _quote: None,
    ) -> None:
        self.serving = serving
        self.in_flight = 0
        self._settings = settings
        self._policy = privacy_policy(settings)
        self._lookup = lookup
        self._budgets = budgets
        self._signer = signer
        self._ring = ring
        self._worker = worker
        self._bids = 0
        self._pressure = pressure
        self._log = log
        self._report = report
        self._saw = saw
        self._funnel = Funnel(metrics, settings.funnel_every)
        self._exhausted: tuple[Serving, int, int] = (serving, -1, 0)
        self._counts = metrics.counts
        self._latency = metrics.latency
        self._no_bid = {reason: metrics.slot("tagbid_no_bid_total", reason=reason.value) for reason in Reason}
        self._statuses = {
            status: metrics.slot("tagbid_responses_total", status=str(status))
            for status in (OK, NO_CONTENT, BAD_REQUEST)
        }
        self._shaded = {how: metrics.slot("tagbid_first_price_total", by=how) for how in HOWS}
        self._explored = metrics.slot("tagbid_explored_total")
        self._too_many = metrics.slot("tagbid_bids_left_out_total")
        self._bids_slot = metrics.slot("tagbid_bids_total")
        self._tastes = {name: metrics.slot("tagbid_preference_total", result=name) for name in RESULTS}
        self._errors_slot = metrics.slot("tagbid_errors_total", where="bid")
        self._by_law = metrics.slot("tagbid_contextual_total", because="privacy")
        self._no_id = metrics.slot("tagbid_contextual_total", because="no_id")
        self._no_store = metrics.slot("tagbid_contextual_total", because="store")

    def handle(
        self, body: bytes, endpoint: Endpoint, arrived_s: float, done: Callable[[Answer], None]
    ) -> Answer | None:
        """The answer; or None, and then `done` is called with it once, on this loop, in time for the exchange.

        arrived_s: when the request's last bytes came, on the clock of time.monotonic. Never raises.
        """
        self._counts[endpoint.requests_slot] += 1
        try:
            return self._start(body, endpoint, arrived_s, done)
        except DEFECTS as error:
            return self._defect(error, arrived_s)

    def _start(
        self, body: bytes, endpoint: Endpoint, arrived_s: float, done: Callable[[Answer], None]
    ) -> Answer | None:
        pressure = self._pressure
        crowded = pressure.crowded(self.in_flight) and pressure.crowded(
            self.in_flight - self._lookup.link.stuck(arrived_s)
        )
        if crowded or pressure.late(arrived_s):
            return self._nothing(Reason.OVERLOAD, arrived_s)
        if endpoint.quota is not None and not endpoint.quota.admit(arrived_s):
            return self._nothing(Reason.RATE_LIMIT, arrived_s)
        try:
            request = openrtb.decode(body)
        except BadRequest:
            return self._nothing(Reason.INVALID_REQUEST, arrived_s, BAD_REQUEST)
        exchange = endpoint.exchange
        tmax_ms = request.tmax if request.tmax is not None and request.tmax > 0 else exchange.default_tmax_ms
        deadline_s = (
            pressure.since_s(arrived_s) + (min(tmax_ms, MAX_TMAX_MS) - exchange.network_ms - exchange.margin_ms) / 1000
        )
        if deadline_s <= time.monotonic():
            return self._no_bids(Reason.NO_TIME, arrived_s, request, endpoint)
        privacy = decide_privacy(request, self._policy)
        uid = user_uid(request, endpoint.name, self._ring, self._settings.eid_sources) if privacy.use_ids else None
        if uid is not None and privacy.lookup_tags:
            resume = partial(self._resume, request, endpoint, privacy, uid, self.serving, arrived_s, deadline_s, done)
            if self._lookup.get(uid, deadline_s, resume):
                self.in_flight += 1
                return None
            self._counts[self._no_store] += 1
        else:
            self._counts[self._no_id if privacy.use_ids else self._by_law] += 1
        return self._finish(request, endpoint, privacy, uid, None, self.serving, arrived_s, deadline_s)

    def _resume(
        self,
        request: Request,
        endpoint: Endpoint,
        privacy: PrivacyDecision,
        uid: Uid,
        serving: Serving,
        arrived_s: float,
        deadline_s: float,
        done: Callable[[Answer], None],
        user: User | None,
    ) -> None:
        """The read of a user has ended, one way or another."""
        self.in_flight -= 1
        if user is None:
            self._counts[self._no_store] += 1
        try:
            # Half of what was kept back is for our own queues; beyond that the exchange no longer listens.
            begun_s = time.monotonic()
            if begun_s > deadline_s + endpoint.exchange.margin_ms / 2000:
                found: Answer = self._nothing(Reason.NO_TIME, arrived_s)
            else:
                found = self._finish(request, endpoint, privacy, uid, user, serving, arrived_s, deadline_s)
                self._pressure.decided(time.monotonic() - begun_s)
        except DEFECTS as error:
            found = self._defect(error, arrived_s)
        done(found)

    def _finish(
        self,
        request: Request,
        endpoint: Endpoint,
        privacy: PrivacyDecision,
        uid: Uid | None,
        user: User | None,
        serving: Serving,
        arrived_s: float,
        deadline_s: float,
    ) -> Answer:
        """Decide, reserve, sign, write down."""
        narrowed = after_lookup(privacy, user)
        if narrowed is not privacy:
            privacy, uid, user = narrowed, None, None
            self._counts[self._by_law] += 1
        now_us = time.time_ns() // 1000
        unit = uid if privacy.measure else None  # an experiment measures, and its report must find the same unit again
        assigned = assign(serving.snapshot.experiments, unit or request.id.encode(), now_us)
        snapshot, exchange = serving.snapshot, endpoint.exchange
        decided = partial(
            decide, request, privacy, user, snapshot, now_us, exchange, endpoint.name,
            self._no_money(serving) | snapshot.mask_of(assigned.barred), lambda: time.monotonic() > deadline_s,
        )  # fmt: skip
        sampled = self._funnel.wants()
        best_only = exchange.open_bids == 1 and not sampled
        decision = decided(best_only=best_only)
        if decision.taste:
            self._counts[self._tastes[decision.taste]] += 1
        if sampled:
            self._funnel.ask(request, privacy, user, snapshot, now_us, exchange, endpoint.name, decision)
        if decision.reason is not Reason.BID:
            return self._no_bids(decision.reason, arrived_s, request, endpoint)
        issued_s = self._budgets.now_s()
        chosen: list[tuple[Offer, int]] = []
        try:
            self._choose(chosen, request, decision, serving, issued_s, exchange.open_bids)
            if not chosen and best_only:  # seldom: the money ran out with this very bid
                decision = decided()
                self._choose(chosen, request, decision, serving, issued_s, exchange.open_bids)
            if not chosen:
                return self._no_bids(Reason.BUDGET, arrived_s, request, endpoint)
            if exchange.max_answer_bytes and len(chosen) > 1:
                chosen = self._fitting(request, chosen, serving, issued_s, exchange.max_answer_bytes)
            return self._sent(
                request, endpoint, privacy, uid, user, serving, decision, chosen, assigned, issued_s, now_us, arrived_s
            )
        except DEFECTS:
            for offer, hold_s in chosen:  # nothing of it was sent, so nothing of it can cost anything
                self._give_back(request, serving, offer, issued_s, hold_s)
            raise

    def _choose(
        self,
        chosen: list[tuple[Offer, int]],
        request: Request,
        decision: Decision,
        serving: Serving,
        issued_s: int,
        open_bids: int,
    ) -> None:
        """Add the offers to send to `chosen` as soon as their money is reserved, and for how many seconds it is."""
        pods: Pods = {}
        for imp, offers in zip(request.imp, decision.offers, strict=True):
            if offers:
                hold_s = self._hold_s(request, imp)
                if len(offers) == 1 and imp.video is None and imp.audio is None:  # no pod, nothing to choose from
                    if self._take(request, imp, serving, issued_s, hold_s, offers[0]):
                        chosen.append((offers[0], hold_s))
                    continue
                take = partial(self._take, request, imp, serving, issued_s, hold_s)
                for offer in choose(imp, offers, serving.snapshot, open_bids, take, pods):
                    chosen.append((offer, hold_s))  # noqa: PERF401 - what was taken before a defect must be known

    def _fitting(
        self, request: Request, chosen: list[tuple[Offer, int]], serving: Serving, issued_s: int, limit: int
    ) -> list[tuple[Offer, int]]:
        """The dearest bids that fit into one answer together, in their order; the money of the others is given back."""
        kept: set[int] = set()
        left = limit
        for i in sorted(range(len(chosen)), key=lambda i: -chosen[i][0].price_usd_micros):
            size = most_bytes(serving.parts[chosen[i][0].ad_index])
            if size <= left:
                kept.add(i)
                left -= size
        for i, (offer, hold_s) in enumerate(chosen):
            if i not in kept:
                self._counts[self._too_many] += 1
                self._give_back(request, serving, offer, issued_s, hold_s)
        return [one for i, one in enumerate(chosen) if i in kept]

    def _sent(
        self,
        request: Request,
        endpoint: Endpoint,
        privacy: PrivacyDecision,
        uid: Uid | None,
        user: User | None,
        serving: Serving,
        decision: Decision,
        chosen: list[tuple[Offer, int]],
        assigned: Assignment,
        issued_s: int,
        now_us: int,
        arrived_s: float,
    ) -> bytes:
        """Sign, put together, write down."""
        currency = text_field(decision.currency)
        test = bool(request.test)
        dsa = transparency.asked(request)
        joined = uid if privacy.measure else None
        known = permitted(user, privacy) if privacy.train else None
        mark = partial(self._ring.mark, "ip", _address(request)) if privacy.train and privacy.measure else str
        if known is not None and known.vector:
            known = replace(known, vector=decision.vector)  # what the models saw
        bids, names = [], []
        for offer, hold_s in chosen:
            self._bids += 1
            bid_id = self._worker + self._bids.to_bytes(_COUNTER_BYTES)
            imp = request.imp[offer.imp_index]
            fields = endpoint.field + text_field(imp.id) + serving.fields[offer.ad_index] + currency
            server, browser = self._signer.pair(
                bid_id, issued_s, hold_s, offer.price_usd_micros, fields, joined, test, privacy.frequency_cap,
                multiplier_milli(imp),
            )  # fmt: skip
            name = bid_id_text(bid_id)
            parts = serving.parts[offer.ad_index]
            adm, tail = for_imp(parts, imp, request.cattax)
            if dsa is not None and (behind := serving.snapshot.by_ad[offer.ad_index].dsa) is not None:
                where = decision.contexts[offer.imp_index]
                placed = where is not None and not serving.snapshot.ads[offer.ad_index].fences.isdisjoint(where.fences)
                tail += transparency.answer(
                    behind, dsa, serving.domain, privacy.personalise and user is not None, placed
                )
            bids.append(
                Sent(
                    name.encode(), imp.id, offer.price_micros, server, browser, parts.seat, adm, tail, hold_s,
                    offer.deal,
                )
            )  # fmt: skip
            names.append(name)
        body = answer.response(request.id, bids, decision.currency, serving.urls)
        if endpoint.exchange.price_macro != PRICE:
            body = body.replace(PRICE.encode(), endpoint.exchange.price_macro.encode())
        for name, (offer, _) in zip(names, chosen, strict=True) if not test else ():  # from here on nothing can fail
            self._funnel.count(serving.parts[offer.ad_index].campaign, SENT)
            self._note(serving, offer)
            self._log(
                partial(bid_event, name, request, decision, offer, serving, endpoint, now_us, joined,
                        known, assigned.arm_of.get(serving.snapshot.names[offer.ad_index], ""), mark)
            )  # fmt: skip
        counts = self._counts
        counts[self._bids_slot] += len(bids)
        counts[self._statuses[OK]] += 1
        self._latency.observe(int((time.monotonic() - arrived_s) * 1e6))
        return body

    def _note(self, serving: Serving, offer: Offer) -> None:
        """Count how a bid was priced, and let the pacing see it."""
        quote = offer.quote
        if quote is not None:
            if quote.how:
                self._counts[self._shaded[quote.how]] += 1
                self._counts[self._explored] += quote.explored != 0
            self._saw(serving.snapshot.names[offer.ad_index], quote)

    def _take(self, request: Request, imp: Imp, serving: Serving, issued_s: int, hold_s: int, offer: Offer) -> bool:
        """Reserve what a bid can cost; a test costs nothing."""
        campaign = serving.snapshot.names[offer.ad_index]
        cost = reserved_micros(offer.price_usd_micros, multiplier_milli(imp))
        return bool(request.test) or self._budgets.reserve(campaign, cost, issued_s, hold_s)

    def _give_back(self, request: Request, serving: Serving, offer: Offer, issued_s: int, hold_s: int) -> None:
        if not request.test:
            campaign = serving.snapshot.names[offer.ad_index]
            cost = reserved_micros(offer.price_usd_micros, multiplier_milli(request.imp[offer.imp_index]))
            self._budgets.unreserve(campaign, cost, issued_s, hold_s)

    def _hold_s(self, request: Request, imp: Imp) -> int:
        settings = self._settings
        if imp.instl:
            usual_s = settings.instl_hold_s
        else:
            usual_s = settings.hold_s if request.app is None else settings.app_hold_s
        return max(usual_s, min(imp.exp, settings.instl_hold_s)) if imp.exp is not None else usual_s

    def _no_money(self, serving: Serving) -> int:
        """The ads of campaigns whose budget is used up, worked out again only when that changes."""
        known, version, mask = self._exhausted
        if known is not serving or version != self._budgets.version:
            mask = serving.snapshot.mask_of(self._budgets.exhausted)
            self._exhausted = (serving, self._budgets.version, mask)
        return mask

    def _no_bids(self, reason: Reason, arrived_s: float, request: Request, endpoint: Endpoint) -> Answer:
        """No bid on a sound request: 204, or 200 with the reason's code where the exchange wants to know."""
        if not endpoint.exchange.nbr:
            return self._nothing(reason, arrived_s)
        self._nothing(reason, arrived_s, OK)
        return answer.no_bid(request.id, nbr(reason))

    def _nothing(self, reason: Reason, arrived_s: float, status: int = NO_CONTENT) -> int:
        self._counts[self._no_bid[reason]] += 1
        self._counts[self._statuses[status]] += 1
        self._latency.observe(int((time.monotonic() - arrived_s) * 1e6))
        return status

    def _defect(self, error: BaseException, arrived_s: float) -> int:
        self._counts[self._errors_slot] += 1
        self._report(error)
        return self._nothing(Reason.ERROR, arrived_s)


def multiplier_milli(imp: Imp) -> int:
    """Thousandths of an impression one showing counts for: 1000 but on screens many people see (`imp.qty`)."""
    told = None if imp.qty is None else imp.qty.multiplier
    return 1000 if told is None else round(told * 1000)


def _eid_uid(user: RequestUser, sources: Sequence[str], ring: KeyRing) -> Uid | None:
    """The pseudonym by the best extended id there is, of either place it may stand in."""
    found = {
        eid.source: uid.id
        for eid in (*((user.ext.eids or ()) if user.ext is not None else ()), *(user.eids or ()))
        for uid in eid.uids or ()
        if eid.source and uid.id
    }
    for source in sources:
        name = found.get(source)
        if name and ring.uid("exchange", name):  # the id itself must be one
            return ring.uid("exchange", f"{source}:{name}")
    return None


def user_uid(request: Request, exchange: str, ring: KeyRing, sources: Sequence[str] = ()) -> Uid | None:
    """The pseudonym of the user a request is about, by the id we know best; None without a usable id.

    Our own id as the exchange stored it, then the device's, then extended ids of `sources`, then the exchange's own
    within that exchange.
    """
    user, device = request.user, request.device
    if user is not None and user.buyeruid and (uid := ring.uid("cookie", user.buyeruid)):
        return uid
    if device is not None and device.ifa and (uid := ring.uid("device", device.ifa)):
        return uid
    if user is not None and sources and (uid := _eid_uid(user, sources, ring)):
        return uid
    if user is not None and user.id and ring.uid("exchange", user.id):  # the id itself must be one
        return ring.uid("exchange", f"{exchange}:{user.id}")
    return None


_VECTOR = struct.Struct(f"<{len(features.FEATURES)}d")
SHADOWED = 16  # one bid in so many is scored by the challenger too, after its answer is out; about 0.2 ms each


def in_shadow(
    serving: Serving, bid_id: str, where: Context | None, user: User | None, ad: Ad, now_us: int
) -> tuple[str, float]:
    """The challenger's version and click probability for a sample of the bids, ("", 0) for the others.

    It sees what the log keeps, so a user that may not train is missing for it.
    """
    model = serving.challenger
    if model is None or where is None or keys.number(bid_id) % SHADOWED:
        return "", 0.0
    X = features.matrix(model.vocabulary, ((where, user, ad, now_us),))
    return model.version, float(model.predicted(model.forest.predict(X))[0])


def bid_event(
    bid_id: str,
    request: Request,
    decision: Decision,
    offer: Offer,
    serving: Serving,
    endpoint: Endpoint,
    now_us: int,
    uid: Uid | None,
    user: User | None,
    arm: str = "",
    mark: Callable[[], str] = str,
) -> Bid:
    """The bid as the log keeps it: what was known, what was offered, and the vector the model saw.

    user: None when nothing was known or it may not train; then the vector is without the user too (P-16, P-50).
    mark: makes the mark of the address, "" unless it may be used to measure and to train.
    """
    row = offer.row
    if row and user is None:
        for column in USER_COLUMNS:
            row[column] = NAN
    ad = serving.snapshot.ads[offer.ad_index]
    where = decision.contexts[offer.imp_index]
    shadow, shadow_pctr = in_shadow(serving, bid_id, where, user, ad, now_us)
    model, land, quote = serving.snapshot.model, serving.snapshot.landscape, offer.quote or Quote(0.0, 1.0, 0.0)
    return Bid(
        event_id=bid_id,
        time_us=now_us,
        exchange=endpoint.name,
        auction_id=request.id,
        imp_id=request.imp[offer.imp_index].id,
        campaign=ad.campaign,
        creative=ad.creative,
        advertiser=ad.advertiser,
        uid=uid,
        price_micros=offer.price_micros,
        value_micros=offer.value_micros,
        floor_micros=offer.floor_micros,
        currency=offer.currency,
        at=offer.at,
        model="" if model is None else model.version,
        pctr=offer.pctr,
        vector=_VECTOR.pack(*row) if row else b"",
        context=b"" if where is None else encode_context(where),
        user=user,
        ad=serving.logged[offer.ad_index],
        arm=arm,
        worth_micros=offer.worth_micros,
        pace=quote.pace,
        shading=quote.how,
        landscape=land.version if land is not None and quote.how == "model" else "",
        chance=quote.chance,
        quality=0.0 if user is None else quote.quality,
        explored=quote.explored,
        propensity=quote.propensity,
        shadow=shadow,
        shadow_pctr=shadow_pctr,
        ip=mark(),
    )


def _address(request: Request) -> str:
    device = request.device
    return "" if device is None else device.ip or device.ipv6 or ""
