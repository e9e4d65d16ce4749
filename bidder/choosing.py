"""Which of the offers are sent: one per lot of an imp, several that fill a pod. Pure but for `take`.

An open auction gets the best offer that still has money (or as many as the exchange wants), and so does every deal
beside it. A dynamic pod gets ads of different advertisers, dearest by the second first, as long as they fit.
"""

from collections.abc import Callable, Iterator, Sequence

from bidder.offers import Offer, pod_of
from bidder.openrtb import Imp
from bidder.openrtb_media import Timed
from bidder.snapshot import Snapshot

Take = Callable[[Offer], bool]
"""Reserves an offer's money; False when there is none, and then the next offer has its turn."""

MAX_IN_POD = 20  # where the pod names no `maxseq`


def choose(imp: Imp, offers: tuple[Offer, ...], snapshot: Snapshot, open_bids: int, take: Take) -> Iterator[Offer]:
    """The offers of one imp that are sent, each of them taken. open_bids: at most so many for the open auction."""
    pod = pod_of(imp)
    if pod is not None:
        medium = "video" if pod is imp.video else "audio"
        fillers = [offer for offer in offers if snapshot.creatives[offer.ad_index].media == medium]
        if fillers:  # else what the imp takes beside the pod, one of it
            yield from _fill(pod, fillers, snapshot, take)
            return
    sent: dict[int, int] = {}
    for offer in offers:
        so_far = sent.get(offer.lot, 0)
        if so_far < (open_bids if offer.lot == 0 else 1) and take(offer):
            sent[offer.lot] = so_far + 1
            yield offer


def _fill(pod: Timed, offers: Sequence[Offer], snapshot: Snapshot, take: Take) -> Iterator[Offer]:
    """Ads for a dynamic pod: none of them twice, none beside a competitor of its own house."""
    room_s, left = pod.poddur or 0.0, MAX_IN_POD if pod.maxseq is None else pod.maxseq
    lengths = snapshot.lengths
    advertisers: set[str] = set()
    for offer in sorted(offers, key=lambda one: -one.price_micros / (lengths[one.ad_index] or 1.0)):
        length_s, advertiser = lengths[offer.ad_index], snapshot.by_ad[offer.ad_index].adomain.lower()
        if not length_s or length_s > room_s or left < 1 or advertiser in advertisers:
            continue
        if take(offer):
            room_s -= length_s
            left -= 1
            advertisers.add(advertiser)
            yield offer
