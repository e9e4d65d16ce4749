"""A running `tagbid dmp serve` inside a test: real sockets, a real store, a source with keys of every scope."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import redis

from dmp import events, keys
from dmp.app import listening
from dmp.catalogue import Catalogue, open_catalogue
from dmp.config import CollectConfig, DmpConfig
from dmp.desk import Desk
from dmp.limits import Rates
from dmp.pseudonym import KeyRing
from dmp.store import Store
from tests.bidder.consent_strings import VENDOR

RING = KeyRing(bytes(range(32)))
GENEROUS = Rates(key_burst=10_000, address_burst=10_000)
COLLECT = CollectConfig(
    gvl_id=VENDOR,
    tcf_consent=(1, 3, 4, 7, 10),
    pixel_sources=("shop",),
    cookie_secure=False,
    sync={"exchange": "https://exchange.example/match?p=7&u=${ID}&gdpr=${GDPR}&gdpr_consent=${GDPR_CONSENT}"},
)


class Door:
    """A server, a client without cookies of its own, and a look into the stream."""

    def __init__(self, url: str, http: aiohttp.ClientSession, catalogue: Catalogue, client: redis.Redis) -> None:
        self.url, self.http, self.catalogue, self.client = url, http, catalogue, client

    def key(self, *scopes: str, owner: str = "shop") -> str:
        return self.catalogue.issue_key(owner, 1, scopes=scopes)

    async def ask(
        self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, Any]:
        sent = {"Content-Type": "application/json", **(headers or {})} if method == "POST" else headers
        async with self.http.request(method, self.url + path, data=data, headers=sent, allow_redirects=False) as answer:
            return answer.status, await answer.read(), answer.headers

    async def send(self, *items: Any, key: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
        data = json.dumps(list(items)).encode() if body is None else body
        bearer = {"Authorization": f"Bearer {key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        status, answer, got = await self.ask("POST", "/v1/events", data, bearer)
        return status, json.loads(answer), got

    def stream(self) -> list[Any]:
        """Every event that the store holds."""
        partitions = DmpConfig().stream.partitions
        entries = [entry for p in range(partitions) for entry in self.client.xrange(keys.events(p))]
        return [events.decode(record) for _, fields in entries for record in fields.values()]


@asynccontextmanager
async def open_door(
    root: Path, store: Store, rates: Rates = GENEROUS, collect: CollectConfig = COLLECT, **settings: Any
) -> AsyncIterator[Door]:
    config = msgspec.structs.replace(
        DmpConfig(data_dir=str(root), redis_url=store.url, port=0, collect=collect), **settings
    )
    catalogue, client = open_catalogue(root), store.sync()
    for name in ("shop", "rival"):
        catalogue.add_advertiser(name, 1)
    async with (
        listening(Desk(config, catalogue, client, RING, rates)) as url,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        yield Door(url, http, catalogue, client)
    client.close()
    catalogue.close()
