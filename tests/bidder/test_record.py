"""A bid's record holds what its models saw, so that their vector can be computed again from it."""

from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import record
from bidder.call import Call
from bidder.decide import Decision
from bidder.offers import Features, Offer
from bidder.privacy import PrivacyDecision
from bidder.quoting import Quote
from bidder.reasons import Reason
from bidder.record import Vector, bid_record
from bidder.tastes import Tastes
from dmp import events, keys
from dmp.events import Bid
from dmp.pseudonym import KeyRing
from dmp.realtime import CART, VIEW
from dmp.schema import Contact, Realtime, User
from models import features
from models.context import HOUR_US, NAN, Ad, Context, decode_context, encode_context
from models.features import FEATURES, N_CAMPAIGN, N_PAIR, USER_COLUMNS
from models.pairs import Columns
from tests.bidder.factories import EXCHANGE, NOW_US, a_call, a_request, logged_bid
from tests.bidder.test_tastes import FOOD, TRAVEL, TRAVELLER, a_decision, a_space, lately

RING = KeyRing(bytes(32))


def fields(record: bytes) -> Any:
    """The map of a record in its order; the Struct writes the length of a short one in more bytes than it needs."""
    return msgpack.unpackb(record, object_pairs_hook=list, strict_map_key=False)


@pytest.mark.parametrize("off", [{}, {"use_tags": False}, {"use_longterm": False}, {"use_realtime": False}])
@pytest.mark.parametrize("somebody", [True, False])
def test_the_logged_vector_is_that_of_the_logged_user_whatever_the_operator_switches_off(
    off: dict[str, bool], somebody: bool
) -> None:
    user = User(
        contacts=(Contact(keys.number("trip"), NOW_US // HOUR_US, 2),),
        audiences=frozenset({7}),
        vector=TRAVELLER.vector,
        realtime=lately((0, CART, TRAVEL), (60_000_000, VIEW, FOOD)),
        generation=TRAVELLER.generation,
    )
    made, user, found = a_decision(Tastes(a_space(), 4, used=True), user if somebody else User(), **off)
    assert made.model is not None
    call = a_call(a_request(), made, user, PrivacyDecision())
    call.now_us = NOW_US
    for offer in found.offers[0]:
        logged = logged_bid(bid_record(b"b", call, found, offer, "", RING))
        context, ad = decode_context(logged.context), made.ads[offer.ad_index]
        again = features.row(made.model.vocabulary, context, logged.user, ad, NOW_US)
        np.testing.assert_array_equal(np.frombuffer(logged.vector, "<f8"), again)
        np.testing.assert_array_equal(np.frombuffer(logged.vector, "<f8"), offer.row)


number = st.floats() | st.integers(-5, 5)
sizes = [len(columns) for columns in (features.PLACE_COLUMNS, features.READER_COLUMNS, features.NOW_COLUMNS)]
parts = st.tuples(*(st.lists(number, min_size=size, max_size=size) for size in sizes))
of_three = st.lists(number, min_size=3, max_size=3)
pair_table = st.lists(number | of_three, min_size=N_PAIR, max_size=N_PAIR)


def compiled_vector() -> Vector:
    if record.vector is record.plain_vector:
        pytest.skip("built without a compiler")
    return record.vector


@given(parts, st.lists(number, min_size=N_CAMPAIGN, max_size=N_CAMPAIGN), pair_table, st.integers(0, 2))
def test_the_vector_in_c_is_that_in_python_to_the_last_bit(
    request: tuple[list[float], ...], campaign: list[float], pairs: Columns, position: int
) -> None:
    told = record.COLUMNS, request, campaign, pairs, position
    assert compiled_vector()(*told) == record.plain_vector(*told)


@pytest.mark.parametrize(
    "changed",
    [
        {"request": ([1.0] * 40,)},
        {"request": ([1.0] * 42,)},
        {"request": ((1.0,) * 41,)},
        {"columns": bytes([200] * 41)},
        {"position": 2},
        {"position": -1},
        {"campaign": ["a number"]},
        {"campaign": [10**400]},
        {"pairs": None},
    ],
)
def test_a_vector_in_c_of_what_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    fits = {"columns": bytes(range(41)), "request": ([1.0] * 41,), "campaign": [2.0], "pairs": [[3.0, 4.0]]}
    told: dict[str, Any] = {**fits, "position": 1, **changed}
    with pytest.raises((TypeError, ValueError, IndexError, OverflowError)):
        compiled_vector()(*told.values())


texts = st.sampled_from(["", "a", "ü" * 40, "x" * 300])
micros = st.sampled_from([0, 1, 127, 128, 70_000, 2**40])
floats = st.sampled_from([0.0, 1.0, -0.25, 0.1])
users = st.none() | st.builds(
    User,
    tags=st.dictionaries(st.integers(1, 5000), st.integers(0, 100), max_size=20),
    audiences=st.frozensets(st.integers(0, 2**32 - 1), max_size=1),  # the order of more is the set's own
    contacts=st.sampled_from([(), (Contact(7, 500_000, 2), Contact(2**32 - 1, 500_001, 1))]),
    vector=st.sampled_from([b"", b"v" * 128]),
    realtime=st.none() | st.just(Realtime(b"r" * 50)),
    generation=st.integers(0, 3),
)  # fmt: skip
quotes = st.none() | st.builds(
    Quote,
    worth=st.floats(0, 1e9),
    pace=floats,
    bid=st.just(1.0),
    how=st.sampled_from(["", "model", "segment", "constant"]),
    chance=floats,
    quality=floats,
    explored=floats,
    propensity=floats,
)
REQUEST_PARTS = tuple([float(i)] * n for i, n in enumerate((17, 10, 14)))
seen = st.none() | st.builds(
    Features,
    request=st.just(REQUEST_PARTS),
    campaign=st.just([5.0] * N_CAMPAIGN),
    pairs=st.just([[1.0, 2.0]] + [7.0] * (N_PAIR - 1)),
    position=st.integers(0, 1),
)


@given(data=st.data())
def test_the_record_is_byte_for_byte_what_the_struct_encodes_to_and_says_the_same(data: Any) -> None:
    draw = data.draw
    offer = Offer(
        0, 0, draw(micros), 5, draw(micros), draw(micros), draw(st.sampled_from(["USD", "EUR"])),
        draw(st.integers(1, 3)), "", draw(floats), draw(seen), 0, draw(quotes),
    )  # fmt: skip
    privacy = PrivacyDecision(train=draw(st.booleans()), measure=draw(st.booleans()), personalise=draw(st.booleans()))
    user, uid, arm, use_tags = draw(users), draw(st.none() | st.just(b"u" * 16)), draw(texts), draw(st.booleans())
    ad, logged = Ad(draw(texts), draw(texts), draw(texts)), draw(st.sampled_from([b"", b"ad"]))
    model = draw(st.none() | st.just(SimpleNamespace(version="m1")))
    land = draw(st.none() | st.just(SimpleNamespace(version="l1")))
    where, vector = draw(st.none() | st.just(Context("x", "site.example"))), b"w" * 128
    settings = SimpleNamespace(use_tags=use_tags, use_longterm=True, use_realtime=True)
    snapshot: Any = SimpleNamespace(settings=settings, ads=(ad,), model=model, landscape=land)
    serving: Any = SimpleNamespace(snapshot=snapshot, challenger=None, logged=(logged,))
    endpoint: Any = SimpleNamespace(name=draw(texts), exchange=EXCHANGE)
    ip = draw(st.sampled_from(["", "10.1.2.3", "2001:db8::1"]))
    request = a_request(id=draw(texts.filter(bool)), device={"ip": ip})
    call = Call(request, endpoint, serving, privacy, uid, 0.0, 1.0, lambda _: None, user)
    call.now_us = draw(micros)
    decision = Decision(((offer,),), Reason.BID, (Reason.BID,), (where,), vector=vector)

    written = bid_record(b"worker-and-count", call, decision, offer, arm, RING)
    found = logged_bid(written)
    by_struct = events.encode(found)
    assert written == by_struct or (len(fields(written)) < 16 and fields(written) == fields(by_struct))

    trains = privacy.train and privacy.personalise and use_tags
    kept = user if trains else None
    quote = offer.quote or Quote(0.0, 1.0, 0.0)
    if kept is not None and kept.vector:
        kept = User(kept.tags, kept.audiences, kept.contacts, vector, kept.realtime, kept.generation)
    row = [] if offer.features is None else offer.row
    if kept is None:
        row = [NAN if i in USER_COLUMNS else value for i, value in enumerate(row)]
    assert found == Bid(
        event_id="worker-and-count",
        time_us=call.now_us,
        exchange=endpoint.name,
        auction_id=request.id,
        imp_id=request.imp[0].id,
        campaign=ad.campaign,
        creative=ad.creative,
        advertiser=ad.advertiser,
        uid=uid if privacy.measure else None,
        price_micros=offer.price_micros,
        value_micros=offer.value_micros,
        floor_micros=offer.floor_micros,
        currency=offer.currency,
        at=offer.at,
        model="m1" if model else "",
        pctr=offer.pctr,
        vector=np.array(row, "<f8").tobytes(),
        context=encode_context(where) if where else b"",
        user=kept,
        arm=arm,
        ad=logged,
        worth_micros=offer.value_micros if offer.quote is None else int(offer.quote.worth),
        pace=quote.pace,
        shading=quote.how,
        landscape="l1" if land and quote.how == "model" else "",
        chance=quote.chance,
        quality=quote.quality if kept is not None else 0.0,
        explored=quote.explored,
        propensity=quote.propensity,
        ip=RING.mark("ip", ip) if privacy.train and privacy.measure else "",
    )
    assert len(row) in (0, len(FEATURES))
