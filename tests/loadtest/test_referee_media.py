"""Every fault of a video, audio, native or pod answer is seen by the referee, and a sound answer is left alone."""

import copy
import json

import pytest

from loadtest.referee import violations

VAST = (
    '<VAST version="3.0"><Ad id="c"><InLine><AdSystem>s</AdSystem><AdTitle>t</AdTitle>'
    "<Impression><![CDATA[https://b.example/i]]></Impression><Creatives><Creative><Linear><Duration>00:00:15</Duration>"
    '<MediaFiles><MediaFile type="video/mp4" width="640" height="360">https://c.example/v.mp4</MediaFile></MediaFiles>'
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
        ({}, {"adm": VAST.replace("https://b.example/i", "")}, "without an impression"),
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
