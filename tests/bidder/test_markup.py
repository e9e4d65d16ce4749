import html
import json
import re

import pytest

from bidder.markup import CLICK_MACRO, ad_parts, for_imp, markup
from bidder.vast import TOKEN
from loadtest.auction import fill, images, links
from tests.bidder.factories import a_campaign, a_creative, a_request

URL = "https://bid.example"


def adm(creative, url=URL):
    pieces, _ = for_imp(ad_parts(a_campaign(), creative, url), a_request().imp[0])
    return b"TOKEN".join(pieces).decode()


def filled(text):
    return fill(json.loads(f'"{text}"'), {"AUCTION_PRICE": "1.25"})


def test_an_image_links_to_our_click_url_and_reports_the_impression_with_its_price():
    page = filled(adm(a_creative()))
    assert links(page) == ["https://bid.example/click?t=TOKEN"]
    assert images(page) == ["https://cdn.example/a.png", "https://bid.example/imp?t=TOKEN&p=1.25"]


def test_the_landing_page_is_nowhere_in_the_markup():
    assert "acme.example" not in adm(a_creative(landing_url="https://acme.example/secret"))


def test_html_of_an_advertiser_gets_its_click_url_where_it_asks_for_it():
    page = filled(adm(a_creative(image_url="", html=f'<a href="{CLICK_MACRO}">x</a><a href="{CLICK_MACRO}">y</a>')))
    assert links(page) == ["https://bid.example/click?t=TOKEN"] * 2


def test_html_without_a_link_becomes_one():
    assert links(filled(adm(a_creative(image_url="", html="<b>sale</b>")))) == ["https://bid.example/click?t=TOKEN"]


def test_html_with_links_of_its_own_is_left_alone():
    page = filled(adm(a_creative(image_url="", html='<A HREF="https://acme.example/">x</A>')))
    assert links(page) == ["https://acme.example/"]


@pytest.mark.parametrize(
    "image", ["https://cdn.example/a.png?x=1&y=2", 'https://cdn.example/a"onload="x', "https://cdn.example/<b>"]
)
def test_an_image_address_cannot_leave_its_attribute(image):
    page = filled(adm(a_creative(image_url=image)))
    assert images(page)[0] == image
    assert len(re.findall(r"<", page)) == page.count("<a ") + page.count("<img ") + page.count("</a>")
    assert html.escape(image) in page


def test_text_that_json_escapes_does_not_break_the_pieces():
    creative = a_creative(image_url="", html='<p title="a\\u0000b">\u2028 "q" \\ \n ü</p>')
    assert f'rel="noopener">{creative.html}</a>' in filled(adm(creative))
    assert markup(creative, URL).count(TOKEN) == 2
    assert len(ad_parts(a_campaign(), creative, URL).documents[0]) == 3


@pytest.mark.parametrize(
    ("told", "of_imp", "wrapped"),
    [(None, "1.0", True), ("1.2", "1.0", False), ("1.0", "1.1", True), (None, None, False)],
)
def test_a_native_answer_is_of_the_version_its_request_or_else_its_imp_names(told, of_imp, wrapped):
    creative = a_creative(image_url="", w=0, h=0, native={"titles": ["Sale"]})
    asked = {"ver": told, "assets": [{"id": 1, "title": {"len": 9}}]}
    request = a_request(imp={"banner": None, "native": {"request": json.dumps(asked), "ver": of_imp}})
    pieces, _ = for_imp(ad_parts(a_campaign(), creative, URL), request.imp[0])
    answer = json.loads(filled(b"TOKEN".join(pieces).decode()))
    assert ("native" in answer) is wrapped


def tail(creative, **imp):
    _, found = for_imp(ad_parts(a_campaign(), creative, URL), a_request(imp=imp).imp[0])
    return json.loads(b"{" + found[1:] + b"}")


def test_a_flexible_banner_says_the_ratio_it_fills_or_the_size_that_is_permitted():
    wide = a_creative(w=1600, h=900, flexible=True)
    asked = [{"wratio": 4, "hratio": 3}, {"wratio": 32, "hratio": 18, "wmin": 320}]
    found = tail(wide, banner={"format": asked})
    assert (found["wratio"], found["hratio"], "w" in found, "h" in found) == (32, 18, False, False)
    for banner in ({"format": [*asked, {"w": 1600, "h": 900}]}, {"format": asked, "w": 1600, "h": 900}):
        found = tail(wide, banner=banner)
        assert (found["w"], found["h"], "wratio" in found) == (1600, 900, False)
    assert "width:100%" in filled(adm(wide))
    assert "width:100%" not in filled(adm(a_creative()))


@pytest.mark.parametrize(
    ("told", "sent"),
    [("en", {"language": "en"}), (["de", "fr"], {"language": "de"}), ("en-US", {"langb": "en-US"}), ("", {}), ([], {})],
)
def test_a_language_stands_where_its_kind_belongs(told, sent):
    found = tail(a_creative(language=told))
    assert {name: found[name] for name in ("language", "langb") if name in found} == sent
