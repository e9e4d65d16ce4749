"""What the handlers of `tagbid dmp serve` share: configuration, catalogue, tag store, key ring, limits."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis
from aiohttp import web

from dmp import permission, seeds, store
from dmp.catalogue import Catalogue, Principal
from dmp.config import DmpConfig
from dmp.limits import Buckets, Rates, Refused
from dmp.link import Link
from dmp.lookup import Lookup
from dmp.pressure import Pressure
from dmp.pseudonym import KeyRing
from dmp.remembered import Remembered
from dmp.rotation import Carrier

REMEMBERED_S = 0.9  # a revoked key is refused within a second (S-20)


class Desk:
    """What the handlers share."""

    def __init__(
        self,
        config: DmpConfig,
        catalogue: Catalogue,
        client: redis.Redis,
        ring: KeyRing,
        rates: Rates | None = None,
        url: str = "",
    ) -> None:
        """url: of the tag store, where the configuration leaves it to be found."""
        self.config, self.catalogue, self.client, self.ring = config, catalogue, client, ring
        self.rates = rates or Rates()
        self.data_dir = Path(config.data_dir)
        self.limits = seeds.Limits(unpacked_bytes=config.max_upload_bytes)
        self.keys = Buckets(self.rates.key_per_s, self.rates.key_burst)
        self.addresses = Buckets(self.rates.address_per_s, self.rates.address_burst)
        self.machine_keys = Buckets(self.rates.machine_per_s, self.rates.machine_burst)
        self.machine_addresses = Buckets(self.rates.machine_per_s, self.rates.machine_burst)
        self.basis = permission.basis(config.collect)
        self.pressure = Pressure(config)
        self.lookup = Lookup(url or config.redis_url, stall_s=1.0)
        self.carrier = Carrier(self.data_dir)
        self._audiences = Remembered(self._named_audiences, REMEMBERED_S)
        self._principals = Remembered(self._principal, REMEMBERED_S)
        self._uploading: dict[str, int] = {}

    async def principal(self, key: str, remembered: bool) -> Principal | None:
        """Who a key speaks for, None for none. remembered: as of at most REMEMBERED_S ago will do."""
        return await (self._principals.get(key) if remembered else self._principal(key))

    async def _principal(self, key: str) -> Principal | None:
        return await asyncio.to_thread(self.catalogue.principal, key, time.time_ns() // 1000)

    async def audiences_of(self, advertiser: str) -> Mapping[int, str]:
        """{number: name} of an advertiser's own audiences, as of at most REMEMBERED_S ago."""
        return await self._audiences.get(advertiser)

    async def _named_audiences(self, advertiser: str) -> Mapping[int, str]:
        found = await asyncio.to_thread(self.catalogue.audiences, advertiser)
        return {audience.number: audience.name for audience in found}

    @property
    def link(self) -> Link:
        """The event loop's own connection to the tag store."""
        return self.lookup.link

    @contextmanager
    def upload_slot(self, advertiser: str) -> Iterator[None]:
        """Hold while an upload runs; raises Refused when the advertiser has enough of them."""
        running = self._uploading.get(advertiser, 0)
        if running >= self.rates.uploads:
            detail = f"{running} uploads are running; wait for one of them"
            raise Refused(429, "too_many_uploads", detail, {"Retry-After": "10"})
        self._uploading[advertiser] = running + 1
        try:
            yield
        finally:
            self._uploading[advertiser] -= 1
            if not self._uploading[advertiser]:
                del self._uploading[advertiser]

    def known_users(self) -> Path:
        """The live generation's tags on this machine; raises Refused before the first build."""
        path = store.generation_folder(self.config, store.live_generation(self.client)) / "tags.parquet"
        if not path.exists():
            raise Refused(503, "no_users", "there are no user tags to match with yet; try again after the next build")
        return path


DESK = web.AppKey("desk", Desk)
PRINCIPAL = web.RequestKey("principal", Principal)
"""Who is asking, on every request that needs a key."""
