"""The real requests and broken bodies against a live bidder with the demo portfolio, judged by the referee.

Every answer goes through the whole bid path (decode, privacy, store, decision, budget, markup) in this process. The
referee and its account of no-bids know nothing of the bidder's code.
"""

import ast
import asyncio
import gzip
import json
import time
import tomllib
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bidder.reasons import Reason
from dmp.store import Store
from loadtest import forbids, referee, referee_media, referee_read
from loadtest.forbids import forbids as forbidden_by
from tests.bidder.running import Running, running

PORTFOLIO = Path(forbids.__file__).parent / "campaigns.toml"
SCHEMA = json.loads((Path(__file__).parent / "response.schema.json").read_text())
RATES = {"USD": 1.0, "EUR": 1.1, "GBP": 1.3, "CHF": 1.15, "RUB": 0.011, "AUD": 0.65, "JPY": 0.0065}
UNEXPLAINED_MOST = 0.02


def corpus(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / "openrtb" / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


async def handled(service: Running, body: bytes) -> tuple[int, bytes, float]:
    """One body through the handler both HTTP paths share: (status, answer, milliseconds).

    What a busy machine made the bidder shed is sent again: shedding is tested elsewhere.
    """
    bidder, counts = service.service.bidder, service.service.metrics.counts
    shed = [
        service.service.metrics.slot("tagbid_no_bid_total", reason=reason.value)
        for reason in (Reason.OVERLOAD, Reason.NO_TIME)
    ]
    endpoint = service.service.endpoints.find("/bid/x", b"")
    assert not isinstance(endpoint, int)
    for _ in range(5):
        await asyncio.sleep(0)  # a turn of the loop for each request, as on a socket
        before = [counts[slot] for slot in shed]
        later: asyncio.Future[bytes | int] = asyncio.get_running_loop().create_future()
        began_s = time.monotonic()
        answer = bidder.handle(body, endpoint, began_s, later.set_result)
        if answer is None:
            answer = await later
        elapsed_ms = (time.monotonic() - began_s) * 1000
        if [counts[slot] for slot in shed] == before:
            break
    return (answer, b"", elapsed_ms) if isinstance(answer, int) else (200, answer, elapsed_ms)


def a_rich_bidder(tmp_path: Path, store: Store) -> AbstractAsyncContextManager[Running]:
    """A live bidder with the demo portfolio and money for every request of a run."""
    portfolio = PORTFOLIO.read_text().replace("daily_budget_micros = ", "daily_budget_micros = 9_00")
    return running(tmp_path, store, portfolio, public_url="https://bid.example", rates=RATES, hold_s=2_400)


async def test_every_bid_on_a_real_request_is_valid_against_it_and_every_no_bid_has_its_field(
    tmp_path: Path, store: Store, shared: Path
) -> None:
    records = corpus(shared, "requests.jsonl.gz")
    portfolio = tomllib.loads(PORTFOLIO.read_text())
    validator = jsonschema.Draft202012Validator(SCHEMA)
    wrong: list[str] = []
    unexplained: list[str] = []
    media: Counter[int] = Counter()
    no_bids = 0
    async with a_rich_bidder(tmp_path, store) as it:
        for position, record in enumerate(records):
            request = record["request"]
            status, answer, elapsed_ms = await handled(it, json.dumps(request).encode())
            found = referee.violations(request, status, answer, RATES, elapsed_ms)
            if status == 200:
                found += [error.message for error in validator.iter_errors(json.loads(answer))]
                media.update(bid["mtype"] for seat in json.loads(answer)["seatbid"] for bid in seat["bid"])
            wrong += [f"{position} {record['source']}: {problem}" for problem in found]
            bid_on = set(referee.bid_imps(status, answer))
            for imp in request["imp"]:
                if isinstance(imp, dict) and str(imp.get("id")) not in bid_on:
                    no_bids += 1
                    if forbidden_by(request, imp, portfolio, RATES) is None:
                        unexplained.append(f"{position} {imp.get('id')}")
        metrics = await it.metrics()
    assert wrong == []
    assert set(media) == {1, 2, 3, 4}
    assert len(unexplained) <= UNEXPLAINED_MOST * no_bids, (no_bids, unexplained)
    assert sum(value for name, value in metrics.items() if name.startswith("tagbid_errors_total")) == 0


async def test_every_broken_body_is_answered_as_its_fault_asks(tmp_path: Path, store: Store, shared: Path) -> None:
    records = corpus(shared, "invalid.jsonl.gz")
    wrong = []
    async with a_rich_bidder(tmp_path, store) as it:
        for record in records:
            sent = record["body"].encode("utf-8", "surrogatepass")
            status, answer, _ = await handled(it, sent)
            if not referee.expectation_met(record["expect"], record["reason"], sent, status, answer):
                wrong.append((record["class"], record["reason"], record["expect"], status))
    assert wrong == []


@pytest.mark.parametrize("module", [referee, referee_media, referee_read, forbids])
def test_the_referee_knows_nothing_of_the_bidder(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not [name for name in imported if name.partition(".")[0] in ("bidder", "models", "dmp")]
