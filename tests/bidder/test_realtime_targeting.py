"""What the stream knows of a user decides the next bid; `tests/dmp/test_realtime.py` has the rules of the record."""

import pytest

from bidder.reasons import Reason
from dmp import realtime
from dmp.realtime import CART, PURCHASE, Basket, Parts, landmark_us
from dmp.schema import Contact, User
from dmp.taxonomy import tag_id
from tests.bidder.factories import NOW_US, a_campaign, a_request, decision

AUTO = tag_id("interest.automotive")
HOUR_US = 3_600_000_000


def lately(kind: int | None = None) -> realtime.Realtime:
    """A record of one tag that weighs 3 on each horizon at the last landmark of its half-hour sums, 50 points then."""
    then = landmark_us(NOW_US, 0)
    sums = tuple(3.0 * 2.718281828459045 ** ((then - landmark_us(then, h)) / realtime.TAU_US[h]) for h in range(3))
    carts = {} if kind is None else {AUTO: Basket(then, kind)}
    return realtime.decode(realtime.encode(Parts(nonce=bytes(8), newest_us=then, sums={AUTO: sums}, carts=carts)))  # type: ignore[dict-item]


THEN_US = landmark_us(NOW_US, 0)


@pytest.mark.parametrize(("least", "bids"), [(50, True), (51, False)])
def test_a_tag_of_minutes_ago_is_targeted_as_one_of_last_year(least: int, bids: bool) -> None:
    campaign = a_campaign(targeting={"tags": {"interest.automotive": least}})
    found = decision(a_request(), campaign, user=User(realtime=lately()), now_us=THEN_US)
    assert (found.reason is Reason.BID) is bids


def test_it_fades_and_long_term_interest_remains() -> None:
    campaign = a_campaign(targeting={"tags": {"interest.automotive": 30}})
    later = {"now_us": THEN_US + 72 * HOUR_US}
    assert decision(a_request(), campaign, user=User(realtime=lately()), **later).reason is Reason.TAGS
    assert decision(a_request(), campaign, user=User({AUTO: 30}, realtime=lately()), **later).reason is Reason.BID


def test_a_basket_raises_the_intent_and_a_purchase_ends_it() -> None:
    wants = a_campaign(targeting={"tags": {"intent.automotive": 40, "interest.automotive": 40}})
    avoids = a_campaign(targeting={"not_tags": {"intent.automotive": 40}})
    for kind, reason, avoided in (
        (CART, Reason.BID, Reason.TAGS),
        (PURCHASE, Reason.TAGS, Reason.BID),
    ):
        user = User({AUTO: 90}, realtime=lately(kind))
        assert decision(a_request(), wants, user=user, now_us=THEN_US).reason is reason
        assert decision(a_request(), avoids, user=user, now_us=THEN_US).reason is avoided


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, Reason.BID),
        ({"use_longterm": False}, Reason.BID),
        ({"use_realtime": False}, Reason.TAGS),
        ({"use_tags": False}, Reason.TAGS),
    ],
)
def test_each_kind_of_tags_can_be_switched_off_to_compare(settings: dict[str, bool], reason: Reason) -> None:
    campaign = a_campaign(targeting={"tags": {"interest.automotive": 40}})
    user = User({AUTO: 20}, realtime=lately())
    assert decision(a_request(), campaign, user=user, now_us=THEN_US, **settings).reason is reason
    other = User({AUTO: 80}, contacts=(Contact(1, 1, 1),))
    expected = Reason.BID if settings.get("use_longterm", True) and settings.get("use_tags", True) else Reason.TAGS
    assert decision(a_request(), campaign, user=other, now_us=THEN_US, **settings).reason is expected


@pytest.mark.rule("P-50")
def test_without_permission_nothing_of_it_is_used() -> None:
    campaign = a_campaign(targeting={"tags": {"interest.automotive": 40}})
    request = a_request(regs={"coppa": 1, "gdpr": 0})
    assert decision(request, campaign, user=User(realtime=lately())).reason is Reason.NO_USER
