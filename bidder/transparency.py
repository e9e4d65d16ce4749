"""Who is behind an ad and why it is shown, as the Digital Services Act asks (IAB Tech Lab, DSA Transparency extension).

A request asks in `regs.ext.dsa`, a bid answers in `ext.dsa`. Exchanges drop bids that do not answer where that is
required, or that would have the notice shown by nobody, or twice.
"""

import msgspec

from bidder.campaigns import Transparency
from bidder.openrtb import Dsa, Request

REQUIRED = (2, 3)  # dsarequired: bids without it are not accepted
CANNOT_SHOW, WILL_SHOW = 0, 2  # pubrender: what the publisher does about the notice
PROFILING, BASIC, PRECISE_PLACE = 1, 2, 3  # dsaparams: which of the user's data chose the ad


def asked(request: Request) -> Dsa | None:
    """What a request asks for, None for nothing."""
    regs = request.regs
    return regs.ext.dsa if regs is not None and regs.ext is not None else None


def shown_once(told: Transparency, dsa: Dsa) -> bool:
    """Whether exactly one of publisher and ad can show the notice."""
    return dsa.pubrender != (WILL_SHOW if told.rendered else CANNOT_SHOW)


MOST = Dsa(pubrender=1, datatopub=2)
"""Asks for as much as a request can."""


def most_bytes(told: Transparency | None, domain: str) -> int:
    """The length of the longest answer about a campaign."""
    return 0 if told is None else len(answer(told, MOST, domain, profiled=True, placed=True))


def answer(told: Transparency, dsa: Dsa, domain: str, profiled: bool, placed: bool) -> bytes:
    """The end of a bid object: `ext.dsa`. domain: ours. profiled: a user's record took part; placed: a geofence did.

    b"" where nothing is required and the notice could not be shown once.
    """
    if not shown_once(told, dsa):
        return b""
    found: dict[str, object] = {"behalf": told.behalf, "paid": told.paid or told.behalf, "adrender": int(told.rendered)}
    if dsa.datatopub:
        data = [PROFILING] * profiled + [PRECISE_PLACE] * placed
        found["transparency"] = [{"domain": domain, "dsaparams": data or [BASIC]}]
    return b',"ext":{"dsa":%b}' % msgspec.json.encode(found)
