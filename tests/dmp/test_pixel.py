import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import pytest

from dmp import browser, keys, sync
from dmp.errors import ConfigError
from dmp.events import CONSENT_ALL, Cart, View, unpack_ids
from dmp.gif import PIXEL
from dmp.limits import Rates
from dmp.optout import set_marks
from dmp.schema import NO_UID
from dmp.store import Store
from tests.bidder.consent_strings import tc
from tests.dmp.doors import COLLECT, RING, Door, open_door

OURS = "A" * 22


@pytest.fixture
async def door(tmp_path: Path, store: Store) -> AsyncIterator[Door]:
    async with open_door(tmp_path, store) as opened:
        yield opened


def path(**query: str) -> str:
    return "/v1/pixel.gif?" + urlencode({"source": "shop", "kind": "view", **query})


def set_id(headers: object) -> str | None:
    """The id that an answer puts into the browser."""
    found = re.search(rf"{browser.COOKIE}=([\w-]+)", str(getattr(headers, "get")("Set-Cookie", "")))  # noqa: B009
    return found.group(1) if found else None


async def test_a_page_view_becomes_an_event_of_this_browser(door: Door) -> None:
    status, body, headers = await door.ask("GET", path(kind="cart", category="shoes", value_micros="5000000", gdpr="0"))
    assert (status, body, headers["Content-Type"], headers["Cache-Control"]) == (
        200,
        PIXEL,
        "image/gif",
        "no-store",
    )
    ours = set_id(headers)
    assert ours is not None
    (event,) = door.stream()
    assert isinstance(event, Cart)
    assert (event.uid, event.category, event.value_micros) == (RING.uid("cookie", ours), "shoes", 5_000_000)
    assert (event.source, event.consent) == ("shop", CONSENT_ALL)


async def test_a_browser_that_comes_back_is_the_same_user(door: Door) -> None:
    _, _, headers = await door.ask("GET", path(gdpr="0"), headers={"Cookie": f"{browser.COOKIE}={OURS}"})
    assert set_id(headers) == OURS
    assert door.stream()[0].uid == RING.uid("cookie", OURS)


@pytest.mark.parametrize("forged", ["short", "A" * 23, "jo@example.com", "A" * 21 + "%"])
async def test_a_cookie_that_is_none_of_ours_is_replaced(door: Door, forged: str) -> None:
    _, _, headers = await door.ask("GET", path(gdpr="0"), headers={"Cookie": f"{browser.COOKIE}={forged}"})
    assert set_id(headers) not in (None, forged)


async def test_the_cookie_is_out_of_reach_of_scripts(door: Door) -> None:
    _, _, headers = await door.ask("GET", path(gdpr="0"))
    said = headers["Set-Cookie"].lower()
    assert {"httponly", "samesite=lax", "path=/v1", "max-age=15552000"} <= set(said.split("; "))


@pytest.mark.rule("P-16")
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({}, {}),
        ({"gdpr": "1"}, {}),
        ({"gdpr": "no"}, {}),
        ({"gdpr": "1", "gdpr_consent": tc(consent=(3, 4, 7))}, {}),  # no purpose 1: no cookie
        ({"gdpr": "1", "gdpr_consent": tc()[:30]}, {}),
        ({"gdpr": "0", "gdpr_consent": tc(consent=())}, {}),
        ({"gdpr": "0"}, {"Sec-GPC": "1"}),
        ({"gdpr": "0"}, {"DNT": "1"}),
        ({"gdpr": "0", "us_privacy": "1YYN"}, {}),
        ({"gdpr": "0", "us_privacy": "yes"}, {}),
        ({"gdpr": "0", "gpp_sid": "7"}, {}),
    ],
)
async def test_without_permission_no_cookie_is_read_or_set(
    door: Door, query: dict[str, str], headers: dict[str, str]
) -> None:
    sent = {"Cookie": f"{browser.COOKIE}={OURS}", **headers}
    status, _, got = await door.ask("GET", path(**query), headers=sent)
    assert (status, set_id(got)) == (200, None)
    (event,) = door.stream()
    assert (event.uid, event.consent) == (NO_UID, 0)


@pytest.mark.rule("P-16")
async def test_a_consent_string_opens_what_it_says(door: Door) -> None:
    _, _, headers = await door.ask("GET", path(gdpr="1", gdpr_consent=tc(consent=(1, 3, 4))))
    assert set_id(headers) is not None
    assert door.stream()[0].consent == 1


@pytest.mark.rule("P-20")
async def test_a_us_privacy_string_that_allows_the_sale_takes_nothing_away(door: Door) -> None:
    _, _, headers = await door.ask("GET", path(gdpr="0", us_privacy="1YNN", gpp_sid="-1"))
    assert set_id(headers) is not None


async def test_a_page_cannot_say_whose_event_it_is_or_what_it_may_do(door: Door) -> None:
    await door.ask("GET", path(id="victim", id_type="login", consent="7", time_us="1", ip="192.0.2.7"))
    (event,) = door.stream()
    assert isinstance(event, View)
    assert (event.uid, event.consent, event.ip) == (NO_UID, 0, "")
    assert event.time_us > 1


@pytest.mark.parametrize("query", [{"kind": "crm"}, {"kind": ""}, {"value_micros": "-1"}, {"category": "x" * 600}])
async def test_what_is_no_event_gets_the_picture_and_nothing_else(door: Door, query: dict[str, str]) -> None:
    status, body, headers = await door.ask("GET", path(gdpr="0", **query))
    assert (status, body, set_id(headers)) == (202, PIXEL, None)
    assert door.stream() == []


async def test_only_listed_sources_may_send_pixels(door: Door) -> None:
    assert (await door.ask("GET", "/v1/pixel.gif?source=rival&kind=view"))[0] == 404
    assert (await door.ask("GET", "/v1/pixel.gif?kind=view"))[0] == 404


@pytest.mark.rule("P-32")
async def test_who_opted_out_builds_nothing(door: Door) -> None:
    uid = RING.uid("cookie", OURS)
    assert uid is not None
    set_marks(door.client, uid, {keys.OPTED_OUT})
    await door.ask("GET", path(gdpr="0"), headers={"Cookie": f"{browser.COOKIE}={OURS}"})
    assert door.stream()[0].uid == NO_UID


async def test_asking_for_the_headers_of_a_pixel_is_no_event(door: Door) -> None:
    assert (await door.ask("HEAD", path(gdpr="0")))[0] in (401, 405)
    assert door.stream() == []


@pytest.mark.rule("S-26")
async def test_an_address_has_a_rate(tmp_path: Path, store: Store) -> None:
    async with open_door(tmp_path, store, Rates(address_per_s=0.01, address_burst=1)) as door:
        assert [(await door.ask("GET", path()))[0] for _ in range(2)] == [200, 429]


async def test_a_sync_sends_the_browser_on_with_our_id(door: Door) -> None:
    text = tc(consent=(1, 3, 4))
    status, _, headers = await door.ask("GET", f"/v1/sync/exchange?gdpr=1&gdpr_consent={text}")
    target = urlsplit(headers["Location"])
    assert (status, target.scheme, target.netloc, target.path) == (302, "https", "exchange.example", "/match")
    assert parse_qs(target.query) == {"p": ["7"], "u": [set_id(headers)], "gdpr": ["1"], "gdpr_consent": [text]}


SECRET = "0123456789abcdef-of-the-exchange"


def a_sync(theirs: str, secret: str = SECRET, **query: str) -> str:
    signature = hmac.new(secret.encode(), theirs.encode(), hashlib.sha256).hexdigest()
    return "/v1/sync/exchange?" + urlencode({"gdpr": "0", "uid": theirs, "sig": signature, **query})


@pytest.fixture
async def syncing(tmp_path: Path, store: Store) -> AsyncIterator[Door]:
    collect = msgspec.structs.replace(COLLECT, sync_secrets={"exchange": SECRET})
    async with open_door(tmp_path, store, collect=collect) as opened:
        yield opened


@pytest.mark.rule("P-60")
async def test_a_partners_signed_id_is_taken_up_as_the_pseudonym_under_which_it_bids(syncing: Door) -> None:
    status, _, headers = await syncing.ask("GET", a_sync("u-77"), headers={"Cookie": f"{browser.COOKIE}={OURS}"})
    assert status == 302
    assert "u-77" not in headers["Location"]
    (event,) = syncing.stream()
    ours, theirs = RING.uid("cookie", OURS), RING.uid("exchange", "exchange:u-77")
    assert (event.uid, unpack_ids(event.ids)) == (ours, [("cookie", ours), ("exchange", theirs)])
    assert event.source == "sync:exchange"
    await syncing.ask("GET", a_sync("u-77"), headers={"Cookie": f"{browser.COOKIE}={OURS}"})
    assert len({one.event_id for one in syncing.stream()}) == 1, "said again, it is the same event"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/sync/exchange?gdpr=0&uid=u-77",
        a_sync("u-77", sig="00"),
        a_sync("u-77", secret="another secret altogether"),
        a_sync("00000000-0000-0000-0000-000000000000"),
        a_sync("u-77", gdpr="1", gdpr_consent=tc(consent=(1, 4))),
    ],
)
async def test_an_id_without_signature_or_permission_is_not_taken_up(syncing: Door, path: str) -> None:
    assert (await syncing.ask("GET", path))[0] == 302
    assert syncing.stream() == []


async def test_of_a_partner_without_a_secret_no_id_is_taken_up(door: Door) -> None:
    assert (await door.ask("GET", a_sync("u-77")))[0] == 302
    assert door.stream() == []


@pytest.mark.rule("P-16")
@pytest.mark.parametrize("query", ["", "?gdpr=1", f"?gdpr=1&gdpr_consent={tc(consent=(1, 3))}", "?gdpr=no"])
async def test_without_permission_there_is_no_sync(door: Door, query: str) -> None:
    sent = {"Cookie": f"{browser.COOKIE}={OURS}"}
    status, body, headers = await door.ask("GET", f"/v1/sync/exchange{query}", headers=sent)
    assert (status, body, set_id(headers)) == (204, b"", None)
    assert "Location" not in headers


@pytest.mark.rule("S-15")
@pytest.mark.parametrize(
    "attack",
    [
        "/v1/sync/https:%2F%2Fevil.example",
        "/v1/sync/evil.example",
        "/v1/sync/%2e%2e%2fexchange",
        "/v1/sync/exchange?gdpr=0&url=https://evil.example&to=//evil.example&redirect=https:evil.example",
        "/v1/sync/exchange?gdpr=0&gdpr_consent=%26u%3Devil%0d%0aLocation:%20https://evil.example",
        "/v1/sync/exchange?gdpr=https://evil.example",
        "/v1/sync/exchange?gdpr=0&u=${ID}",
    ],
)
async def test_no_sync_goes_anywhere_else(door: Door, attack: str) -> None:
    status, _, headers = await door.ask("GET", attack)
    assert status in (204, 302, 404)
    if status == 302:
        assert urlsplit(headers["Location"]).netloc == "exchange.example"
        assert "evil" not in headers["Location"]


def test_addresses_of_partners_are_checked_at_the_start() -> None:
    sync.check({"a": "https://a.example/m?u=${ID}", "b": "http://b.example:81/${ID}/x"})
    wrong = {
        "no scheme": "a.example/?u=${ID}",
        "script": "javascript:alert('${ID}')",
        "user": "https://u:p@a.example/?u=${ID}",
        "no host": "https:///x?u=${ID}",
        "host from a macro": "https://${ID}.a.example/?u=${ID}",
        "no id": "https://a.example/",
        "line": "https://a.example/\r\nX: ${ID}",
        "port": "https://a.example:x/?u=${ID}",
    }
    with pytest.raises(ConfigError) as told:
        sync.check(wrong)
    for name in wrong:
        assert name in str(told.value)
