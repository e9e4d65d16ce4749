"""Which of the offers are sent: one per lot of an imp, several that fill a pod. Pure but for `take`.

An open auction gets the best offer that still has money (or as many as the exchange wants), and so does every deal
beside it. A dynamic pod gets ads of different advertisers, dearest by the second first, as long as they fit.
"""

from collections.abc import Callable, Iterator, Sequence

from bidder.offers import Offer
from bidder.openrtb import Imp
from bidder.openrtb_media import Timed
from bidder.shortlist import pod_of
from bidder.snapshot import Snapshot

Take = Callable[[Offer], bool]
"""Reserves an offer's money; False when there is none, and then the next offer has its turn."""

MAX_IN_POD = 20  # where the pod names no `maxseq`


Pods = dict[str, list[frozenset[str]]]
"""By `podid`: what the ads sent for a structured pod so far have that no other may have."""

BY_DOMAIN, BY_CATEGORY, BY_FILE = 1, 2, 4
"""AdCOM, List: Pod Deduplication Settings; 3, by creative, holds for every pod of ours."""


def choose(
    imp: Imp, offers: tuple[Offer, ...], snapshot: Snapshot, open_bids: int, take: Take, pods: Pods
) -> Iterator[Offer]:
    """The offers of one imp that are sent, each of them taken. open_bids: at most so many for the open auction.

    pods: of this request, filled in here: slots of one pod are imps of their own.
    """
    pod = pod_of(imp)
    if pod is not None:
        medium = "video" if pod is imp.video else "audio"
        fillers = [offer for offer in offers if snapshot.creatives[offer.ad_index].media == medium]
        if fillers:  # else what the imp takes beside the pod, one of it
            yield from _fill(pod, fillers, snapshot, take)
            return
    slot = _slot_of(imp)
    taken = [] if slot is None else pods.setdefault(slot.podid or "", [])
    elsewhere = tuple(taken)  # bids for one slot compete and only one of them is shown
    sent: dict[int, int] = {}
    for offer in offers:
        so_far = sent.get(offer.lot, 0)
        if so_far >= (open_bids if offer.lot == 0 else 1):
            continue
        own = frozenset() if slot is None else _unique(offer, slot, snapshot, every=())
        if all(own.isdisjoint(other) for other in elsewhere) and take(offer):
            sent[offer.lot] = so_far + 1
            taken.append(own)
            yield offer


def _slot_of(imp: Imp) -> Timed | None:
    """The slot of a structured pod whose seller keeps ads apart (`poddedupe`)."""
    for timed in (imp.video, imp.audio):
        if timed is not None and timed.podid and timed.poddedupe:
            return timed
    return None


def _unique(offer: Offer, pod: Timed, snapshot: Snapshot, every: Sequence[int]) -> frozenset[str]:
    """What an ad has that no other ad of its pod may have. every: settings that hold whatever the pod says."""
    creative, campaign = snapshot.creatives[offer.ad_index], snapshot.by_ad[offer.ad_index]
    settings = {*every, *(pod.poddedupe or ())}
    found = {f"creative {creative.id}"}
    if BY_DOMAIN in settings:
        found.add(f"domain {campaign.adomain.lower()}")
    if BY_CATEGORY in settings:
        found |= {f"category {code}" for code in creative.cat or campaign.cat}
    if BY_FILE in settings and creative.clip is not None:
        found |= {f"file {url}" for url in (creative.clip.tag_url, *(f.url for f in creative.clip.files)) if url}
    return frozenset(found)


def _fill(pod: Timed, offers: Sequence[Offer], snapshot: Snapshot, take: Take) -> Iterator[Offer]:
    """Ads for a dynamic pod: none of them twice, none beside a competitor of its own house, none the seller would drop
    beside another.
    """
    room_s, left = pod.poddur or 0.0, MAX_IN_POD if pod.maxseq is None else pod.maxseq
    lengths = snapshot.lengths
    taken: set[str] = set()
    for offer in sorted(offers, key=lambda one: -one.price_micros / (lengths[one.ad_index] or 1.0)):
        length_s, own = lengths[offer.ad_index], _unique(offer, pod, snapshot, every=(BY_DOMAIN,))
        if not length_s or length_s > room_s or left < 1 or not own.isdisjoint(taken):
            continue
        if take(offer):
            room_s -= length_s
            left -= 1
            taken |= own
            yield offer
