"""The decision, pure: a request, a user, a snapshot and the time become ranked offers or a reason.

Steps: currency -> request-wide rules -> per imp: its rules, then offers of the ads that pass (`bidder.shortlist`).
Nothing here reads a clock, a file, the store or a global.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from bidder import targeting, traffic
from bidder.config import BidderConfig, ExchangeConfig
from bidder.offers import Offer
from bidder.openrtb import Imp, Request
from bidder.pricing import bid_currency
from bidder.privacy import PrivacyDecision
from bidder.reasons import BID, Reason
from bidder.redact import permitted, strip
from bidder.shortlist import offers_for
from bidder.snapshot import Snapshot
from bidder.tastes import UNASKED, Result
from bidder.view import View, view
from dmp.schema import User
from models.context import Context


class Decision(Struct, frozen=True, gc=False):
    """offers: per imp (same order as `request.imp`), best first, maybe empty, one per campaign and lot.

    A capped campaign stands in the list of one imp only, so any choice of one offer per imp is allowed.
    reason: BID when there is an offer, else why there is none. reasons: the same per imp. contexts: per imp, what
    the models saw and the bid log stores; None where nothing got that far. currency: of every offer in it.
    vector: what the user would like now, as the models saw it; taste: what came of the stored one (`bidder.tastes`).
    """

    offers: tuple[tuple[Offer, ...], ...]
    reason: Reason
    reasons: tuple[Reason, ...] = ()
    contexts: tuple[Context | None, ...] = ()
    currency: str = "USD"
    vector: bytes = b""
    taste: Result = ""


_ORDER = {reason: i for i, reason in enumerate(Reason)}


def no_bid(request: Request, reason: Reason) -> Decision:
    """The same reason for every imp."""
    n = len(request.imp)
    return Decision(((),) * n, reason, (reason,) * n, (None,) * n)


def decide(
    request: Request,
    privacy: PrivacyDecision,
    user: User | None,
    snapshot: Snapshot,
    now_us: int,
    exchange: ExchangeConfig,
    name: str,
    exhausted: int = 0,
    late: Callable[[], bool] = lambda: False,
    best_only: bool = False,
) -> Decision:
    """What to offer for each imp. user: None when nothing may be or could be read about the user.

    name: the exchange's. exhausted: ads that have no money right now (`Snapshot.mask_of`). late: whether there is no
    time for another imp; asked before each but the first. best_only: nobody needs more than the best offer of a lone
    imp; for several imps all are made, as they depend on each other. Floats enter only as probabilities and exchange
    rates; equal inputs give equal offers.
    """
    settings = snapshot.settings
    if request.refuse is not None:
        return no_bid(request, Reason.RESTRICTION_UNREADABLE)
    if not privacy.bid:
        return no_bid(request, Reason.PRIVACY)
    refused = traffic.refusal(request, exchange, settings, snapshot.quality)
    if refused is not None:
        return no_bid(request, refused)
    if not snapshot.ads:
        return no_bid(request, Reason.NO_CAMPAIGNS)
    imps = request.imp
    alone = len(imps) == 1
    reasons = [_imp_reason(imps[0])] if alone else [_imp_reason(imp) for imp in imps]
    if BID not in reasons:
        return Decision(((),) * len(imps), _furthest(reasons), tuple(reasons), (None,) * len(imps))
    currency = bid_currency(request.cur, settings.rates)
    if currency is None:
        return no_bid(request, Reason.CURRENCY)
    request = strip(request, privacy)
    user = usable(user, privacy, settings)
    seen = view(request, user, now_us, exchange, name, privacy.frequency_cap)
    mask, reason = targeting.eligible(snapshot.index, seen)
    if not mask:
        return no_bid(request, reason)
    if exhausted:
        mask &= ~exhausted
        if not mask:
            return no_bid(request, Reason.BUDGET)
    vector, taste = UNASKED
    if user is not None and user.vector:
        vector, taste = snapshot.tastes.lately(user, request.id, now_us)
        user = replace(user, vector=vector)
    sent = exchange.open_bids
    if alone:
        wanted = 1 if best_only else max(settings.offers, sent)
        found, where, reason = _offered(0, mask, seen, user, snapshot, currency, wanted, sent)
        return Decision((found,), reason, (reason,), (where,), currency, vector, taste)
    wanted = max(settings.offers, sent)
    offers: list[tuple[Offer, ...]] = [()] * len(imps)
    contexts: list[Context | None] = [None] * len(imps)
    names = Counter(imp.id for imp in imps)
    for i, imp in enumerate(imps):
        if reasons[i] is not BID:
            continue
        if names[imp.id] > 1:  # an answer could not say which of them it is for
            reasons[i] = Reason.IMP_UNUSABLE
        elif i and late():
            reasons[i] = Reason.NO_TIME
        else:
            offers[i], contexts[i], reasons[i] = _offered(i, mask, seen, user, snapshot, currency, wanted, sent)
    _keep_capped_once(offers, snapshot)
    reasons = [
        Reason.FREQUENCY_CAP if reason is BID and not found else reason
        for reason, found in zip(reasons, offers, strict=True)
    ]
    return Decision(tuple(offers), _furthest(reasons), tuple(reasons), tuple(contexts), currency, vector, taste)


def _offered(
    index: int, mask: int, seen: View, user: User | None, snapshot: Snapshot, currency: str, wanted: int, sent: int
) -> tuple[tuple[Offer, ...], Context | None, Reason]:
    """What is offered for one imp of a request that ads of the mask may answer. Arguments as of `offers_for`."""
    candidates, reason = targeting.eligible_for(snapshot.index, seen, seen.request.imp[index], mask)
    if not candidates:
        return (), None, reason
    found, where = offers_for(index, candidates, seen, user, snapshot, currency, wanted, sent)
    return found, where, reason if found else Reason.BELOW_FLOOR


def usable(user: User | None, privacy: PrivacyDecision, settings: BidderConfig) -> User | None:
    """As much of a user's record as privacy and the operator allow; contacts alone with tags off, so that caps hold."""
    user = permitted(user, privacy)
    if user is None or (settings.use_tags and settings.use_longterm and settings.use_realtime):
        return user
    if not settings.use_tags:
        return User(contacts=user.contacts)
    return replace(
        user,
        tags=user.tags if settings.use_longterm else {},
        vector=user.vector if settings.use_longterm else b"",
        realtime=user.realtime if settings.use_realtime else None,
    )


def _imp_reason(imp: Imp) -> Reason:
    if imp.unusable is not None or not imp.id:
        return Reason.IMP_UNUSABLE
    if imp.banner is None and imp.video is None and imp.audio is None and imp.native is None:
        return Reason.NO_MEDIA_FIT
    return BID


def _furthest(reasons: Sequence[Reason]) -> Reason:
    """BID when any imp has one, else the reason of the imp that passed the most rules."""
    return BID if BID in reasons else max(reasons, key=_ORDER.__getitem__)


def _keep_capped_once(offers: list[tuple[Offer, ...]], snapshot: Snapshot) -> None:
    """Leave a campaign with a frequency cap in the list of the one imp where it is worth most (the first on a tie)."""
    best: dict[int, Offer] = {}
    for found in offers:
        for offer in found:
            owner = snapshot.owners[offer.ad_index]
            if snapshot.by_ad[offer.ad_index].caps and (
                owner not in best or best[owner].value_micros < offer.value_micros
            ):
                best[owner] = offer
    for i, found in enumerate(offers):
        offers[i] = tuple(
            offer for offer in found if best.get(snapshot.owners[offer.ad_index], offer).imp_index == offer.imp_index
        )
