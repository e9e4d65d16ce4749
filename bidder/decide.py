"""The decision, pure: a request, a user, a snapshot and the time become ranked offers or a reason."""

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from bidder.openrtb import Reason
from models.features import Context


class Offer(Struct, frozen=True, gc=False):
    """One bid we are willing to make.

    imp_index: position in `request.imp`. ad_index: position in `snapshot.ads`. price_micros: CPM in `currency`,
    rounded as it will be sent. price_usd_micros: the same in the currency of budgets. value_micros: what the
    impression is worth to us, CPM micro-USD. floor_micros: the floor it met, in `currency`. at: auction type that
    priced it. deal: id to echo, "" for the open auction. pctr: calibrated click probability, the prior without a
    model. row: the 40 features behind it, () without a model.
    """

    imp_index: int
    ad_index: int
    price_micros: int
    price_usd_micros: int
    value_micros: int
    floor_micros: int
    currency: str
    at: int
    deal: str
    pctr: float
    row: tuple[float, ...] = ()

    @property
    def vector(self) -> npt.NDArray[np.float64] | None:
        """float64 (40,): what the bid log stores, or None without a model."""
        return np.array(self.row) if self.row else None


class Decision(Struct, frozen=True):
    """offers: per imp (same order as `request.imp`), best first, maybe empty.

    A capped campaign stands in the list of one imp only, so any choice of one offer per imp is allowed.
    reason: BID when there is an offer, else why there is none. reasons: the same per imp. contexts: per imp, what
    the models saw and the bid log stores; None where nothing got that far. currency: of every offer in it.
    """

    offers: tuple[tuple[Offer, ...], ...]
    reason: Reason
    reasons: tuple[Reason, ...] = ()
    contexts: tuple[Context | None, ...] = ()
    currency: str = "USD"
