"""The reasons not to bid, and the codes the standard has for them."""

from enum import StrEnum


class Reason(StrEnum):
    """Why there is no bid, by the first rule that left nothing; the metric label."""

    BID = "bid"
    INVALID_REQUEST = "invalid_request"
    RESTRICTION_UNREADABLE = "restriction_unreadable"
    NO_TIME = "no_time"
    OVERLOAD = "overload"
    RATE_LIMIT = "rate_limit"
    PRIVACY = "privacy"
    CRAWLER = "crawler"
    SUSPECT = "suspect"
    DATACENTER = "datacenter"
    SCHAIN = "schain"
    SCHAIN_NODE = "schain_node"
    ADS_TXT = "ads_txt"
    UPSTREAM = "upstream"
    NO_CAMPAIGNS = "no_campaigns"
    CURRENCY = "currency"
    SEAT = "seat"
    IMP_UNUSABLE = "imp_unusable"
    NO_MEDIA_FIT = "no_media_fit"
    NOT_RUNNING = "not_running"
    AUDIT = "audit"
    ANSWER_SIZE = "answer_size"
    AUCTION_TYPE = "auction_type"
    SCHEDULE = "schedule"
    DEAL = "deal"
    REWARDED = "rewarded"
    METRIC = "metric"
    MIME = "mime"
    PROTOCOL = "protocol"
    DURATION = "duration"
    LINEARITY = "linearity"
    PLACEMENT = "placement"
    SIZE = "size"
    API = "api"
    ASSETS = "assets"
    SECURE = "secure"
    CREATIVE_ATTRIBUTE = "creative_attribute"
    CREATIVE_TYPE = "creative_type"
    LANGUAGE = "language"
    TRANSPARENCY = "transparency"
    BLOCKED_CATEGORY = "blocked_category"
    BLOCKED_ADVERTISER = "blocked_advertiser"
    BLOCKED_APP = "blocked_app"
    INVENTORY = "inventory"
    GEO = "geo"
    DEVICE = "device"
    OS = "os"
    CATEGORY = "category"
    KEYWORD = "keyword"
    HOT = "hot"
    SEGMENT = "segment"
    NO_USER = "no_user"
    TAGS = "tags"
    AUDIENCE = "audience"
    FREQUENCY_CAP = "frequency_cap"
    BELOW_FLOOR = "below_floor"
    BUDGET = "budget"
    ERROR = "error"


BID = Reason.BID  # a look into an enumeration costs ten times as much as a name, and this one is asked for all the time

NBR: dict[Reason, int] = {
    Reason.ERROR: 1,
    Reason.INVALID_REQUEST: 2,
    Reason.RESTRICTION_UNREADABLE: 2,
    Reason.IMP_UNUSABLE: 2,
    Reason.CRAWLER: 3,
    Reason.SUSPECT: 4,
    Reason.DATACENTER: 5,
    Reason.DEVICE: 6,
    Reason.INVENTORY: 7,
    Reason.NO_USER: 8,
    Reason.TAGS: 8,
    Reason.AUDIENCE: 8,
    Reason.FREQUENCY_CAP: 9,
    Reason.ADS_TXT: 12,
    Reason.NO_TIME: 15,
    Reason.OVERLOAD: 15,
    Reason.SCHAIN: 16,
    Reason.SCHAIN_NODE: 17,
}
"""OpenRTB 3.0, List: No-Bid Reason Codes; a reason not listed here is 0, unknown."""


def nbr(reason: Reason) -> int:
    """The standard's code for a reason.

    >>> nbr(Reason.FREQUENCY_CAP), nbr(Reason.GEO)
    (9, 0)
    """
    return NBR.get(reason, 0)
