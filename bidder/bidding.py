"""One bid request, from its bytes to the bytes of the answer: the steps of the bid path in order, at their edge.

decode -> privacy -> time left? -> user (one read, shared with other requests of the loop turn) -> decide -> reserve ->
sign -> answer -> log. Without a user to read the answer is returned at once; else it is handed over when the user
is there, when the store says it will not be, or at the deadline. Calls whose users arrive together are decided one
after the other before the first of them is signed: code and tables then stay in the processor's caches from one to the
next, which saves some 6 % of a bid.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from secrets import token_bytes

from msgspec import Struct

from bidder import answer, openrtb, reserving, signing
from bidder.budget import Budgets
from bidder.call import Answer, Call
from bidder.config import BidderConfig
from bidder.decide import Decision, decide
from bidder.defects import DEFECTS
from bidder.endpoints import Endpoint
from bidder.experiments import NONE, Assignment, assign
from bidder.funnel import SENT, Funnel
from bidder.metrics import Metrics
from bidder.openrtb import BadRequest, Request
from bidder.overload import Pressure
from bidder.privacy import after_lookup
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy as privacy_policy
from bidder.quoting import Quote
from bidder.reasons import Reason, nbr
from bidder.record import bid_record
from bidder.serving import Serving
from bidder.tastes import RESULTS
from bidder.tokens import WORKER_BYTES, Signer
from bidder.user_ids import user_uid
from dmp.lookup import Lookup
from dmp.pseudonym import KeyRing
from dmp.schema import User
from models.landscape import HOWS

OK, NO_CONTENT, BAD_REQUEST = 200, 204, 400

MAX_TMAX_MS = 10_000.0
TOGETHER, TOGETHER_S = 16, 0.002
"""Calls decided before the first of them is answered: about a millisecond. Requests with many impressions take longer;
then no more are begun after `TOGETHER_S`, so that none waits long for its answer and the loop for what arrives.
"""
_COUNTER_BYTES = 6


def new_worker() -> bytes:
    """The name of one bidder process, never used again: the first half of all its bid ids."""
    return token_bytes(WORKER_BYTES)


class _Choice(Struct, frozen=True, gc=False):
    """What was decided for a call. barred: ads that may not bid now. best_only: as asked of `decide`."""

    decision: Decision
    barred: int
    assigned: Assignment
    best_only: bool


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
        log: Callable[[Callable[[], bytes]], None],
        report: Callable[[BaseException], None],
        saw: Callable[[str, Quote], None] = lambda _campaign, _quote: None,
    ) -> None:
        self.serving = serving
        self.in_flight = 0
        self._read: deque[Call] = deque()
        self._chosen: deque[tuple[Call, _Choice | Answer]] = deque()
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

    def sheds(self, endpoint: Endpoint, arrived_s: float) -> bool:
        """Whether a request is answered with 204 unread, as `handle` would after reading it; counted when it is."""
        pressure = self._pressure
        if self.in_flight < pressure.standing and not pressure.late(arrived_s):
            return False
        if not self._overloaded(arrived_s):
            return False
        self._counts[endpoint.requests_slot] += 1
        self._nothing(Reason.OVERLOAD, arrived_s)
        return True

    def _overloaded(self, arrived_s: float) -> bool:
        pressure = self._pressure
        crowded = pressure.crowded(self.in_flight, arrived_s) and pressure.crowded(
            self.in_flight - self._lookup.link.stuck(), arrived_s
        )
        return crowded or pressure.late(arrived_s)

    def _start(
        self, body: bytes, endpoint: Endpoint, arrived_s: float, done: Callable[[Answer], None]
    ) -> Answer | None:
        pressure = self._pressure
        if self._overloaded(arrived_s):
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
        if deadline_s <= arrived_s:
            return self._no_bids(Reason.NO_TIME, arrived_s, request, endpoint)
        privacy = decide_privacy(request, self._policy)
        uid = user_uid(request, endpoint.name, self._ring, self._settings.eid_sources) if privacy.use_ids else None
        call = Call(request, endpoint, self.serving, privacy, uid, arrived_s, deadline_s, done)
        if uid is not None and privacy.lookup_tags:
            if self._lookup.get(uid, deadline_s, partial(self._resume, call)):
                self.in_flight += 1
                return None
            self._counts[self._no_store] += 1
        else:
            self._counts[self._no_id if privacy.use_ids else self._by_law] += 1
        return self._answer(call, self._decide(call))

    def _resume(self, call: Call, user: User | None) -> None:
        """The read of a user has ended, one way or another."""
        if user is None:
            self._counts[self._no_store] += 1
        call.user = user
        if not self._read and not self._chosen:
            asyncio.get_running_loop().call_soon(self._answer_read)
        self._read.append(call)

    def _answer_read(self) -> None:
        """Decide calls whose users have been read, then answer them."""
        begun_s, decided = time.monotonic(), 0
        try:
            for _ in range(min(TOGETHER, len(self._read))):
                call = self._read.popleft()
                self.in_flight -= 1
                choice = self._choose(call)
                self._chosen.append((call, choice))
                decided += isinstance(choice, _Choice)  # what came too late has cost next to nothing
                if time.monotonic() - begun_s >= TOGETHER_S:
                    break
            while self._chosen:
                call, choice = self._chosen.popleft()
                call.done(self._answered(call, choice))
            for _ in range(decided):
                self._pressure.decided((time.monotonic() - begun_s) / decided)
        finally:  # also when somebody who waits raised, or memory ran out: the others still get their answers
            if self._read or self._chosen:
                asyncio.get_running_loop().call_soon(self._answer_read)

    def _choose(self, call: Call) -> _Choice | Answer:
        try:
            # Half of what was kept back is for our own queues; beyond that the exchange no longer listens.
            if time.monotonic() > call.deadline_s + call.endpoint.exchange.margin_ms / 2000:
                return self._nothing(Reason.NO_TIME, call.arrived_s)
            return self._decide(call)
        except DEFECTS as error:
            return self._defect(error, call.arrived_s)

    def _answered(self, call: Call, choice: _Choice | Answer) -> Answer:
        if not isinstance(choice, _Choice):
            return choice
        try:
            return self._answer(call, choice)
        except DEFECTS as error:
            return self._defect(error, call.arrived_s)

    def _decide(self, call: Call) -> _Choice:
        """What to bid, nothing of it held or told yet."""
        narrowed = after_lookup(call.privacy, call.user)
        if narrowed is not call.privacy:
            call.privacy, call.uid, call.user = narrowed, None, None
            self._counts[self._by_law] += 1
        call.now_us = time.time_ns() // 1000
        snapshot, exchange = call.serving.snapshot, call.endpoint.exchange
        barred, assigned = self._no_money(call.serving), NONE
        if snapshot.experiments:
            unit = call.joined or call.request.id.encode()  # its report must find the same unit again
            assigned = assign(snapshot.experiments, unit, call.now_us)
            barred |= snapshot.mask_of(assigned.barred)
        sampled = self._funnel.wants()
        best_only = exchange.open_bids == 1 and not sampled
        decision = _decided(call, barred, best_only)
        if decision.taste:
            self._counts[self._tastes[decision.taste]] += 1
        if sampled:
            self._funnel.ask(
                call.request, call.privacy, call.user, snapshot, call.now_us, exchange, call.endpoint.name, decision
            )
        return _Choice(decision, barred, assigned, best_only)

    def _answer(self, call: Call, choice: _Choice) -> Answer:
        """Reserve, sign, write down."""
        decision, exchange = choice.decision, call.endpoint.exchange
        if decision.reason is not Reason.BID:
            return self._no_bids(decision.reason, call.arrived_s, call.request, call.endpoint)
        call.issued_s = self._budgets.now_s()
        try:
            reserving.reserve(call, decision, self._budgets, self._settings)
            if not call.held and choice.best_only:  # seldom: the money ran out with this very bid
                decision = _decided(call, choice.barred, best_only=False)
                reserving.reserve(call, decision, self._budgets, self._settings)
            if not call.held:
                return self._no_bids(Reason.BUDGET, call.arrived_s, call.request, call.endpoint)
            if exchange.max_answer_bytes and len(call.held) > 1:
                self._counts[self._too_many] += reserving.keep_fitting(call, self._budgets, exchange.max_answer_bytes)
            return self._sent(call, decision, choice.assigned)
        except DEFECTS:
            for held in call.held:  # nothing of it was sent, so nothing of it can cost anything
                reserving.give_back(call, held, self._budgets)
            raise

    def _sent(self, call: Call, decision: Decision, assigned: Assignment) -> bytes:
        """Sign, put together, write down."""
        bids = []
        for held in call.held:
            self._bids += 1
            bid_id = self._worker + self._bids.to_bytes(_COUNTER_BYTES)
            bids.append(signing.signed(call, decision, held, bid_id, self._signer))
        body = signing.body(call, decision.currency, bids)
        # From here on nothing can fail.
        for sent, held in zip(bids, call.held, strict=True) if not call.request.test else ():
            campaign = call.serving.snapshot.names[held.offer.ad_index]
            self._note(campaign, held.offer.quote)
            arm = assigned.arm_of.get(campaign, "")
            self._log(partial(bid_record, sent.bid_id, call, decision, held.offer, arm, self._ring))
        counts = self._counts
        counts[self._bids_slot] += len(bids)
        counts[self._statuses[OK]] += 1
        self._latency.observe(int((time.monotonic() - call.arrived_s) * 1e6))
        return body

    def _note(self, campaign: str, quote: Quote | None) -> None:
        """Count a bid and how it was priced, and let the pacing see it."""
        self._funnel.count(campaign, SENT)
        if quote is not None:
            if quote.how:
                self._counts[self._shaded[quote.how]] += 1
                self._counts[self._explored] += quote.explored != 0
            self._saw(campaign, quote)

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


def _decided(call: Call, exhausted: int, best_only: bool) -> Decision:
    """`decide` for a call. exhausted: ads that may not bid now."""
    endpoint = call.endpoint
    return decide(
        call.request, call.privacy, call.user, call.serving.snapshot, call.now_us, endpoint.exchange, endpoint.name,
        exhausted, call.late, best_only,
    )  # fmt: skip
