"""A whole bidder inside a test: real sockets, a real store, its own folder."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path

import aiohttp
import msgspec

from bidder.app import Service
from bidder.config import BidderConfig
from dmp.store import Store
from loadtest.auction import fill, images, links
from tests.bidder.factories import a_body

CAMPAIGNS = """
[[campaign]]
id = "acme"
advertiser = "acme"
adomain = "acme.example"
goal = "cpm"
price_micros = 2000000
daily_budget_micros = 1000000000
creatives = [{id = "acme-1", w = 300, h = 250, image_url = "https://cdn.example/a.png", landing_url = "https://acme.example/?a=1"}]
"""
CAPPED = """
[[campaign]]
id = "capped"
advertiser = "acme"
adomain = "acme.example"
goal = "cpm"
price_micros = 3000000
daily_budget_micros = 1000000000
caps = [{limit = 2, window_s = 86400}]
creatives = [{id = "capped-1", w = 300, h = 250, html = "<b>hi</b>", landing_url = "https://acme.example/capped"}]
"""
IFA = "6d92078a-8246-4ba4-ae5b-76104861e7dc"


def body(**fields: object) -> bytes:
    return json.dumps(a_body(**fields)).encode()


def body_of_user(ifa: str = IFA, **fields: object) -> bytes:
    return body(device={"geo": {"country": "USA"}, "ifa": ifa}, **fields)


class Running:
    """A started service and a client of it."""

    def __init__(self, service: Service, url: str, admin: str, http: aiohttp.ClientSession) -> None:
        self.service = service
        self.url = url
        self.admin = admin
        self.http = http
        self.port = int(url.rpartition(":")[2])

    async def bid(self, data: bytes, exchange: str = "x", **headers: str) -> tuple[int, bytes]:
        async with self.http.post(f"{self.url}/bid/{exchange}", data=data, headers=headers) as answer:
            return answer.status, await answer.read()

    async def a_bid(self, data: bytes = body(), exchange: str = "x") -> dict:
        status, answer = await self.bid(data, exchange)
        assert status == 200, status
        return json.loads(answer)["seatbid"][0]["bid"][0]

    async def get(self, url: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
        async with self.http.request(method, url, allow_redirects=False) as answer:
            return answer.status, await answer.read(), dict(answer.headers)

    async def metrics(self) -> dict[str, float]:
        text = (await self.get(f"{self.admin}/metrics"))[1].decode()
        rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def running(
    tmp_path: Path, store: Store, campaigns: str = CAMPAIGNS, **settings: object
) -> AsyncIterator[Running]:
    path = tmp_path / "campaigns.toml"
    path.write_text(campaigns)
    base = {"port": 0, "admin_port": 0, "campaigns": str(path), "models_dir": str(tmp_path / "models")}
    service = Service(msgspec.convert(base | settings, BidderConfig), tmp_path / "data", store)
    url, admin = await service.start()
    async with aiohttp.ClientSession() as http:
        try:
            yield Running(service, url, admin, http)
        finally:
            await service.stop()


def urls(bid: dict, price: str = "1.5") -> dict[str, str]:
    """Every URL of a bid as exchange and browser would call it."""
    macros = {"AUCTION_PRICE": price, "AUCTION_LOSS": "102", "AUCTION_MIN_TO_WIN": "2.5"}
    page = fill(bid["adm"], macros)
    return {
        "win": fill(bid["nurl"], macros),
        "billing": fill(bid["burl"], macros),
        "loss": fill(bid["lurl"], macros),
        "impression": unescape(images(page)[-1]),
        "click": links(page)[0],
    }
