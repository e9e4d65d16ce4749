import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.decide import decide
from bidder.openrtb import BadRequest, decode
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy
from bidder.reasons import Reason, nbr
from tests.bidder.factories import EXCHANGE, NOW_US, a_body, a_campaign, a_snapshot, decision

EVERY_SIZE = (
    (300, 250),
    (300, 600),
    (320, 50),
    (728, 90),
    (320, 250),
    (300, 300),
    (300, 50),
    (160, 600),
    (320, 480),
    (970, 250),
    (320, 100),
    (468, 60),
    (640, 400),
    (50, 50),
    (1, 1),
    (600, 500),
    (336, 280),
)


def body(**fields: Any) -> bytes:
    return json.dumps(a_body(**fields)).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"12",
        b"id=1&imp=2",
        b"\xff\xfe",
        b'{"id":"1","imp":[{"id":"1"}]',
        b"{}",
        b'{"id":"1"}',
        b'{"id":"1","imp":[]}',
        b'{"id":"1","imp":null}',
        b'{"id":"1","imp":{"id":"1"}}',
        b'{"id":"","imp":[{"id":"1"}]}',
        b'{"id":null,"imp":[{"id":"1"}]}',
        b'{"id":{},"imp":[{"id":"1"}]}',
        b'{"imp":[{"id":"1"}]}',
        b'{"id":"1","imp":["1"]}',
        b'{"id":"1","at":"x","imp":[]}',
        b'{"id":true,"imp":[{"id":"1"}]}',
    ],
)
def test_what_cannot_be_read_as_a_request_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(raw)


@pytest.mark.rule("S-04")
def test_deep_nesting_and_too_many_imps_are_bad_requests() -> None:
    with pytest.raises(BadRequest):
        decode(b'{"id":"n","imp":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    imps = [{"id": str(i)} for i in range(101)]
    with pytest.raises(BadRequest, match="imps"):
        decode(json.dumps({"id": "1", "imp": imps}).encode())
    assert len(decode(json.dumps({"id": "1", "imp": imps[:100]}).encode()).imp) == 100


@pytest.mark.rule("S-04")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_bad_requests(number: str) -> None:
    with pytest.raises(BadRequest):
        decode(b'{"id":"1","imp":[{"id":"1","bidfloor":' + number.encode() + b"}]}")


def test_unknown_fields_are_ignored_and_null_and_empty_are_absent() -> None:
    request = decode(
        body(site={"domain": None, "cat": None, "nice": [1]}, cur=[], device=None, user=None, what={"a": 1})
    )
    assert request.refuse is None
    assert request.site is not None
    assert request.site.domain is None
    assert not request.cur


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"tmax": 86.0}, lambda r: r.tmax == 86),
        ({"tmax": "120"}, lambda r: r.tmax == 120),
        ({"tmax": "soon"}, lambda r: r.tmax is None),
        ({"at": "1"}, lambda r: r.at == 1),
        ({"at": True}, lambda r: r.at == 1),
        ({"at": ""}, lambda r: r.at is None),
        ({"cur": "EUR"}, lambda r: r.cur == ("EUR",)),
        ({"id": 7}, lambda r: r.id == "7"),
        ({"device": "phone"}, lambda r: r.device is None),
        (
            {"device": {"devicetype": "4", "lmt": True, "geo": {"lat": 99.0, "lon": 5}}},
            lambda r: r.device.devicetype == 4 and r.device.lmt and r.device.geo.lat is None and r.device.geo.lon == 5,
        ),
        (
            {"site": {"publisher": {"id": 12}, "cat": "IAB1,IAB2-3"}},
            lambda r: r.site.publisher.id == "12" and r.site.cat == ("IAB1", "IAB2-3"),
        ),
        ({"user": {"id": 5, "ext": 2}}, lambda r: r.user.id == "5" and r.user.ext is None),
        ({"regs": {"gdpr": "0"}}, lambda r: r.regs.gdpr == 0),
        ({"regs": {"coppa": True}}, lambda r: r.regs.coppa),
        ({"bcat": "IAB25"}, lambda r: r.bcat == ["IAB25"]),
        ({"bcat": "IAB25, IAB26"}, lambda r: r.bcat == ["IAB25", "IAB26"]),
        ({"badv": ["a.example", None]}, lambda r: r.badv == ["a.example"]),
        ({"imp": {"banner": {"w": "300", "h": 250.0}}}, lambda r: (r.imp[0].banner.w, r.imp[0].banner.h) == (300, 250)),
        ({"imp": {"banner": {"w": 300, "h": 250, "format": ["300x250"]}}}, lambda r: r.imp[0].unusable is None),
        ({"imp": {"bidfloor": "0.5"}}, lambda r: r.imp[0].bidfloor == 0.5),
        ({"imp": {"secure": "1"}}, lambda r: r.imp[0].secure == 1),
        ({"imp": {"id": 3}}, lambda r: r.imp[0].id == "3"),
        ({"imp": {"pmp": {"private_auction": True, "deals": {"id": "d"}}}}, lambda r: r.imp[0].pmp.deals[0].id == "d"),
    ],
)
def test_a_wrong_type_with_a_clear_meaning_is_read_and_another_is_unknown(fields: dict[str, Any], read: Any) -> None:
    request = decode(body(**fields))
    assert request.refuse is None
    assert read(request)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"bcat": [25, 26]}, "bcat"),
        ({"bcat": {"a": 1}}, "bcat"),
        ({"badv": [1]}, "badv"),
        ({"wseat": [["a"]]}, "wseat"),
        ({"regs": ["gdpr"]}, "regs"),
        ({"regs": {"gdpr": {"x": 1}}}, "regs.gdpr"),
        ({"regs": {"ext": 5}}, "regs.ext"),
        ({"device": {"lmt": "maybe"}}, "device.lmt"),
    ],
)
def test_an_unreadable_restriction_of_the_request_fails_closed(fields: dict[str, Any], where: str) -> None:
    request = decode(body(**fields))
    assert request.refuse == where
    assert decision(request).reason is Reason.RESTRICTION_UNREADABLE


@pytest.mark.parametrize(
    "imp",
    [
        {"id": None},
        {"id": {"a": 1}},
        {"banner": {"w": 300, "h": 250, "battr": ["x"]}},
        {"bidfloor": "much"},
        {"bidfloor": 1e308},
        {"pmp": 5},
        {"pmp": {"private_auction": "perhaps"}},
        {"pmp": {"deals": [{"bidfloor": 1}]}},
    ],
)
def test_an_unreadable_restriction_of_an_imp_drops_that_imp_only(imp: dict[str, Any]) -> None:
    request = decode(body(imp=[imp, {"id": "fine"}]))
    assert request.imp[0].unusable is not None
    found = decision(request)
    assert not found.offers[0]
    assert found.offers[1]
    assert found.reasons[0] is Reason.IMP_UNUSABLE


def test_every_reason_has_a_code_of_the_standard() -> None:
    assert all(0 <= nbr(reason) <= 17 for reason in Reason)
    assert len(set(Reason)) == len({reason.value for reason in Reason})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "w", "ext", "geo", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
PATHS = (
    "id",
    "imp",
    "at",
    "cur",
    "tmax",
    "bcat",
    "badv",
    "wseat",
    "regs",
    "device",
    "user",
    "site",
    "app",
    "imp.0.banner",
    "imp.0.bidfloor",
    "imp.0.pmp",
    "imp.0.id",
    "device.geo",
    "regs.gdpr",
    "imp.0.banner.format",
    "site.cat",
)


@given(st.sampled_from(PATHS), json_values)
def test_any_value_anywhere_gives_a_request_or_a_bad_request(path: str, value: Any) -> None:
    raw: Any = a_body()
    *trail, last = path.split(".")
    target = raw
    for step in trail:
        target = target[int(step)] if step.isdigit() else target.setdefault(step, {})
    target[last] = value
    try:
        request = decode(json.dumps(raw).encode("utf-8", "surrogatepass"))
    except BadRequest:
        return
    decision(request)


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def every_size_campaigns() -> list[Any]:
    return [a_campaign(id="all", price_micros=10**9, creatives=[{"w": w, "h": h} for w, h in EVERY_SIZE])]


def test_every_real_request_is_read(shared: Path) -> None:
    records = lines(shared / "openrtb" / "requests.jsonl.gz")
    refused = []
    for record in records:
        request = decode(json.dumps(record["request"]).encode())
        assert request.id == record["request"]["id"]
        assert len(request.imp) == len(record["request"]["imp"])
        if request.refuse:
            refused.append((request.refuse, record["request"][request.refuse]))
        for imp, raw in zip(request.imp, record["request"]["imp"], strict=True):
            assert imp.unusable is None or not raw.get("id")
    assert len(records) == 2_095
    # Numbers in a list of blocked categories: nobody can tell what they block.
    assert all(name == "bcat" and all(isinstance(x, int) for x in value) for name, value in refused)
    assert len(refused) == 2


def test_every_broken_request_gets_what_is_expected_of_a_bidder(shared: Path, every_size_campaigns: list[Any]) -> None:
    snapshot = a_snapshot(*every_size_campaigns, max_price_micros=10**9)
    for record in lines(shared / "openrtb" / "invalid.jsonl.gz"):
        kind, raw = record["class"], record["body"].encode("utf-8", "surrogatepass")
        try:
            request = decode(raw)
        except BadRequest:
            assert kind in {"malformed", "required-missing", "type-mismatch", "hostile"}, record["reason"]
            continue
        assert kind != "malformed", record["reason"]
        privacy = decide_privacy(request, policy(snapshot.settings))
        found = decide(request, privacy, None, snapshot, NOW_US, EXCHANGE, "x")
        if kind in {"required-missing", "imp-unusable"}:
            usable = [imp for imp, offers in zip(json.loads(raw)["imp"], found.offers, strict=True) if offers]
            assert not usable or (kind == "imp-unusable" and len(usable) < len(found.offers)), (
                record["reason"],
                usable,
            )
