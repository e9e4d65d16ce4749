"""Which user a bid request is about: the one id of it that is known best, as a pseudonym."""

from collections.abc import Sequence

from bidder.openrtb import Request, User
from dmp.pseudonym import KeyRing
from dmp.schema import Uid


def user_uid(request: Request, exchange: str, ring: KeyRing, sources: Sequence[str] = ()) -> Uid | None:
    """The pseudonym of the user a request is about, by the id we know best; None without a usable id.

    Our own id as the exchange stored it, then the device's, then extended ids of `sources`, then the exchange's own
    within that exchange.
    """
    user, device = request.user, request.device
    if user is not None and user.buyeruid and (uid := ring.uid("cookie", user.buyeruid)):
        return uid
    if device is not None and device.ifa and (uid := ring.uid("device", device.ifa)):
        return uid
    if user is not None and sources and (uid := _eid_uid(user, sources, ring)):
        return uid
    if user is not None and user.id and ring.uid("exchange", user.id):  # the id itself must be one
        return ring.uid("exchange", f"{exchange}:{user.id}")
    return None


def _eid_uid(user: User, sources: Sequence[str], ring: KeyRing) -> Uid | None:
    """The pseudonym by the best extended id there is, of either place it may stand in."""
    found = {
        eid.source: uid.id
        for eid in (*((user.ext.eids or ()) if user.ext is not None else ()), *(user.eids or ()))
        for uid in eid.uids or ()
        if eid.source and uid.id
    }
    for source in sources:
        name = found.get(source)
        if name and ring.uid("exchange", name):  # the id itself must be one
            return ring.uid("exchange", f"{source}:{name}")
    return None
