"""What a bid says for the Digital Services Act."""

import json
from pathlib import Path
from typing import Any

import pytest

from bidder.campaigns import Transparency
from bidder.openrtb import Dsa
from bidder.transparency import answer
from dmp.store import Store
from loadtest.referee import violations
from tests.bidder.factories import a_body
from tests.bidder.running import CAMPAIGNS, IFA, running

ACME = Transparency("Acme Inc", "Acme Media")


@pytest.mark.parametrize(
    ("told", "dsa", "profiled", "placed", "found"),
    [
        (ACME, Dsa(dsarequired=2), True, False, {"behalf": "Acme Inc", "paid": "Acme Media", "adrender": 0}),
        (Transparency("A", rendered=True), Dsa(pubrender=0), True, False, {"behalf": "A", "paid": "A", "adrender": 1}),
        (ACME, Dsa(datatopub=2), False, False, [2]),
        (ACME, Dsa(datatopub=1), True, False, [1]),
        (ACME, Dsa(datatopub=2), True, True, [1, 3]),
        (ACME, Dsa(datatopub=2), False, True, [3]),
        (ACME, Dsa(dsarequired=1, pubrender=0), True, True, None),
        (Transparency("A", rendered=True), Dsa(pubrender=2), False, False, None),
    ],
)
def test_a_bid_tells_who_is_behind_it_and_what_chose_it(
    told: Transparency, dsa: Dsa, profiled: bool, placed: bool, found: Any
) -> None:
    got = answer(told, dsa, "bid.example", profiled, placed)
    if found is None:
        assert got == b""
        return
    notice = json.loads(b"{" + got[1:] + b"}")["ext"]["dsa"]
    if isinstance(found, list):
        assert notice["transparency"] == [{"domain": "bid.example", "dsaparams": found}]
    else:
        assert notice == found


async def test_what_is_asked_for_is_answered_and_the_referee_sees_it(tmp_path: Path, store: Store) -> None:
    declared = CAMPAIGNS.replace("goal =", 'dsa = { behalf = "Acme Inc" }\ngoal =')
    request = a_body(regs={"gdpr": 0, "ext": {"dsa": {"dsarequired": 3, "pubrender": 1, "datatopub": 2}}})
    contextual = request | {"device": {"lmt": 1, "ifa": IFA, "geo": {"country": "USA"}}}
    known = request | {"device": {"ifa": IFA, "geo": {"country": "USA"}}}
    async with running(tmp_path, store, declared, public_url="https://bid.example") as bidder:
        for body, data in ((contextual, [2]), (known, [1])):
            status, answered = await bidder.bid(json.dumps(body).encode())
            assert violations(body, status, answered) == []
            (bid,) = json.loads(answered)["seatbid"][0]["bid"]
            assert bid["ext"]["dsa"] == {
                "behalf": "Acme Inc",
                "paid": "Acme Inc",
                "adrender": 0,
                "transparency": [{"domain": "bid.example", "dsaparams": data}],
            }
        assert "ext" not in await bidder.a_bid()


@pytest.mark.parametrize(
    ("asked", "told", "problem"),
    [
        ({"dsarequired": 2}, None, "no ext.dsa where it is required"),
        ({"dsarequired": 1}, None, None),
        ({"dsarequired": 2}, {"behalf": "A"}, "ext.dsa without paid"),
        (
            {"dsarequired": 2, "pubrender": 0},
            {"behalf": "A", "paid": "A", "adrender": 0},
            "a notice of pubrender 0 and",
        ),
        (
            {"dsarequired": 2, "pubrender": 2},
            {"behalf": "A", "paid": "A", "adrender": 1},
            "a notice of pubrender 2 and",
        ),
        ({"dsarequired": 2, "pubrender": 0}, {"behalf": "A", "paid": "A", "adrender": 1}, None),
    ],
)
def test_the_referee_knows_what_is_required(
    asked: dict[str, int], told: dict[str, Any] | None, problem: str | None
) -> None:
    request = {"id": "r", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}], "regs": {"ext": {"dsa": asked}}}
    bid = {
        "id": "b", "impid": "1", "price": 1.0, "adm": "<b>x</b>", "adomain": ["a.example"], "crid": "c", "w": 300,
        "h": 250, "mtype": 1,
    } | ({} if told is None else {"ext": {"dsa": told}})  # fmt: skip
    found = violations(request, 200, json.dumps({"id": "r", "seatbid": [{"bid": [bid]}]}).encode())
    assert found == [] if problem is None else [one for one in found if problem in one]
