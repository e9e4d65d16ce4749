"""The steps of one bid as functions to time, on requests that end in a bid and are told apart by nothing else.

Every step gets the very inputs it has inside `bidder.bidding`, made beforehand, and calls the very function that is
called there. What a step costs beyond that within a bid is `loadtest.micro_flow`'s to find.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import lightgbm
import msgspec
import numpy as np

from bidder import answer, openrtb, serving, targeting
from bidder.answer import Sent
from bidder.bidding import Bidder, new_worker
from bidder.bidlog import BidLog
from bidder.budget import Budgets
from bidder.call import Answer, Call, Held
from bidder.config import BidderConfig
from bidder.decide import Decision, decide
from bidder.endpoints import PREFIX, Endpoint, Endpoints
from bidder.metrics import Metrics
from bidder.notices import reserved_micros
from bidder.offers import Auction, priced
from bidder.openrtb import Request
from bidder.overload import Pressure
from bidder.pricing import bid_currency, floor_micros
from bidder.privacy import PrivacyDecision, policy
from bidder.privacy import decide as decide_privacy
from bidder.reasons import Reason
from bidder.record import bid_record
from bidder.redact import strip
from bidder.scoring import Scores, score
from bidder.serving import Serving
from bidder.signing import signed
from bidder.snapshot import Snapshot
from bidder.tokens import ONE_MILLI, Signer, bid_id_text, load_keys
from bidder.user_ids import user_uid
from bidder.view import View, context, view
from dmp.errors import TagbidError
from dmp.link import Link
from dmp.lookup import Lookup
from dmp.pseudonym import KeyRing
from dmp.schema import Uid, User
from dmp.store import Store, read_users
from loadtest.scenario import CANDIDATES, EXCHANGE
from models import features
from models.context import Context
from models.forest import Forest, kernel
from models.lookups import ones
from models.pairs import row_of
from models.registry import Model
from models.tables import Floats

TURN = 16  # requests whose users are read in one loop turn, as at high load
ALIVE_S = 30.0  # deadline of reads: nothing is to be late here


_Item = TypeVar("_Item")


class Step(msgspec.Struct, frozen=True):
    """Something to time. inside: the step it is a part of, "" for none. count: how often one `run` does it."""

    name: str
    inside: str
    count: int
    run: Callable[[], Awaitable[None] | None]


class Case(msgspec.Struct, frozen=True):
    """One request that is bid on, and what every step makes of it. ten: ads to score, its candidates first."""

    body: bytes
    request: Request
    privacy: PrivacyDecision
    uid: Uid
    user: User
    seen: View
    candidates: list[int]
    where: Context
    floor: int
    scores: Scores
    decision: Decision
    call: Call
    held: Held
    sent: Sent
    ten: list[int]


class Set(msgspec.Struct, frozen=True):
    """The steps over one portfolio. bodies: of the requests. candidates: scored per request, mean. difference: to
    LightGBM's raw scores, the largest by kernel.
    """

    steps: list[Step]
    bodies: list[bytes]
    ads: int
    candidates: float
    difference: dict[str, float]


class Stage(msgspec.Struct, frozen=True):
    """A bidder without sockets, and what it works with."""

    bidder: Bidder
    endpoint: Endpoint
    lookup: Lookup
    log: BidLog
    budgets: Budgets
    signer: Signer
    worker: bytes


@asynccontextmanager
async def opened(settings: BidderConfig, data_dir: Path, store: Store, ring: KeyRing) -> AsyncIterator[Stage]:
    """A bidder of the portfolio and the model that `settings` names, with money to bid with."""
    served = serving.load(settings, "https://bid.example")
    lookup, link = Lookup(store.url), Link(store.url)
    log = BidLog(data_dir / "bidlog")
    try:
        await asyncio.gather(lookup.start(), link.start())
        metrics = Metrics()
        endpoint = Endpoints(settings, metrics).find(PREFIX + EXCHANGE, b"")
        assert isinstance(endpoint, Endpoint)  # noqa: S101 - exchanges are open in these settings
        worker = new_worker()
        budgets = Budgets(link, bid_id_text(worker + bytes(6))[:8], settings.hold_s)
        budgets.configure({c.id: c.daily_budget_micros for c in served.snapshot.portfolio.campaigns})
        await link.execute("PING")  # the leases have been answered
        signer = Signer(load_keys(data_dir))
        bidder = Bidder(
            settings, served, lookup, budgets, signer, ring, worker, metrics, Pressure(1_000), log.put, _raise
        )  # fmt: skip
        yield Stage(bidder, endpoint, lookup, log, budgets, signer, worker)
    finally:
        await lookup.close()
        await link.close()
        log.close()


@asynccontextmanager
async def prepared(
    settings: BidderConfig, data_dir: Path, store: Store, ring: KeyRing, bodies: Sequence[bytes], wanted: int
) -> AsyncIterator[Set]:
    """A bidder and up to `wanted` requests it bids on. Raises TagbidError when there are none."""
    async with opened(settings, data_dir, store, ring) as stage:
        served, endpoint = stage.bidder.serving, stage.endpoint
        cases = list(islice(_cases(settings, stage, store, ring, bodies), wanted))
        if not cases:
            raise TagbidError(f"none of {len(bodies)} requests is bid on, so there is nothing to time")
        steps = [
            *_whole(stage, [case.body for case in cases]),
            *_before(settings, endpoint, ring, stage.lookup, cases),
            *_deciding(served.snapshot, endpoint, cases),
            *_after(served, stage, ring, cases),
        ]
        scoring, difference = _scoring(served.snapshot, cases)
        yield Set(
            steps=steps + scoring,
            bodies=[case.body for case in cases],
            ads=len(served.snapshot.ads),
            candidates=float(np.mean([len(case.candidates) for case in cases])),
            difference=difference,
        )


def _raise(error: BaseException) -> None:
    raise error


def _cases(
    settings: BidderConfig, stage: Stage, store: Store, ring: KeyRing, bodies: Sequence[bytes]
) -> Iterator[Case]:
    served, endpoint = stage.bidder.serving, stage.endpoint
    snapshot, rules = served.snapshot, policy(settings)
    client = store.sync()
    try:
        for number, body in enumerate(bodies):
            request = openrtb.decode(body)
            privacy = decide_privacy(request, rules)
            uid = user_uid(request, EXCHANGE, ring) if privacy.use_ids else None
            if uid is None:
                continue
            now_us = time.time_ns() // 1000
            (user,) = read_users(client, [uid], now_us // 1_000_000)
            decision = decide(request, privacy, user, snapshot, now_us, endpoint.exchange, EXCHANGE)
            if decision.reason is not Reason.BID or len(request.imp) != 1:
                continue
            seen = view(strip(request, privacy), user, now_us, endpoint.exchange, EXCHANGE)
            floor = floor_micros(request.imp[0].bidfloor, request.imp[0].bidfloorcur, "USD", settings.rates) or 0
            candidates, where = _candidates(snapshot, seen), context(seen, seen.request.imp[0], floor)
            scores = score(candidates, seen, where, user, snapshot)
            offer = decision.offers[0][0]
            call = Call(request, endpoint, served, privacy, uid, 0.0, 0.0, _nobody, user, now_us, now_us // 1_000_000)
            held = Held(offer, settings.hold_s, reserved_micros(offer.price_usd_micros), ONE_MILLI)
            sent = signed(call, decision, held, stage.worker + number.to_bytes(6), stage.signer)
            others = [ad for ad in range(len(snapshot.ads)) if ad not in candidates[:CANDIDATES]]
            yield Case(
                body, request, privacy, uid, user, seen, candidates, where, floor, scores, decision, call, held, sent,
                (candidates[:CANDIDATES] + others)[:CANDIDATES],
            )  # fmt: skip
    finally:
        client.close()


def _candidates(snapshot: Snapshot, seen: View) -> list[int]:
    mask, _ = targeting.eligible(snapshot.index, seen)
    mask, _ = targeting.eligible_for(snapshot.index, seen, seen.request.imp[0], mask)
    return ones(mask, snapshot.settings.max_candidates)


def _nobody(_: Answer) -> None:
    """Who waits for the answers of these calls."""


async def _turns(items: Sequence[_Item], size: int, begin: Callable[[_Item, Callable[[Any], None]], None]) -> None:
    """Begin `size` items in one loop turn, wait until all of them are done, go on with the next."""
    loop = asyncio.get_running_loop()
    for start in range(0, len(items), size):
        group = items[start : start + size]
        left = len(group)
        ended: asyncio.Future[None] = loop.create_future()

        def done(_: Any, ended: "asyncio.Future[None]" = ended) -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.set_result(None)

        for item in group:
            begin(item, done)
        await ended


async def all_bid(stage: Stage, bodies: Sequence[bytes], size: int) -> None:
    """Have all requests decided, `size` in a loop turn, and their bids logged."""
    bids = 0

    def begin(body: bytes, done: Callable[[Any], None]) -> None:
        def answered(found: Answer) -> None:
            nonlocal bids
            bids += not isinstance(found, int)
            done(found)

        if (found := stage.bidder.handle(body, stage.endpoint, time.monotonic(), answered)) is not None:
            answered(found)

    await _turns(bodies, size, begin)
    stage.log.flush()
    if bids < len(bodies) // 2:  # a few may run out of time on a busy machine
        raise TagbidError(f"only {bids} of {len(bodies)} requests were bid on while they were timed")


def _whole(stage: Stage, bodies: Sequence[bytes]) -> list[Step]:
    return [
        Step("whole", "", len(bodies), partial(all_bid, stage, bodies, TURN)),
        Step("whole, alone", "", len(bodies), partial(all_bid, stage, bodies, 1)),
    ]


def _before(
    settings: BidderConfig, endpoint: Endpoint, ring: KeyRing, lookup: Lookup, cases: Sequence[Case]
) -> list[Step]:
    rules = policy(settings)

    def decode() -> None:
        for case in cases:
            openrtb.decode(case.body)

    def privacy() -> None:
        for case in cases:
            decide_privacy(case.request, rules)

    def pseudonym() -> None:
        for case in cases:
            user_uid(case.request, endpoint.name, ring)

    def read(case: Case, done: Callable[[User | None], None]) -> None:
        if not lookup.get(case.uid, time.monotonic() + ALIVE_S, done):
            raise TagbidError("the tag store went away while it was being timed")

    return [
        Step("decode", "whole", len(cases), decode),
        Step("privacy", "whole", len(cases), privacy),
        Step("pseudonym", "whole", len(cases), pseudonym),
        Step("store", "whole", len(cases), partial(_turns, cases, TURN, read)),
        Step("store, alone", "", len(cases), partial(_turns, cases, 1, read)),
    ]


def _deciding(snapshot: Snapshot, endpoint: Endpoint, cases: Sequence[Case]) -> list[Step]:
    def whole() -> None:
        for case in cases:
            decide(
                case.request, case.privacy, case.user, snapshot, case.seen.now_us, endpoint.exchange, EXCHANGE,
                best_only=True,
            )  # fmt: skip

    def viewing() -> None:
        for case in cases:
            view(strip(case.request, case.privacy), case.user, case.seen.now_us, endpoint.exchange, EXCHANGE)

    def filtering() -> None:
        for case in cases:
            _candidates(snapshot, case.seen)

    def scoring() -> None:
        for case in cases:
            where = context(case.seen, case.request.imp[0], case.floor)
            score(case.candidates, case.seen, where, case.user, snapshot)

    def pricing() -> None:
        rates = snapshot.settings.rates
        for case in cases:
            imp = case.request.imp[0]
            currency = bid_currency(case.request.cur, rates) or "USD"
            floor = floor_micros(imp.bidfloor, imp.bidfloorcur, currency, rates)
            auction = Auction(0, imp, case.seen.at, currency, rates[currency], floor, {}, case.where, 1, ())
            priced(auction, case.candidates, case.scores, case.request.id, snapshot)

    return [
        Step("decide", "whole", len(cases), whole),
        Step("view", "decide", len(cases), viewing),
        Step("filter", "decide", len(cases), filtering),
        Step("score", "decide", len(cases), scoring),
        Step("price", "decide", len(cases), pricing),
    ]


def _after(served: Serving, stage: Stage, ring: KeyRing, cases: Sequence[Case]) -> list[Step]:
    budgets = stage.budgets

    def reserve() -> None:
        now_s = budgets.now_s()
        for case in cases:
            campaign = served.snapshot.names[case.held.offer.ad_index]
            budgets.reserve(campaign, case.held.micros, now_s, case.held.hold_s)

    def sign() -> None:
        for number, case in enumerate(cases):
            signed(case.call, case.decision, case.held, stage.worker + number.to_bytes(6), stage.signer)

    def markup() -> None:
        for case in cases:
            answer.bid(case.sent, served.urls)

    def encode() -> None:
        for case in cases:
            answer.response(case.request.id, [case.sent], "USD", served.urls)

    def log() -> None:
        for case in cases:
            bid_record(b"AAAAAAAAAAAAAAAA", case.call, case.decision, case.held.offer, "", ring)

    return [
        Step("reserve", "whole", len(cases), reserve),
        Step("sign", "whole", len(cases), sign),
        Step("encode", "whole", len(cases), encode),
        Step("markup", "encode", len(cases), markup),
        Step("log", "whole", len(cases), log),
    ]


@contextmanager
def _kernel(name: str) -> Iterator[None]:
    """Forests made inside use this kernel."""
    before = os.environ.get("TAGBID_KERNEL")
    os.environ["TAGBID_KERNEL"] = name
    try:
        yield
    finally:
        del os.environ["TAGBID_KERNEL"]
        if before is not None:
            os.environ["TAGBID_KERNEL"] = before


def _scoring(snapshot: Snapshot, cases: Sequence[Case]) -> tuple[list[Step], dict[str, float]]:
    """Ten candidates of every case by each kernel and by LightGBM itself, from the same features."""
    model, masks = snapshot.model, snapshot.masks
    assert isinstance(model, Model)  # noqa: S101 - settings of a micro benchmark name one
    assert masks is not None  # noqa: S101 - as above
    inputs = []
    for case in cases:
        user, now_us = case.seen.user, case.seen.now_us
        request = features.request_values(model.vocabulary, case.where, user, now_us)
        pairs = snapshot.pairs(case.ten, case.where, user, now_us)
        rows = np.array([request + snapshot.values[ad] + row_of(pairs, i) for i, ad in enumerate(case.ten)])
        inputs.append((request, case.ten, pairs, rows))
    booster = lightgbm.Booster(model_str=model.text)

    def by_lightgbm(rows: Floats) -> Floats:
        return np.asarray(booster.predict(rows, raw_score=True, num_threads=1))

    def booster_run() -> None:
        for _, _, _, rows in inputs:
            by_lightgbm(rows)

    def by_forest(forest: Forest) -> None:
        for request, ten, pairs, _ in inputs:
            forest.candidate_scores((forest.request_mask(request),), masks, ten, pairs)

    forests = {} if kernel() is None else {"c": model.forest}
    with _kernel("numpy"):
        forests["numpy"] = Forest.from_model_text(model.text, features.N_REQUEST, features.N_CAMPAIGN)
    difference = {
        name: max(
            float(
                np.abs(
                    forest.candidate_scores((forest.request_mask(request),), masks, ten, pairs) - by_lightgbm(rows)
                ).max()
            )
            for request, ten, pairs, rows in inputs
        )
        for name, forest in forests.items()
    }
    steps = [Step(f"score 10, {name}", "", len(cases), partial(by_forest, forest)) for name, forest in forests.items()]
    return [*steps, Step("score 10, booster", "", len(cases), booster_run)], difference
