"""A bid as the log keeps it: what was known, what was offered, and the vector the model saw."""

import struct

from msgspec.structs import replace

from bidder.call import Call
from bidder.decide import Decision, usable
from bidder.offers import Offer
from bidder.quoting import Quote
from bidder.serving import Serving
from dmp import keys
from dmp.events import Bid
from dmp.pseudonym import KeyRing
from dmp.schema import User
from models import features
from models.context import NAN, Ad, Context, encode_context
from models.features import USER_COLUMNS

_VECTOR = struct.Struct(f"<{len(features.FEATURES)}d")
_UNQUOTED = Quote(0.0, 1.0, 0.0)
SHADOWED = 16  # one bid in so many is scored by the challenger too, after its answer is out; about 0.2 ms each


def bid_event(name: bytes, call: Call, decision: Decision, offer: Offer, arm: str, ring: KeyRing) -> Bid:
    """The record of one bid of a call. name: its id. arm: of an experiment, "" for none. ring: marks the address.

    Of a user who may not train nothing is kept, and the vector is without the user too (P-16, P-50). Of others what the
    operator lets the models see, so that the vector can be computed again from what is logged.
    """
    request, serving, privacy = call.request, call.serving, call.privacy
    settings = serving.snapshot.settings
    user = usable(call.user, privacy, settings) if privacy.train and settings.use_tags else None
    if user is not None and user.vector:
        user = replace(user, vector=decision.vector)  # what the models saw
    bid_id = name.decode()
    snapshot = serving.snapshot
    ad = snapshot.ads[offer.ad_index]
    where = decision.contexts[offer.imp_index]
    shadow, shadow_pctr = in_shadow(serving, bid_id, where, user, ad, call.now_us)
    model, land, quote = snapshot.model, snapshot.landscape, offer.quote or _UNQUOTED
    return Bid(
        event_id=bid_id,
        time_us=call.now_us,
        exchange=call.endpoint.name,
        auction_id=request.id,
        imp_id=request.imp[offer.imp_index].id,
        campaign=ad.campaign,
        creative=ad.creative,
        advertiser=ad.advertiser,
        uid=call.joined,
        price_micros=offer.price_micros,
        value_micros=offer.value_micros,
        floor_micros=offer.floor_micros,
        currency=offer.currency,
        at=offer.at,
        model="" if model is None else model.version,
        pctr=offer.pctr,
        vector=_vector(offer, without_user=user is None),
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
        ip=_mark(call, ring) if privacy.train and privacy.measure else "",
    )


def _vector(offer: Offer, without_user: bool) -> bytes:
    """The features an offer was scored by, b"" without a model."""
    row = offer.row
    if not row:
        return b""
    if without_user:
        for column in USER_COLUMNS:
            row[column] = NAN
    return _VECTOR.pack(*row)


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
