"""Whatever arrives at the bid endpoint, the answer is 200 with a bid for it, 204 or 400, and nothing breaks."""

import asyncio
import json
import logging
import time
from contextlib import suppress

import pytest

from bidder.bidding import BAD_REQUEST, NO_CONTENT
from tests.bidder.mutations import mutated, originals
from tests.bidder.running import CAMPAIGNS, CAPPED, running
from tests.conftest import SHARED

STATUSES = {NO_CONTENT, BAD_REQUEST}
AT_ONCE = 50


async def answers_to(bidder, bodies):
    """What the bidder answers, in order; bodies are handled as the lane hands them over."""
    service = bidder.service
    endpoint = service.endpoints.find("/bid/x", b"")
    loop = asyncio.get_running_loop()
    found = []

    async def settle(group):
        found.extend(await asyncio.gather(*group))

    group = []
    for body in bodies:
        future = loop.create_future()
        answer = service.bidder.handle(body, endpoint, time.monotonic(), future.set_result)
        if answer is not None:
            future.set_result(answer)
        group.append(future)
        if len(group) == AT_ONCE:
            await settle(group)
            group = []
    await settle(group)
    return found


def same(sent, answered):
    """Whether an answer gives an id back: as text, also when it was sent as a number."""
    if isinstance(sent, str | int):
        return str(sent) == answered
    with suppress(ValueError):
        return isinstance(sent, float) and sent == float(answered)
    return False


def check(body, answer):
    if isinstance(answer, int):
        assert answer in STATUSES, (answer, body[:500])
        return answer
    # Fields that nobody reads need not even be text (S-04).
    request, response = json.loads(body.decode(errors="replace"), strict=False), json.loads(answer)
    assert same(request["id"], response["id"])
    imps = [imp.get("id") for imp in request["imp"] if isinstance(imp, dict)]
    for seat in response["seatbid"]:
        assert seat["bid"]
        for bid in seat["bid"]:
            assert sum(same(imp, bid["impid"]) for imp in imps) == 1, (imps, bid["impid"])
            assert 0 < bid["price"] < 1e6
            assert bid["crid"]
            assert bid["adm"]
    return 200


async def fuzz(tmp_path, store, caplog, shared, seed, n):
    good = originals(shared)
    with caplog.at_level(logging.INFO):
        async with running(tmp_path, store, CAMPAIGNS + CAPPED, max_in_flight=1_000) as bidder:
            bodies = list(mutated(good, seed, n))
            answers = await answers_to(bidder, bodies)
            statuses = [check(body, answer) for body, answer in zip(bodies, answers, strict=True)]
            metrics = await bidder.metrics()
    assert metrics['tagbid_errors_total{where="bid"}'] == 0
    assert {200, NO_CONTENT, BAD_REQUEST} == set(statuses), "the mutations must reach every kind of answer"
    assert statuses.count(200) > n // 50
    lines = [record for record in caplog.records if record.name.startswith("tagbid")]
    assert len(lines) < 20, "a broken request is counted, not logged (S-05)"
    assert "Traceback" not in caplog.text


@pytest.mark.rule("S-04")
@pytest.mark.rule("S-05")
async def test_no_mutation_of_a_request_breaks_the_bidder(tmp_path, store, caplog):
    await fuzz(tmp_path, store, caplog, SHARED if SHARED.is_dir() else None, seed=1, n=20_000)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.rule("T-02")
async def test_none_of_200_000_mutations_breaks_the_bidder(tmp_path, store, caplog):
    await fuzz(tmp_path, store, caplog, SHARED if SHARED.is_dir() else None, seed=2, n=200_000)


def test_the_same_seed_makes_the_same_bodies():
    good = originals(None)
    first, again, other = (list(mutated(good, seed, 300)) for seed in (5, 5, 6))
    assert first == again != other
