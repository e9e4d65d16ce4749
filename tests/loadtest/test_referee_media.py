"""Every fault of a video, audio, native or pod answer is seen by the referee, and a sound answer is left alone."""

import copy
import json

import pytest

from loadtest.referee import violations

VAST = (
    '<VAST version="3.0"><Ad id="c"><InLine><AdSystem>s</AdSystem><AdTitle>t</AdTitle>'
    "<Impression><![CDATA[https://b.example/i]]></Impression><Creatives><Creative><Linear><Duration>00:00:15</Duration>"
    '<MediaFiles><MediaFile delivery="progressive" type="video/mp4" width="640" height="360">https://c.example/v.mp4</MediaFile></MediaFiles>'
    "</Linear></Creative></Creatives></InLine></Ad></VAST>"
)
VIDEO = {"mimes": ["video/mp4"], "protocols": [3], "minduration": 5, "maxduration": 30, "w": 640, "h": 480}
NATIVE = {
    "ver": "1.2",
    "assets": [{"id": 1, "required": 1, "title": {"len": 20}}, {"id": 2, "img": {"type": 3, "w": 300, "h": 250}}],
    "eventtrackers": [{"event": 1, "methods": [1]}],
}
GIVEN = {
    "ver": "1.2",
    "assets": [
        {"id": 1, "title": {"text": "A title"}},
        {"id": 2, "img": {"url": "https://c.example/a.jpg", "w": 300, "h": 250}},
    ],
    "link": {"url": "https://b.example/click"},
    "eventtrackers": [{"event": 1, "method": 1, "url": "https://b.example/imp"}],
}


def judged(imp, *bids, **request):
    base = {"id": "b", "impid": "1", "price": 2.0, "crid": "c", "adomain": ["a.example"]}
    answer = {"id": "r", "seatbid": [{"seat": "s", "bid": [base | {"id": f"b{i}"} | b for i, b in enumerate(bids)]}]}
    return violations({"id": "r", "imp": [{"id": "1", **imp}], **request}, 200, json.dumps(answer).encode())


def a_video(**changes):
    return {"mtype": 2, "adm": VAST, "protocol": 3, "dur": 15, "w": 640, "h": 360} | changes


def test_sound_answers_are_left_alone():
    assert judged({"video": VIDEO, "secure": 1}, a_video()) == []
    assert (
        judged({"native": {"request": json.dumps(NATIVE)}, "secure": 1}, {"mtype": 4, "adm": json.dumps(GIVEN)}) == []
    )


@pytest.mark.parametrize(
    ("offered", "bid", "problem"),
    [
        ({"mimes": ["video/webm"]}, {}, "is in mimes"),
        ({"protocols": [2]}, {}, "protocol 3 is not accepted"),
        ({}, {"protocol": 2}, "but the markup is 3"),
        ({}, {"dur": 30}, "but the markup says"),
        ({"maxduration": 10}, {}, "outside"),
        ({"maxduration": 10, "maxextended": 4}, {}, "outside"),
        ({"rqddurs": [30]}, {}, "rqddurs"),
        ({"linearity": 2}, {}, "non-linear"),
        ({"skip": 1}, {"attr": [16]}, "attr 16"),
        ({"battr": [1]}, {"attr": [1]}, "blocked creative attribute"),
        ({}, {"apis": [7]}, "api 7"),
        ({"w": 320}, {}, "larger than the player"),
        ({"mincpmpersec": 0.2}, {}, "below the floor"),
        ({"durfloors": [{"mindur": 10, "bidfloor": 3}]}, {}, "below the floor"),
        ({}, {"adm": "<VAST"}, "not XML"),
        ({}, {"adm": "<html/>"}, "no ad document"),
        ({}, {"adm": VAST.replace("https://b.example/i", "")}, "Impression without an address"),
        ({}, {"adm": VAST.replace("https://c", "http://c")}, "http on a secure page"),
        ({}, {"mtype": 1}, "banner for an impression without one"),
        ({}, {"slotinpod": 1}, "slotinpod outside"),
    ],
)
def test_every_fault_of_a_video_is_named(offered, bid, problem):
    found = judged({"video": VIDEO | offered, "secure": 1}, a_video(**bid))
    assert [one for one in found if problem in one], found


@pytest.mark.parametrize(
    ("bids", "pod", "problem"),
    [
        (2, {"poddur": 20}, "longer than"),
        (2, {"poddur": 60, "maxseq": 1}, "in a pod of 1"),
        (1, {"poddur": 10}, "longer"),
    ],
)
def test_a_pod_too_full_is_seen(bids, pod, problem):
    found = judged({"video": VIDEO | pod}, *(a_video() for _ in range(bids)))
    assert [one for one in found if problem in one], found
    assert judged({"video": VIDEO | {"poddur": 30, "maxseq": 2}}, a_video(), a_video()) == []


def _title(answer):
    answer["assets"][0]["title"]["text"] = "A title that is much too long"


def _size(answer):
    answer["assets"][1]["img"]["w"] = 301


def _missing(answer):
    del answer["assets"][0]


def _foreign(answer):
    answer["assets"].append({"id": 9, "data": {"value": "x"}})


def _twice(answer):
    answer["assets"].append(answer["assets"][0])


def _event(answer):
    answer["eventtrackers"][0]["event"] = 2


def _link(answer):
    del answer["link"]


def _plain(answer):
    answer["eventtrackers"][0]["url"] = "http://b.example/imp"


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_title, "characters where 20 fit"),
        (_size, "where 300 was asked for"),
        (_missing, "required asset 1 is missing"),
        (_foreign, "asset 9 was not asked for"),
        (_twice, "asset 1 twice"),
        (_event, "was not offered"),
        (_link, "link is missing"),
        (_plain, "http tracker"),
    ],
)
def test_every_fault_of_a_native_answer_is_named(spoil, problem):
    answer = copy.deepcopy(GIVEN)
    spoil(answer)
    found = judged({"native": {"request": json.dumps(NATIVE)}, "secure": 1}, {"mtype": 4, "adm": json.dumps(answer)})
    assert [one for one in found if problem in one], found


@pytest.mark.parametrize(
    ("adm", "problem"),
    [(GIVEN, "not text"), (json.dumps(json.dumps(GIVEN)), "twice"), (json.dumps({"native": GIVEN}), "wrapped")],
)
def test_native_markup_in_another_form_is_seen(adm, problem):
    found = judged({"native": {"request": json.dumps(NATIVE)}}, {"mtype": 4, "adm": adm})
    assert [one for one in found if problem in one], found


@pytest.mark.parametrize(
    ("request_fields", "bid", "problem"),
    [
        ({"cattax": 6, "bcat": ["1"]}, {"cat": ["IAB1"]}, "cannot be compared"),
        ({"acat": ["IAB2"]}, {"cat": ["IAB1"]}, "not in acat"),
        ({"bapp": ["com.x"]}, {"bundle": "com.x"}, "app com.x is blocked"),
        ({"wlang": ["en"]}, {}, "language unknown"),
        ({"bseat": ["s"]}, {}, "bseat"),
    ],
)
def test_restrictions_of_the_request_hold_for_every_medium(request_fields, bid, problem):
    found = judged({"video": VIDEO}, a_video(**bid), **request_fields)
    assert [one for one in found if problem in one], found


@pytest.mark.parametrize("extended", [5, -1])
def test_an_extended_ad_may_be_longer(extended):
    assert judged({"video": VIDEO | {"maxduration": 10, "maxextended": extended}}, a_video()) == []


FOUR = (
    VAST.replace('version="3.0"', 'version="4.2" xmlns="http://www.iab.com/VAST"')
    .replace("<AdTitle>t</AdTitle><Impression>", "<Impression>")
    .replace("</Impression>", "</Impression><AdServingId>i</AdServingId><AdTitle>t</AdTitle>")
    .replace("</Linear>", '</Linear><UniversalAdId idRegistry="unknown">u</UniversalAdId>')
)


def test_a_sound_document_of_version_4_is_left_alone():
    assert judged({"video": VIDEO | {"protocols": [13]}}, a_video(adm=FOUR, protocol=13)) == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (' xmlns="http://www.iab.com/VAST"', "", "in the namespace None"),
        ("<AdServingId>i</AdServingId>", "", "InLine without AdServingId"),
        ("<AdTitle>t</AdTitle>", "", "InLine without AdTitle"),
        ("<AdSystem>s</AdSystem>", "", "InLine without AdSystem"),
        (
            "<AdServingId>i</AdServingId><AdTitle>t</AdTitle>",
            "<AdTitle>t</AdTitle><AdServingId>i</AdServingId>",
            "order",
        ),
        ("<AdTitle>t</AdTitle>", "<AdTitle>t</AdTitle><AdTitle>t</AdTitle>", "AdTitle twice"),
        ("<AdTitle>t</AdTitle>", "<AdTitle>t</AdTitle><Titel/>", "Titel in InLine"),
        ('<UniversalAdId idRegistry="unknown">u</UniversalAdId>', "", "without UniversalAdId"),
        (' idRegistry="unknown"', "", "without its attributes"),
        ("<Duration>00:00:15</Duration>", "<Duration>15</Duration>", "Duration 15"),
        ("<MediaFiles>", "<VideoClicks/><MediaFiles>", "Linear out of order"),
        (' delivery="progressive"', "", "MediaFile without delivery"),
        ('width="640"', 'width="wide"', "whose size is no number"),
        (
            "<Duration>",
            '<TrackingEvents><Tracking event="begin">x</Tracking></TrackingEvents><Duration>',
            "event begin",
        ),
        ('<Ad id="c">', '<Ad id="d"/><Ad id="c">', "without one ad"),
        ('version="4.2"', 'version="5.0"', "has no schema"),
    ],
)
def test_every_departure_from_the_schema_is_named(before, after, problem):
    assert before in FOUR
    found = judged({"video": VIDEO | {"protocols": [13]}}, a_video(adm=FOUR.replace(before, after), protocol=13))
    assert [one for one in found if problem in one], found


@pytest.mark.parametrize(
    ("offered", "bid", "problem"),
    [
        ({"wratio": 16, "hratio": 9}, {"wratio": 16, "hratio": 9}, None),
        ({"wratio": 16, "hratio": 9}, {"wratio": 4, "hratio": 3}, "was not offered"),
        ({"wratio": 16, "hratio": 9}, {"w": 1600, "h": 900}, "was not offered"),
        ({"w": 300, "h": 250}, {"wratio": 6, "hratio": 5}, "was not offered"),
    ],
)
def test_a_ratio_is_answered_by_the_ratio(offered, bid, problem):
    found = judged({"banner": {"format": [offered]}}, {"mtype": 1, "adm": "<b>x</b>"} | bid)
    assert [one for one in found if problem and problem in one] if problem else found == []


@pytest.mark.parametrize(
    ("settings", "other", "problem"),
    [
        ([1], {}, "adomain a.example twice in pod p"),
        ([2], {"adomain": ["b.example"]}, "cat IAB1 twice in pod p"),
        ([3], {"adomain": ["b.example"], "cat": ["IAB2"]}, "crid c twice in pod p"),
        ([1], {"adomain": ["b.example"]}, None),
        ([], {}, None),
    ],
)
def test_ads_that_the_seller_would_drop_from_a_pod_are_seen(settings, other, problem):
    slot = {"video": VIDEO | {"podid": "p", "poddedupe": settings}}
    base = {"price": 2.0, "crid": "c", "adomain": ["a.example"], "cat": ["IAB1"]} | a_video()
    bids = [base | {"id": "b1", "impid": "1"}, base | {"id": "b2", "impid": "2"} | other]
    body = json.dumps({"id": "r", "seatbid": [{"seat": "s", "bid": bids}]}).encode()
    found = violations({"id": "r", "imp": [{"id": "1"} | slot, {"id": "2"} | slot]}, 200, body)
    assert found == ([problem] if problem else [])
