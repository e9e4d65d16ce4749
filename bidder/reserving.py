"""The money of bids: what each can cost is reserved before it is sent, or another offer has its turn."""

from functools import partial

from bidder.budget import Budgets
from bidder.call import Call, Held
from bidder.choosing import Pods, choose
from bidder.config import BidderConfig
from bidder.decide import Decision
from bidder.markup import most_bytes
from bidder.notices import reserved_micros
from bidder.offers import Offer
from bidder.openrtb import Imp, Request
from bidder.openrtb_media import Qty
from bidder.tokens import ONE_MILLI


def reserve(call: Call, decision: Decision, budgets: Budgets, settings: BidderConfig) -> None:
    """Put the offers to send into `call.held`, as soon as their money is reserved."""
    pods: Pods = {}
    for imp, offers in zip(call.request.imp, decision.offers, strict=True):
        if not offers:
            continue
        kept_s = hold_s(call.request, imp, settings)
        if len(offers) == 1 and imp.video is None and imp.audio is None:  # no pod, nothing to choose from
            _take(call, budgets, imp, kept_s, offers[0])
            continue
        take = partial(_take, call, budgets, imp, kept_s)
        for _ in choose(imp, offers, call.serving.snapshot, call.endpoint.exchange.open_bids, take, pods):
            pass


def _take(call: Call, budgets: Budgets, imp: Imp, kept_s: int, offer: Offer) -> bool:
    """Reserve what a bid can cost; a test costs nothing."""
    milli = ONE_MILLI if imp.qty is None else multiplier_milli(imp.qty)
    micros = 0 if call.request.test else reserved_micros(offer.price_usd_micros, milli)
    campaign = call.serving.snapshot.names[offer.ad_index]
    taken = bool(call.request.test) or budgets.reserve(campaign, micros, call.issued_s, kept_s)
    if taken:
        call.held.append(Held(offer, kept_s, micros, milli))
    return taken


def give_back(call: Call, held: Held, budgets: Budgets) -> None:
    """A bid that is not sent cannot cost anything."""
    if held.micros:
        campaign = call.serving.snapshot.names[held.offer.ad_index]
        budgets.unreserve(campaign, held.micros, call.issued_s, held.hold_s)


def keep_fitting(call: Call, budgets: Budgets, limit: int) -> int:
    """Keep the dearest bids that fit into one answer together, in their order; the number of the others.

    limit: bytes of an answer.
    """
    kept: set[int] = set()
    left = limit
    for i in sorted(range(len(call.held)), key=lambda i: -call.held[i].offer.price_usd_micros):
        size = most_bytes(call.serving.parts[call.held[i].offer.ad_index])
        if size <= left:
            kept.add(i)
            left -= size
    dropped = [held for i, held in enumerate(call.held) if i not in kept]
    call.held = [held for i, held in enumerate(call.held) if i in kept]
    for held in dropped:
        give_back(call, held, budgets)
    return len(dropped)


def hold_s(request: Request, imp: Imp, settings: BidderConfig) -> int:
    """How many seconds a bid's money is kept: as long as its impression may take to be told."""
    usual_s = settings.hold_s if request.app is None else settings.app_hold_s
    if imp.instl:
        usual_s = settings.instl_hold_s
    return max(usual_s, min(imp.exp, settings.instl_hold_s)) if imp.exp is not None else usual_s


def multiplier_milli(qty: Qty) -> int:
    """Thousandths of an impression one showing counts for, on screens many people see."""
    return ONE_MILLI if qty.multiplier is None else round(qty.multiplier * 1000)
