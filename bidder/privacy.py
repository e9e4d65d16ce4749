"""One privacy decision per request, made before anything else reads the user (P-01).

The decision is the intersection of all regimes that apply, so a further restrictive signal can only take away
(P-03). This file reads COPPA, Limit-Ad-Tracking, Do-Not-Track, GDPR, US privacy, GPC and the presence of GPP; a
GDPR request is contextual while no vendor id is configured (P-13).
"""

import msgspec


class PrivacyDecision(msgspec.Struct, frozen=True, gc=False):
    """What may be done with one request; every field is a permission.

    bid: answer at all. use_ids: build a store key from an id. lookup_tags: read the user's record. personalise:
    let it change the bid. build_profile: write this event into a profile. measure: join notices by user id.
    train: keep user features in training rows. precise_geo: exact latitude and longitude. city: city, and finer
    than country and region. reasons: which signals took permissions away, for metrics and `explain`.
    """

    bid: bool = True
    use_ids: bool = True
    lookup_tags: bool = True
    personalise: bool = True
    build_profile: bool = True
    measure: bool = True
    train: bool = True
    precise_geo: bool = True
    city: bool = True
    reasons: tuple[str, ...] = ()
