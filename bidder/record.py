"""A bid as the log keeps it: what was known, what was offered, and the vector the model saw.

The record is a `dmp.events.Bid` and is read back as one. It is written from a map of what is not at its default, in the
order of that Struct's fields: to make the Struct first, with 32 fields by keyword, costs as much as encoding it. The
bytes are those of the Struct that is read back, but for the head of a map of fewer than 16 fields, which is shorter.
"""

import struct
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from bidder.call import Call
from bidder.decide import Decision, usable
from bidder.offers import Offer
from bidder.quoting import Quote
from bidder.serving import Serving
from dmp import keys
from dmp.compiled import compiled
from dmp.events import encode_map
from dmp.pseudonym import KeyRing
from dmp.schema import User
from models import features
from models.context import NAN, Ad, Context, encode_context
from models.features import USER_COLUMNS, in_columns
from models.pairs import Columns, row_of

_pack = struct.Struct(f"<{len(features.FEATURES)}d").pack
_UNQUOTED = Quote(0.0, 1.0, 0.0)
VECTOR_VERSION = 1  # of `_vector.c`; one built from other sources is not called
SHADOWED = 16  # one bid in so many is scored by the challenger too, after its answer is out; about 0.2 ms each


def bid_record(name: bytes, call: Call, decision: Decision, offer: Offer, arm: str, ring: KeyRing) -> bytes:
    """The record of one bid of a call. name: its id. arm: of an experiment, "" for none. ring: marks the address.

    Of a user who may not train nothing is kept, and the vector is without the user too (P-16, P-50). Of others what the
    operator lets the models see, so that the vector can be computed again from what is logged.
    """
    request, serving, privacy = call.request, call.serving, call.privacy
    snapshot = serving.snapshot
    settings = snapshot.settings
    user = usable(call.user, privacy, settings) if privacy.train and settings.use_tags else None
    bid_id = name.decode()
    ad = snapshot.ads[offer.ad_index]
    where = decision.contexts[offer.imp_index]
    said: dict[str, Any] = {
        "kind": "bid",
        "event_id": bid_id,
        "time_us": call.now_us,
        "exchange": call.endpoint.name,
        "auction_id": request.id,
        "imp_id": request.imp[offer.imp_index].id,
        "campaign": ad.campaign,
        "creative": ad.creative,
    }
    if ad.advertiser:
        said["advertiser"] = ad.advertiser
    if call.uid is not None and privacy.measure:
        said["uid"] = call.uid
    said["price_micros"] = offer.price_micros
    if offer.value_micros:
        said["value_micros"] = offer.value_micros
    if offer.floor_micros:
        said["floor_micros"] = offer.floor_micros
    if offer.currency != "USD":
        said["currency"] = offer.currency
    if offer.at != 2:
        said["at"] = offer.at
    if snapshot.model is not None:
        said["model"] = snapshot.model.version
    if offer.pctr:
        said["pctr"] = offer.pctr
    seen = offer.features
    if seen is not None and user is not None:
        said["vector"] = vector(COLUMNS, seen.request, seen.campaign, seen.pairs, seen.position)
    elif seen is not None:
        said["vector"] = _without_user(offer)
    if where is not None:
        said["context"] = encode_context(where)
    if user is not None:
        said["user"] = replace(user, vector=decision.vector) if user.vector else user  # what the models saw
    if arm:
        said["arm"] = arm
    if logged := serving.logged[offer.ad_index]:
        said["ad"] = logged
    if worth_micros := offer.worth_micros:
        said["worth_micros"] = worth_micros
    _quoted(said, serving, offer.quote or _UNQUOTED, of_user=user is not None)
    if serving.challenger is not None:
        shadow, shadow_pctr = in_shadow(serving, bid_id, where, user, ad, call.now_us)
        if shadow:
            said["shadow"], said["shadow_pctr"] = shadow, shadow_pctr
    if privacy.train and privacy.measure and (mark := _mark(call, ring)):
        said["ip"] = mark
    return encode_map(said)


def _quoted(said: dict[str, Any], serving: Serving, quote: Quote, of_user: bool) -> None:
    """What is logged of how a price came about. of_user: whether the record may say anything of a user."""
    if quote.pace != 1.0:
        said["pace"] = quote.pace
    if quote.how:
        said["shading"] = quote.how
        land = serving.snapshot.landscape
        if land is not None and quote.how == "model":
            said["landscape"] = land.version
    if quote.chance:
        said["chance"] = quote.chance
    if quote.quality and of_user:
        said["quality"] = quote.quality
    if quote.explored:
        said["explored"] = quote.explored
    if quote.propensity != 1.0:
        said["propensity"] = quote.propensity


Vector = Callable[[bytes, tuple[list[float], ...], list[float], Columns, int], bytes]


def plain_vector(
    _columns: bytes, request: tuple[list[float], ...], campaign: list[float], pairs: Columns, position: int
) -> bytes:
    """The features an offer was scored by; arguments as of `bidder.offers.Features`. In C a sixth of the time.

    _columns: where the values of `request` belong, which `in_columns` knows here.
    """
    return _pack(*in_columns(*request), *campaign, *row_of(pairs, position))


COLUMNS = bytes(features.PLACE_COLUMNS + features.READER_COLUMNS + features.NOW_COLUMNS)
_compiled = compiled("bidder._vector", VECTOR_VERSION)
vector: Vector = plain_vector if _compiled is None else _compiled.vector


def _without_user(offer: Offer) -> bytes:
    """The same as they would have been without a user."""
    row = offer.row
    for column in USER_COLUMNS:
        row[column] = NAN
    return _pack(*row)


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


def _mark(call: Call, ring: KeyRing) -> str:
    """The mark of the address a call came from."""
    device = call.request.device
    return "" if device is None else ring.mark("ip", device.ip or device.ipv6 or "")
