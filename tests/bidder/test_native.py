import itertools
import json

import msgspec
import pytest

from bidder import native
from bidder.creatives import NativeAd
from bidder.fitting import REMEMBERED_BYTES, Fitting
from bidder.native import answer, native_shape, read, suits
from bidder.openrtb_media import Native
from bidder.reasons import Reason
from bidder.remembered import weight
from tests.bidder.factories import a_creative

AD = msgspec.convert(
    {
        "titles": ["A title of twenty-six chars", "Short"],
        "icons": [{"url": "https://c.example/i.png", "w": 80, "h": 80}],
        "images": [
            {"url": "https://c.example/m.jpg", "w": 1200, "h": 627},
            {"url": "https://c.example/s.jpg", "w": 300, "h": 250},
        ],
        "data": {"sponsored": ["Acme"], "desc": ["A longer description", "Brief"], "ctatext": ["Buy"]},
        "privacy_url": "https://acme.example/privacy",
    },
    NativeAd,
)
SHAPE = native_shape(AD)


def asking(*assets, **fields):
    return json.dumps({"ver": "1.2", "assets": list(assets)} | fields)


def answered(text):
    return answer(AD, read(text), "CLICK", "PIXEL", "VIEW", lambda version: f"<VAST {version}/>")


@pytest.mark.parametrize(
    "text",
    [
        asking({"id": 7, "title": {"len": 30}}),
        json.dumps({"native": json.loads(asking({"id": 7, "title": {"len": 30}}))}),
        json.dumps(asking({"id": 7, "title": {"len": 30}})),
    ],
    ids=["plain", "wrapped", "encoded twice"],
)
def test_a_request_is_read_in_every_form_it_comes_in(text):
    assert [asset.id for asset in read(text).assets] == [7]


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"assets":[]}', asking({"title": {}}), "[" * 5000])
def test_what_asks_for_nothing_or_cannot_be_read_is_nothing(text):
    assert read(text) is None


def test_asset_ids_used_twice_cannot_be_answered():
    assert read(asking({"id": 1, "title": {}}, {"id": 1, "data": {"type": 2}})) is None


@pytest.mark.parametrize(
    ("asset", "fits"),
    [
        ({"title": {"len": 25}}, True),
        ({"title": {"len": 4}}, False),
        ({"title": {}}, True),
        ({"data": {"type": 1}}, True),
        ({"data": {"type": 1, "len": 3}}, False),
        ({"data": {"type": 3}}, False),
        ({"data": {"type": 500}}, False),
        ({"img": {"type": 1, "w": 80, "h": 80}}, True),
        ({"img": {"type": 1, "w": 81, "h": 80}}, False),
        ({"img": {"type": 3, "wmin": 300, "hmin": 200}}, True),
        ({"img": {"type": 3, "wmin": 1201, "hmin": 1}}, False),
        ({"img": {"type": 3, "w": 300, "h": 250, "mimes": ["image/jpg"]}}, True),
        ({"img": {"type": 3, "w": 300, "h": 250, "mimes": ["image/png"]}}, False),
        ({"video": {"mimes": ["video/mp4"]}}, False),
    ],
)
def test_a_required_asset_decides_whether_an_ad_fits(asset, fits):
    request = read(asking({"id": 1, "required": 1} | asset, {"id": 2, "data": {"type": 12}}))
    assert suits(SHAPE, request) is fits
    optional = read(asking({"id": 1} | asset, {"id": 2, "data": {"type": 12}}))
    assert suits(SHAPE, optional)


def test_the_longest_text_that_fits_and_the_nearest_picture_are_chosen():
    found = answered(
        asking(
            {"id": 1, "title": {"len": 10}},
            {"id": 2, "data": {"type": 2, "len": 100}},
            {"id": 3, "img": {"type": 3, "w": 320, "wmin": 200, "h": 200, "hmin": 100}},
            {"id": 4, "data": {"type": 3}},
        )
    )
    assert found["assets"] == [
        {"id": 1, "title": {"text": "Short"}},
        {"id": 2, "data": {"value": "A longer description"}},
        {"id": 3, "img": {"url": "https://c.example/s.jpg", "w": 300, "h": 250}},
    ]
    assert found["link"] == {"url": "CLICK"}


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (None, {"imptrackers": ["PIXEL"]}),
        ([{"event": 1, "methods": [1, 2]}], {"eventtrackers": [{"event": 1, "method": 1, "url": "PIXEL"}]}),
        (
            [{"event": 1, "methods": [1]}, {"event": 2, "methods": [1]}],
            {
                "eventtrackers": [
                    {"event": 1, "method": 1, "url": "PIXEL"},
                    {"event": 2, "method": 1, "url": "VIEW"},
                ]
            },
        ),
        ([{"event": 2, "methods": [2]}], {"eventtrackers": [], "imptrackers": ["PIXEL"]}),
    ],
)
def test_only_offered_events_and_methods_are_used(offered, expected):
    found = answered(asking({"id": 1, "title": {}}, **({} if offered is None else {"eventtrackers": offered})))
    assert {key: found[key] for key in ("eventtrackers", "imptrackers") if key in found} == expected


@pytest.mark.parametrize(("version", "wrapped"), [("1.0", True), ("1", True), ("1.1", False), ("1.2", False)])
def test_only_the_first_version_wraps_its_answer(version, wrapped):
    assert ("native" in answered(asking({"id": 1, "title": {}}, ver=version))) is wrapped


def test_privacy_is_answered_where_it_is_supported():
    assert "privacy" not in answered(asking({"id": 1, "title": {}}))
    assert answered(asking({"id": 1, "title": {}}, privacy=1))["privacy"] == "https://acme.example/privacy"


def test_a_version_of_no_known_kind_does_not_break_the_reading():
    assert native.read(asking({"id": 1, "title": {}}, ver=1.2)) is not None


@pytest.mark.rule("S-04")
def test_objects_made_to_fill_memory_are_neither_read_nor_remembered():
    fitting = Fitting([(a_creative(image_url="", w=0, h=0, native={"titles": ["Sale"]}), frozenset(), frozenset())])
    text = asking({"id": 1, "title": {"len": 9}}, ext="x" * 9_000)
    assert read(text) is None
    assert fitting.native(Native(request=text))[Reason.ASSETS] == 0
    assert fitting.native(Native(request=asking({"id": 1, "title": {"len": 9}})))[Reason.ASSETS] == 1
    assert len(fitting._by_native) == 1


@pytest.mark.rule("S-04")
def test_ever_new_objects_take_no_more_memory_than_was_meant_for_them():
    fitting = Fitting([(a_creative(image_url="", w=0, h=0, native={"titles": ["Sale"]}), frozenset(), frozenset())])
    for i in range(3_000):
        fitting.native(Native(request=asking({"id": 1, "title": {"len": 9}}, ext="x" * 1_000), battr=(i,)))
    assert 0 < sum(map(weight, fitting._by_native)) <= REMEMBERED_BYTES
    assert len(fitting._by_native) < 3_000


@pytest.mark.rule("S-04")
def test_lists_that_hash_alike_are_judged_but_not_kept():
    fitting = Fitting([(a_creative(image_url="", w=0, h=0, native={"titles": ["Sale"]}), frozenset(), frozenset())])
    text = asking({"id": 1, "title": {"len": 9}})
    for battr in itertools.product((-1, -2), repeat=4):
        assert fitting.native(Native(request=text, battr=battr))[Reason.ASSETS] == 1
    assert len(fitting._by_native) == 1  # the one without -2
