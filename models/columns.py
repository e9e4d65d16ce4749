"""The columns of every matrix and every logged vector: names, kinds, sides, and what stands for all of them."""

from hashlib import blake2b
from typing import Literal

import msgspec

VERSION = 3  # bump when a function of `models.features` or `models.pairs` changes what it returns
MAX_CATEGORIES = 1000  # LightGBM's native categoricals degrade above; rarer values become missing


class Feature(msgspec.Struct, frozen=True):
    """One column of the matrix. categorical: its value is a vocabulary code or NaN."""

    name: str
    kind: Literal["numeric", "categorical"]
    side: Literal["request", "campaign", "pair"]


_REQUEST = (
    "exchange:c site:c category:c tagid:c device_type:c os:c browser:c connection:c language:c "
    "country:c region:c city:c width height position instl floor_micros hour weekday n_imps "
    "place_hash place_rate place_rows content_category:c page_topic:c search_topic:c placement:c viewability rewarded "
    "user_interest:c user_last_category:c user_tags user_gender user_age user_recency user_frequency user_audiences "
    "user_shown_24h user_depth user_gap_h user_acts_24h"
)
_CAMPAIGN = "campaign:c creative:c advertiser:c ad_category:c ad_rate ad_rows"
_PAIR = (
    "interest_score target_sum target_max in_audiences shown_24h shown_7d hours_since_shown "
    "now_interest now_target retargeted preference category_match topic_match in_fence"
)


def _features(side: Literal["request", "campaign", "pair"], names: str) -> tuple[Feature, ...]:
    return tuple(
        Feature(name.removesuffix(":c"), "categorical" if name.endswith(":c") else "numeric", side)
        for name in names.split()
    )


_SIDES = (_features("request", _REQUEST), _features("campaign", _CAMPAIGN), _features("pair", _PAIR))
FEATURES: tuple[Feature, ...] = _SIDES[0] + _SIDES[1] + _SIDES[2]
"""Columns of every matrix, in order: request, campaign, pair."""

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
CATEGORICAL: tuple[int, ...] = tuple(i for i, feature in enumerate(FEATURES) if feature.kind == "categorical")
N_REQUEST, N_CAMPAIGN, N_PAIR = (len(side) for side in _SIDES)
_PAGE = ("category_match", "topic_match", "in_fence")  # pairs of ad and page: no user in them
USER_COLUMNS: tuple[int, ...] = tuple(
    i for i, name in enumerate(NAMES) if name.startswith("user_") or (FEATURES[i].side == "pair" and name not in _PAGE)
)
"""Columns that are NaN when the user is None."""

SIGNATURE: str = blake2b(
    f"{VERSION} {MAX_CATEGORIES} {_REQUEST} | {_CAMPAIGN} | {_PAIR}".encode(), digest_size=16
).hexdigest()
"""Names this definition; an artefact trained under another one is refused."""

READER = ["device_type", "os", "browser", "connection", "language", "country", "region", "city", "hour", "weekday"]
READER_COLUMNS: tuple[int, ...] = tuple(i for i in range(N_REQUEST) if NAMES[i] in READER)
NOW_COLUMNS: tuple[int, ...] = tuple(
    i for i in range(N_REQUEST) if NAMES[i] in ("floor_micros", "search_topic") or NAMES[i].startswith("user_")
)
PLACE_COLUMNS: tuple[int, ...] = tuple(i for i in range(N_REQUEST) if i not in READER_COLUMNS + NOW_COLUMNS)
"""The request features in three parts: what a placement has, what device and clock have, what only this request has."""


CODES = {NAMES[column]: i for i, column in enumerate(CATEGORICAL)}
"""{categorical feature: its place among them}."""
