import json

import pytest

from loadtest.referee import affected, bid_imps, expectation_met, violations


def a_request(**changes):
    request = {
        "id": "r1",
        "imp": [{"id": "1", "bidfloor": 1.0, "banner": {"format": [{"w": 300, "h": 250}]}}],
        "badv": ["rival.example"],
        "bcat": ["IAB7"],
    }
    return request | changes


def an_imp(**changes):
    return {"id": "1", "bidfloor": 1.0, "banner": {"format": [{"w": 300, "h": 250}]}} | changes


def an_answer(**changes):
    bid = {
        "id": "b",
        "impid": "1",
        "price": 2.0,
        "adm": '<a href="x"><img src="https://cdn.example/a.png"></a>',
        "adomain": ["shop.example"],
        "crid": "c",
        "w": 300,
        "h": 250,
        "cat": ["IAB20"],
    } | changes
    return json.dumps({"id": "r1", "seatbid": [{"seat": "s", "bid": [bid]}], "cur": "USD"}).encode()


def test_a_sound_bid_and_an_empty_no_bid_are_accepted():
    assert violations(a_request(), 200, an_answer()) == []
    assert violations(a_request(), 204, b"") == []


@pytest.mark.parametrize(
    "imp",
    [
        {"id": 1, "banner": {"w": 300, "h": 250}},
        {"id": "1", "banner": {"w": "300", "h": "250"}},
        {"id": "1", "banner": {"w": 300.0, "h": 250.0}},
    ],
)
def test_numbers_sent_as_text_and_text_as_numbers_name_the_same(imp):
    assert violations(a_request(imp=[imp]), 200, an_answer()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"impid": "9"}, "impid 9 is not in the request"),
        ({"price": 0.5}, "price 0.5 below the floor 1.0 USD"),
        ({"price": "2"}, "price '2'"),
        ({"price": 0}, "price 0"),
        ({"w": 728}, "size 728x250 was not offered"),
        ({"crid": ""}, "bid without crid"),
        ({"adomain": []}, "bid without adomain"),
        ({"adomain": ["www.Rival.example"]}, "advertiser www.Rival.example is blocked"),
        ({"cat": ["IAB7-39"]}, "category IAB7-39 is blocked"),
        ({"dealid": "d"}, "deal d was not offered"),
        ({"adomain": ["https://shop.example/"]}, "adomain https://shop.example/ is no domain"),
        ({"adm": '<img src="https://a.example/?p=%24%7BAUCTION_PRICE%7D">'}, "adm hides its macros"),
        ({"nurl": "https://a.example/?p=$%7bAUCTION_PRICE%7d"}, "nurl hides its macros"),
        ({"adm": '<a href="${CLICK_URL}">x</a>'}, "adm with a macro that no exchange replaces"),
    ],
)
def test_every_fault_of_a_bid_is_named(changes, problem):
    assert problem in violations(a_request(), 200, an_answer(**changes))


@pytest.mark.parametrize(
    ("request_changes", "bid_changes", "problem"),
    [
        ({"id": "other"}, {}, "id is not the request's"),
        ({"cur": ["EUR"]}, {}, "cur USD was not offered"),
        ({"wseat": ["t"]}, {}, "seat s is not in wseat"),
        ({"badv": ["http://www.Shop.example/*"]}, {}, "advertiser shop.example is blocked"),
        ({"bcat": ["iab20"]}, {}, "category IAB20 is blocked"),
        (
            {"imp": [an_imp(banner={"w": 300, "h": 250, "btype": [4]})]},
            {"adm": "<IFRAME src=x>"},
            "btype blocks iframes",
        ),
        ({"imp": [an_imp(secure=1)]}, {"adm": "<script src=HTTP://a.example/>"}, "http asset on a secure page"),
        ({"imp": [an_imp(secure=1)]}, {"adm": "<b style='a:url(http://a/)'>"}, "http asset on a secure page"),
        ({"imp": [an_imp(pmp={"private_auction": 1, "deals": []})]}, {}, "open bid in a private auction"),
        ({"imp": [an_imp(banner={"w": 300, "h": 250, "battr": [3]})]}, {"attr": [3]}, "blocked creative attribute 3"),
        ({"imp": [{"id": "1", "video": {}}]}, {"mtype": 1}, "banner for an impression without one"),
        (
            {"imp": [an_imp(secure=1)]},
            {"adm": '<img src="http://cdn.example/a.png">'},
            "http asset on a secure page",
        ),
    ],
)
def test_what_a_request_restricts_is_held_against_the_bid(request_changes, bid_changes, problem):
    assert violations(a_request(**request_changes), 200, an_answer(**bid_changes)) == [problem]


@pytest.mark.parametrize(("price", "found"), [(1.25, []), (1.0, ["price 1.0 is not the deal's fixed price 1.0"])])
def test_a_fixed_price_is_compared_in_dollars(price, found):
    """A euro of 1.25 dollars."""
    imp = an_imp(bidfloor=0, pmp={"deals": [{"id": "d", "at": 3, "bidfloor": 1.0, "bidfloorcur": "EUR"}]})
    told = violations(a_request(imp=[imp]), 200, an_answer(dealid="d", price=price), {"USD": 1.0, "EUR": 1.25})
    assert [problem for problem in told if "fixed" in problem] == found


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [(500, b"", "status 500"), (0, b"", "status 0"), (200, b"{", "body is not JSON"), (204, b"x", "204 with a body")],
)
def test_errors_and_garbage_are_no_answers(status, body, problem):
    assert violations(a_request(), status, body) == [problem]


MALFORMED = "HTTP 400 with no body"
MISSING = "HTTP 400 with no body (204, or 200 with nbr 2, is tolerable); never a bid"
UNUSABLE = "no bid on the affected imp (204 or 200+nbr if no other imp); never 5xx"
ANY = "well-formed for a bidder: any valid answer; never 5xx"


@pytest.mark.parametrize(
    ("expect", "status", "answer", "met"),
    [
        (MALFORMED, 400, b"", True),
        (MALFORMED, 400, b"why", False),
        (MALFORMED, 204, b"", False),
        (MISSING, 400, b"", True),
        (MISSING, 204, b"", True),
        (MISSING, 200, b'{"id":"r","nbr":2}', True),
        (MISSING, 200, an_answer(), False),
        (UNUSABLE, 204, b"", True),
        (UNUSABLE, 200, an_answer(), False),
        (ANY, 200, an_answer(), True),
        (ANY, 413, b"", True),
        (ANY, 503, b"", False),
        (ANY, 0, b"", False),
    ],
)
def test_a_broken_body_gets_what_its_expectation_says(expect, status, answer, met):
    sent = json.dumps(a_request()).encode()
    assert expectation_met(expect, "no media object", sent, status, answer) is met


def test_only_the_impression_at_fault_must_stay_without_a_bid():
    sent = json.dumps(a_request(imp=[an_imp(), an_imp(id="2", banner=None)])).encode()
    assert affected("imp[1] has no media object", sent) == {"2"}
    assert expectation_met(UNUSABLE, "imp[1] has no media object", sent, 200, an_answer())
    assert not expectation_met(UNUSABLE, "imp[0] has no media object", sent, 200, an_answer())


def test_an_unreadable_200_counts_as_a_bid_on_something():
    assert bid_imps(200, b"{") == ["?"]
    assert bid_imps(204, b"") == []
