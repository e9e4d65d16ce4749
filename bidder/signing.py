"""Bids as they are sent: their tokens, and the bytes of the answer they stand in."""

from collections.abc import Sequence
from functools import lru_cache

from bidder import answer, transparency
from bidder.answer import Sent
from bidder.call import Call, Held
from bidder.decide import Decision
from bidder.markup import for_imp
from bidder.offers import Offer
from bidder.tokens import Signer, text_field, url_safe
from bidder.vast import PRICE

_currency = lru_cache(64)(text_field)


def signed(call: Call, decision: Decision, held: Held, bid_id: bytes, signer: Signer) -> Sent:
    """One bid of a call. bid_id: 12 bytes."""
    request, serving, offer = call.request, call.serving, held.offer
    imp = request.imp[offer.imp_index]
    fields = call.endpoint.field + text_field(imp.id) + serving.fields[offer.ad_index] + _currency(decision.currency)
    server, browser = signer.pair(
        bid_id, call.issued_s, held.hold_s, offer.price_usd_micros, fields, call.joined, bool(request.test),
        call.privacy.frequency_cap, held.milli,
    )  # fmt: skip
    parts = serving.parts[offer.ad_index]
    adm, tail = for_imp(parts, imp, request.cattax)
    if request.regs is not None:
        tail += _transparency(call, decision, offer)
    return Sent(
        url_safe(bid_id), imp.id, offer.price_micros, server, browser, parts.seat, adm, tail, held.hold_s, offer.deal
    )


def _transparency(call: Call, decision: Decision, offer: Offer) -> bytes:
    """What a bid answers to a request under the DSA, b"" for nothing."""
    serving, privacy = call.serving, call.privacy
    behind = serving.snapshot.by_ad[offer.ad_index].dsa
    asked = None if behind is None else transparency.asked(call.request)
    if behind is None or asked is None:
        return b""
    where = decision.contexts[offer.imp_index]
    placed = where is not None and not serving.snapshot.ads[offer.ad_index].fences.isdisjoint(where.fences)
    return transparency.answer(behind, asked, serving.domain, privacy.personalise and call.user is not None, placed)


def body(call: Call, currency: str, bids: Sequence[Sent]) -> bytes:
    """The answer with all bids of a call."""
    found = answer.response(call.request.id, bids, currency, call.serving.urls)
    macro = call.endpoint.exchange.price_macro
    return found if macro == PRICE else found.replace(PRICE.encode(), macro.encode())
