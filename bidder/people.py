"""Rules about who would see an ad: somebody known, with which tags, in which audience, shown how much already."""

from collections.abc import Mapping, Sequence

from bidder.contact import over_cap
from bidder.index import Index
from bidder.view import View
from dmp.realtime import current_tags


def segment(index: Index, seen: View) -> int:
    """`user.data`: segments of a provider, known by its id or its name. Gone when privacy does not allow them."""
    user = seen.request.user
    mask, blocked = index.segments.free, 0
    for data in (user.data or ()) if user is not None else ():
        for part in data.segment or ():
            for provider in {data.id, data.name}:
                if provider and part.id:
                    mask |= index.segments.masks.get(f"{provider}/{part.id}", 0)
                    blocked |= index.not_segments.get(f"{provider}/{part.id}", 0)
    return mask & ~blocked


def known_user(index: Index, seen: View) -> int:
    return index.anonymous if seen.user is None else index.everything


def tags(index: Index, seen: View) -> int:
    """Any wanted tag at its score or above, no unwanted one. Without a user `known_user` has answered."""
    if seen.user is None:
        return index.everything
    held: Mapping[int, int] = seen.user.tags
    if index.wanted_tags:
        held = current_tags(held, seen.user.realtime, seen.now_us, index.wanted_tags)
    mask = index.tags_free | _reached(held, index.tags)
    return mask & ~_reached(held, index.not_tags) if index.not_tags else mask


def _reached(held: Mapping[int, int], named: Mapping[int, Sequence[int]]) -> int:
    """The ads that name a tag of the user at the score it has or below; walks through the fewer tags."""
    mask = 0
    if len(named) < len(held):
        for score, reached in zip(map(held.get, named), named.values(), strict=True):
            if score is not None:
                mask |= reached[score]
    else:
        for tag in held:
            if tag in named:
                mask |= named[tag][held[tag]]
    return mask


def audience(index: Index, seen: View) -> int:
    if seen.user is None:
        return index.everything
    mask, blocked = index.audiences_free, 0
    for number in seen.user.audiences:
        mask |= index.audiences.get(number, 0)
        blocked |= index.not_audiences.get(number, 0)
    return mask & ~blocked


def frequency_cap(index: Index, seen: View) -> int:
    """Looks only at campaigns the user has met: a record has at most 64 entries."""
    if seen.user is None:
        return index.everything
    if not seen.counted:
        return index.uncapped
    contacts = seen.user.contacts
    if sum([contact.count for contact in contacts]) < index.least_cap:
        return index.everything  # most people: all campaigns together were not shown as often as one of them may be
    met: dict[int, int] = {}
    for contact in contacts:
        if contact.scope in index.caps:
            met[contact.scope] = met.get(contact.scope, 0) + contact.count
    capped = 0
    for scope, shown in met.items():
        caps, least, ads = index.caps[scope]
        # Hardly anyone was shown a campaign so often, in whatever time, that a window has to be looked at.
        if shown >= least and over_cap(caps, [contact for contact in contacts if contact.scope == scope], seen.now_us):
            capped |= ads
    return index.everything & ~capped
