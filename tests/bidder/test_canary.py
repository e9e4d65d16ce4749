"""Ids that nobody may keep, sent through every endpoint of a running bidder, and then looked for everywhere (P-64).

A request that may not use ids leaves no trace of them at all, not even a pseudonym (P-50, P-52); one that may leaves
pseudonyms only (P-60).
"""

import logging
import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import md5, sha1, sha256
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import redis

from bidder.app import Service
from bidder.config import BidderConfig
from bidder.tokens import Token
from dmp import events, keys
from dmp.events import Bid
from dmp.optout import set_marks
from dmp.pseudonym import KeyRing, load_key
from dmp.store import Store
from tests.bidder.consent_strings import VENDOR, gpp, tc, us
from tests.bidder.factories import a_body

CAMPAIGN = """
[[campaign]]
id = "acme"
advertiser = "acme"
adomain = "acme.example"
cat = ["IAB20"]
goal = "cpm"
price_micros = 2_000_000
daily_budget_micros = 1_000_000_000
{more}
[[campaign.creatives]]
id = "acme-1"
w = 300
h = 250
image_url = "https://cdn.acme.example/a.png"
landing_url = "https://acme.example/"
"""
COOKIE, IFA, EXCHANGE_ID = "canary-cookie-5512", "ca9a4700-1111-4222-8333-c0ffee5512aa", "canary-exchange-5512"
EID, NAME, YOB = "canary-eid-5512", "canary-5512", 1955
IP, IPV6 = "198.51.100.213", "2001:db8:ca9a:4700:1111:2222:3333:5512"
SECRET = "secret-of-the-operator"
RAW = [COOKIE, IFA, EXCHANGE_ID, EID, IP, IPV6, NAME]
TRACES = [
    form
    for raw in RAW
    for form in (raw, raw.upper(), *(digest(raw.encode()).hexdigest() for digest in (md5, sha1, sha256)))
]
USER_KEYS = re.compile(rb"(prof|aud|fc|seen):\{[\w-]{22}\}")
NON_CONSENTED: dict[str, dict[str, Any]] = {
    "coppa": {"regs": {"gdpr": 0, "coppa": 1}},
    "lmt": {"device": {"lmt": 1}},
    "dnt": {"device": {"dnt": 1}},
    "gdpr without consent": {"regs": {"gdpr": 1}},
    "gdpr with consent refused": {"regs": {"gdpr": 1}, "user": {"consent": tc(consent=(2, 7))}},
    "gdpr with a broken string": {"regs": {"gdpr": 1}, "user": {"consent": tc()[:40]}},
    "us privacy": {"regs": {"gdpr": 0, "us_privacy": "1YYN"}},
    "gpc": {"regs": {"gdpr": 0, "ext": {"gpc": "1"}}},
    "gpp": {"regs": {"gdpr": 0, "gpp": gpp({7: us(7, sale=1)}), "gpp_sid": [7]}},
    "nobody knows whether gdpr applies": {"regs": {}, "device": {"geo": {"lat": 48.13743, "lon": 11.57549}}},
}


def a_body_with_ids(**changes: dict[str, Any]) -> bytes:
    body = a_body(
        user={
            "id": EXCHANGE_ID,
            "buyeruid": COOKIE,
            "yob": YOB,
            "customdata": NAME,
            "eids": [{"source": "e.example", "uids": [{"id": EID}]}],
            "ext": {"eids": [{"source": "e.example", "uids": [{"id": EID}]}]},
        },
        device={
            "ifa": IFA,
            "ip": IP,
            "ipv6": IPV6,
            "didsha1": sha1(IFA.encode(), usedforsecurity=False).hexdigest(),
            "geo": {"country": "USA", "lat": 40.712776, "lon": -74.005974},
        },
        regs={"gdpr": 0},
        # What a person typed may be a name: models see the standard tags it stands for, nothing keeps the words.
        site={"domain": "news.example", "search": f"{NAME}, travel", "page": f"https://news.example/?q={NAME}"},
    )
    for name, fields in changes.items():
        body[name] = (body[name] if name != "regs" else {}) | fields
    return msgspec.json.encode(body)


@asynccontextmanager
async def running(
    tmp_path: Path, store: Store, more: str = "", **settings: Any
) -> AsyncIterator[tuple[Service, str, str]]:
    campaigns = tmp_path / "campaigns.toml"
    campaigns.write_text(CAMPAIGN.format(more=more))
    config = msgspec.convert(
        {
            "port": 0,
            "admin_port": 0,
            "campaigns": str(campaigns),
            "models_dir": str(tmp_path / "models"),
            "gvl_id": VENDOR,
            "tcf_consent": list(range(1, 12)),
        }
        | settings,
        BidderConfig,
    )
    service = Service(config, tmp_path / "data", store)
    urls = await service.start()
    try:
        yield service, *urls
    finally:
        await service.stop()


async def said(
    http: aiohttp.ClientSession, method: str, url: str, more_headers: Mapping[str, str] | None = None, **more: Any
) -> tuple[int, bytes]:
    """Status, and everything that came back, headers included."""
    headers = {
        **(more_headers or {}),
        "Cookie": f"uid={COOKIE}",
        "X-Forwarded-For": IP,
        "Referer": f"https://page.example/{NAME}",
    }
    async with http.request(method, url, headers=headers, allow_redirects=False, **more) as answer:
        return answer.status, await answer.read() + b"\n".join(b": ".join(pair) for pair in answer.raw_headers)


async def bid(http: aiohttp.ClientSession, public: str, body: bytes) -> dict[str, Any]:
    status, whole = await said(http, "POST", f"{public}/bid/x", data=body)
    assert status == 200
    assert not [trace for trace in TRACES if trace.encode() in whole]
    found: dict[str, Any] = msgspec.json.decode(whole[: whole.rindex(b"}") + 1])["seatbid"][0]["bid"][0]
    return found


def urls_of(found: dict[str, Any]) -> list[str]:
    """Every URL of a bid, as an exchange and a browser would call it."""
    price = str(found["price"])
    inside = re.findall(r'(?:href|src)="(http://127[^"]+)"', found["adm"])
    notices = [found["nurl"], found["burl"], found["lurl"]]
    return [
        url.replace("&amp;", "&").replace("${AUCTION_PRICE}", price).replace("${AUCTION_LOSS}", "102")
        for url in (*notices, *inside)
    ]


def token_of(service: Service, url: str) -> Token:
    return service.signer.read(url.partition("t=")[2].partition("&")[0])


def everything_in(client: redis.Redis) -> bytes:
    """Every key of the store with its value, as text."""
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"stream": client.xrange,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    found = []
    for key in client.scan_iter():
        value = read[client.type(key)](key)
        found.append(key + b" " + (value if isinstance(value, bytes) else repr(value).encode()))
    return b"\n".join(found)


def files_in(folder: Path) -> bytes:
    return b"\n".join(path.name.encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


def bids_in(folder: Path) -> list[Bid]:
    return [
        found for path in sorted(folder.glob("*.mpk")) for found in events.read_file(path) if isinstance(found, Bid)
    ]


def pseudonyms(data_dir: Path) -> list[bytes]:
    """Every form our own pseudonyms of the canaries could take."""
    ring = KeyRing(load_key(data_dir / "pseudonym.key"))
    uids = [
        ring.uid("cookie", COOKIE),
        ring.uid("device", IFA),
        ring.uid("exchange", f"x:{EXCHANGE_ID}"),
        ring.uid("exchange", EXCHANGE_ID),
        ring.uid("cookie", EID),
    ]
    assert None not in uids
    return [form for uid in uids if uid for form in (uid, keys.text(uid), uid.hex().encode())]


@pytest.mark.rule("P-64")
@pytest.mark.parametrize("lane", [True, False])
async def test_ids_of_those_who_did_not_agree_leave_no_trace_anywhere(
    tmp_path: Path,
    store: Store,
    client: redis.Redis,
    lane: bool,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = b""
    settings: dict[str, Any] = {"trace_token": SECRET, "advertisers": {"acme": {"token": SECRET}}, "funnel_every": 1}
    async with (
        running(tmp_path, store, lane=lane, **settings) as (service, public, admin),
        aiohttp.ClientSession() as http,
    ):
        clicks = set()
        for name, changes in NON_CONSENTED.items():
            body = a_body_with_ids(**changes)
            found = await bid(http, public, body)
            secrets = {"X-Tagbid-Trace": SECRET, "Authorization": f"Bearer {SECRET}"}
            status, told = await said(http, "POST", f"{public}/trace/x", data=body, more_headers=secrets)
            assert (status, b"not permitted" in told) == (200, True), name
            seen += told
            for url in urls_of(found):
                if "/click?" in url:
                    click, query = (
                        url.partition("t=")[2].partition("&")[0],
                        f"&o={EID}&v=1&cur=USD&uid={COOKIE}&{NAME}=",
                    )
                    clicks.add(click)
                    seen += (await said(http, "GET", f"{public}/conv?t={click}&o={IFA}{query}"))[1]
                    postback = f"{public}/postback/acme?t={click}{query}"
                    assert (await said(http, "POST", postback, data=NAME, more_headers=secrets))[0] == 204
                assert token_of(service, url).uid is None, name  # P-52
                seen += url.encode() + (await said(http, "GET", f"{url}&uid={COOKIE}&l={NAME}&p={NAME}"))[1]
        for broken in (b"{" + NAME.encode(), b'{"id":"' + NAME.encode() + b'"}', f'["{COOKIE}"]'.encode()):
            seen += (await said(http, "POST", f"{public}/bid/x", data=broken))[1]
        for path in ("win", "bill", "loss", "imp", "click", "view", "vast", "conv", "postback/acme", "trace/x"):
            for query in (f"t={COOKIE}&p=1", f"t=&p={NAME}", f"ifa={IFA}"):
                seen += (await said(http, "GET", f"{public}/{path}?{query}"))[1]
                seen += (await said(http, "POST", f"{public}/{path}?{query}", data=COOKIE.encode()))[1]
        seen += (await said(http, "GET", f"{public}/{NAME}"))[1].replace(NAME.encode(), b"")  # a 404 may quote its path
        for path in ("metrics", "health", "ready"):
            seen += (await said(http, "GET", f"{admin}/{path}?uid={COOKIE}"))[1]
    data_dir = tmp_path / "data"
    assert len(bids_in(data_dir / "bidlog")) == len(NON_CONSENTED)
    told_of = [found for path in (data_dir / "bidlog").glob("*.mpk") for found in events.read_file(path)]
    # a device id as order id is dropped, so each click converts once; the postbacks name one order, again and again
    assert sum(isinstance(found, events.Conversion) for found in told_of) == len(clicks) + 1
    seen += everything_in(client) + files_in(data_dir)
    seen += caplog.text.encode() + "".join(capfd.readouterr()).encode()
    assert not [trace for trace in TRACES if trace.encode() in seen]
    assert not [form for form in pseudonyms(data_dir) if form in seen]
    for found in bids_in(data_dir / "bidlog"):
        assert (found.uid, found.user) == (None, None)
    kept = files_in(data_dir / "bidlog") + everything_in(client)
    assert not [form for form in (b"40.712", b"74.005", b"48.137", b"11.575") if form in kept]
    assert not re.search(rb"(?<![\w-])%d(?![\w-])" % YOB, kept)  # within a time or an id these digits are chance


@pytest.mark.rule("P-60")
async def test_ids_of_those_who_agreed_are_kept_as_pseudonyms_only(
    tmp_path: Path, store: Store, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    capped = "caps = [{ limit = 6, window_s = 86_400 }]"
    async with running(tmp_path, store, capped) as (service, public, _), aiohttp.ClientSession() as http:
        found = await bid(http, public, a_body_with_ids(regs={"gdpr": 1}, user={"consent": tc()}))
        for url in urls_of(found):
            assert token_of(service, url).uid is not None
            await said(http, "GET", url)
            sealed = urlsafe_b64decode(url.partition("t=")[2].partition("&")[0] + "==")
            assert not [form for form in pseudonyms(tmp_path / "data") if form in sealed]
    kept = everything_in(client) + files_in(tmp_path / "data") + caplog.text.encode()
    assert not [trace for trace in TRACES if trace.encode() in kept]
    (logged,) = bids_in(tmp_path / "data" / "bidlog")
    assert logged.uid is not None
    assert client.exists(keys.contacts(logged.uid))


@pytest.mark.rule("P-50")
async def test_the_store_is_never_asked_about_those_who_did_not_agree(
    tmp_path: Path, store: Store, client: redis.Redis
) -> None:
    """By the store's own account of its commands; the last request, which may use ids, shows that it would tell."""
    capped = 'caps = [{ limit = 6, window_s = 86_400 }]\ncap_without_user = "bid"'
    watcher = store.sync()
    with watcher.monitor() as monitor:

        def commands() -> list[bytes]:
            client.echo("so far")
            found = []
            while "so far" not in (command := str(monitor.next_command()["command"])):
                found.append(command.encode())
            return found

        async with running(tmp_path, store, capped) as (_, public, _), aiohttp.ClientSession() as http:
            for name, changes in NON_CONSENTED.items():
                for url in urls_of(await bid(http, public, a_body_with_ids(**changes))):
                    await said(http, "GET", url)
                asked = commands()
                assert any(b"notices:" in command for command in asked), name
                assert not [command for command in asked if USER_KEYS.search(command)], name
            for url in urls_of(await bid(http, public, a_body_with_ids())):
                await said(http, "GET", url)
            asked = commands()
            for kind in (b"prof:{", b"aud:{", b"fc:{", b"seen:{"):
                assert any(kind in command for command in asked), kind
    watcher.close()


@pytest.mark.rule("P-16")
@pytest.mark.parametrize(("missing", "kept"), [(7, (False, True)), (10, (True, False)), (9, (True, True))])
async def test_what_is_logged_follows_the_purposes(
    tmp_path: Path, store: Store, missing: int, kept: tuple[bool, bool]
) -> None:
    """The id needs purpose 7, what was known of the user purpose 10."""
    consent = tc(consent=set(range(1, 12)) - {missing})
    async with running(tmp_path, store) as (service, public, _), aiohttp.ClientSession() as http:
        found = await bid(
            http, public, a_body_with_ids(regs={"gdpr": 1}, user={"consent": consent, "buyeruid": COOKIE})
        )
        assert (token_of(service, found["nurl"]).uid is not None) is kept[0]
    (logged,) = bids_in(tmp_path / "data" / "bidlog")
    assert (logged.uid is not None, logged.user is not None) == kept


@pytest.mark.rule("P-32")
async def test_an_opt_out_holds_from_the_next_request_on(tmp_path: Path, store: Store, client: redis.Redis) -> None:
    async with running(tmp_path, store) as (service, public, _), aiohttp.ClientSession() as http:
        china = a_body_with_ids(device={"geo": {"country": "CHN"}})
        for mark, joined in ((None, True), (keys.OPTED_OUT, False), (keys.CHILD, False)):
            if mark is not None:
                uid = KeyRing(load_key(tmp_path / "data" / "pseudonym.key")).uid("cookie", COOKIE)
                assert uid is not None
                set_marks(client, uid, {mark})
            found = await bid(http, public, china)
            assert (token_of(service, found["nurl"]).uid is not None) is joined, mark
    logged = bids_in(tmp_path / "data" / "bidlog")
    assert [entry.uid is not None for entry in logged] == [True, False, False]
    assert [entry.user is not None for entry in logged] == [True, False, False]
