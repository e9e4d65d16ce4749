"""What one bidder process decides with: campaigns, index, model and policy as one immutable object.

Built off the loop, swapped by reference; a request keeps the one it started with.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from bidder.campaigns import Campaign, Creative, Portfolio
from bidder.config import BidderConfig
from bidder.targeting import Index
from models.features import Ad


class Snapshot(Struct, frozen=True):
    """One ad is one creative of one campaign; `ads`, `owners`, `creatives`, `values` and the rows of `masks` line up.

    Ads stand in falling order of the most they can be worth, so the lowest bits of an index mask are the best.
    owners: position in `portfolio.campaigns` of an ad's campaign. campaign_bits: per campaign, the mask of its ads.
    masks: uint64 (ads, trees), the forest's campaign side; None without a model. values: campaign features per ad.
    version: names this snapshot in logs.
    """

    portfolio: Portfolio
    settings: BidderConfig
    index: Index
    ads: tuple[Ad, ...]
    owners: tuple[int, ...]
    creatives: tuple[Creative, ...]
    campaign_bits: tuple[int, ...]
    model: Any
    masks: npt.NDArray[np.uint64] | None
    values: tuple[list[float], ...]
    version: str

    def campaign(self, ad_index: int) -> Campaign:
        return self.portfolio.campaigns[self.owners[ad_index]]
