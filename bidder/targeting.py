"""Which ads may be shown: bit sets over the ads of a snapshot, one mask per rule and value.

An ad is one creative of one campaign and bit i of every mask. A rule turns what a request says into the mask of
the ads that pass it; ads that do not have the rule are in every mask it returns. The answer is the AND of the rules,
and where it leaves nothing, the first rule in order that left nothing is the reason. What rules say of a page, a
reader or a banner alone is worked out once for each of them and remembered; the others are asked each time, cheap and
selective ones first. `explain` asks the very same rules, all of them. Rules that no campaign of a portfolio uses are
not asked (`bidder.indexing`). Measured idea: one AND of 1,000-bit integers costs 40 ns, a Python loop over campaigns
400 us.
The rules stand by what they are about in `places`, `people`, `blocking` and `banners`; here are time, device and deals.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from bidder import blocking
from bidder.fitting import RULES
from bidder.index import Index
from bidder.openrtb import Deal, Imp, is_rewarded
from bidder.reasons import BID, Reason
from bidder.view import View, utc_quarter
from models.context import Reader

MEDIA_RULES = (*RULES, Reason.CREATIVE_TYPE)


def running(index: Index, seen: View) -> int:
    return index.running[bisect_right(index.changes, seen.now_us) - 1]


def auction_type(index: Index, seen: View) -> int:
    return index.at[seen.at]


def device(index: Index, reader: Reader) -> int:
    return index.devices.get(reader.device_type, index.devices_free)


def system(index: Index, reader: Reader) -> int:
    return index.os.free | index.os.masks.get(reader.os, 0)


def schedule(index: Index, seen: View) -> int:
    return index.local[seen.hour] if seen.hour >= 0 else index.by_utc[utc_quarter(seen.now_us)]


def deal(index: Index, seen: View, imp: Imp) -> int:
    """Open auction unless private; and the ads of each offered deal whose own lists let them in."""
    pmp = imp.pmp
    if pmp is None:
        return index.open
    mask = 0 if pmp.private_auction else index.open
    for offered in deals_of(imp):
        mask |= deal_ads(index, offered)
    return mask


def deals_of(imp: Imp) -> Sequence[Deal]:
    """The deals that can be answered: of two with one id and different terms, a bid could not say which it is for."""
    offered = imp.pmp.deals if imp.pmp is not None else None
    if not offered or len(offered) == 1:
        return offered or ()
    terms: dict[str, Deal | None] = {}
    for deal in offered:
        terms[deal.id] = deal if terms.setdefault(deal.id, deal) == deal else None
    return [deal for deal in terms.values() if deal is not None]


def deal_ads(index: Index, offered: Deal) -> int:
    """The ads that may answer one deal: their campaign names it, `wseat` and `wadomain` let them."""
    ads = index.deals.get(offered.id, 0)
    if ads and offered.wseat:
        seats = 0
        for name in offered.wseat:
            seats |= index.seats.get(name, 0)
        ads &= seats
    if ads and offered.wadomain:
        domains = 0
        for name in offered.wadomain:
            domains |= index.advertisers.get(name.lower(), 0)
        ads &= domains
    return ads


def secure(index: Index, seen: View, imp: Imp) -> int:
    return index.secure if imp.secure else index.everything


def rewarded(index: Index, seen: View, imp: Imp) -> int:
    return index.rewarded if is_rewarded(imp) else index.unrewarded


def metric(index: Index, seen: View, imp: Imp) -> int:
    """What was measured of the placement must reach what is asked for; of several measures the lowest counts."""
    short = 0
    for name, (steps, asking) in index.metrics.items():
        told = [one.value for one in imp.metric or () if one.type == name and one.value is not None]
        short |= asking[bisect_right(steps, min(told))] if told else asking[0]
    return index.everything & ~short


def media(index: Index, seen: View, imp: Imp) -> list[tuple[Reason, int]]:
    """The rules of an imp that offers more or other than a banner: an ad need only fit what is there for its kind."""
    parts: list[tuple[int, dict[Reason, int]]] = []
    if imp.banner is not None:
        parts.append((index.banners, {reason: rule(index, imp.banner) for reason, rule in index.banner_rules}))
    fitting = index.fitting
    if imp.video is not None:
        parts.append((fitting.video_ads, fitting.video(imp.video)))
    if imp.audio is not None:
        parts.append((fitting.audio_ads, fitting.audio(imp.audio)))
    if imp.native is not None:
        parts.append((fitting.native_ads, fitting.native(imp.native)))
    offered = 0
    for ads, _ in parts:
        offered |= ads
    found = [(Reason.NO_MEDIA_FIT, offered)]
    for reason in MEDIA_RULES:
        mask = 0
        for ads, masks in parts:
            mask |= ads & masks.get(reason, ads)
        found.append((reason, mask))
    return found


def eligible(index: Index, seen: View) -> tuple[int, Reason]:
    """(ads that pass every request-wide rule, the rule that left nothing or BID)."""
    mask = index.by_page[seen.page] & index.by_reader[seen.reader]
    for _, rule in index.asked_of_lists if blocking.asks(seen) else index.asked:
        if not mask:
            break
        mask &= rule(index, seen)
    return (mask, BID) if mask else _in_order(index.everything, index.rules, index, seen)


def eligible_for(index: Index, seen: View, imp: Imp, mask: int) -> tuple[int, Reason]:
    """(ads of `mask` that pass every rule of one imp, the rule that left nothing or BID)."""
    if imp.video is None and imp.audio is None and imp.native is None:
        left = mask & index.by_banner[imp.banner]
        for _, rule in index.shared_rules:
            left &= rule(index, seen, imp)
        if left:
            return left, BID
        if not mask & index.banners:
            return 0, Reason.NO_MEDIA_FIT
        return _in_order(mask, index.imp_rules, index, seen, imp)
    for reason, passing in media(index, seen, imp):
        mask &= passing
        if not mask:
            return 0, reason
    return _in_order(mask, index.shared_rules, index, seen, imp)


def _in_order(mask: int, rules: Iterable[tuple[Reason, Callable[..., int]]], *asked: object) -> tuple[int, Reason]:
    """Ask rules in order: (what all of them leave, the first that left nothing or BID)."""
    for reason, rule in rules:
        mask &= rule(*asked)
        if not mask:
            return 0, reason
    return mask, BID


def answers(index: Index, seen: View, imp: Imp) -> list[tuple[Reason, int]]:
    """Every rule's mask for one imp, none skipped: what `explain` prints."""
    return [
        *((reason, rule(index, seen)) for reason, rule in index.rules),
        *media(index, seen, imp),
        *((reason, rule(index, seen, imp)) for reason, rule in index.shared_rules),
    ]
