"""An advertiser's way from a customer file to an audience: a key, an upload over HTTP, the wait until it is live."""

import asyncio
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from dmp.catalogue import open_catalogue
from dmp.errors import TagbidError
from dmp.upload import upload
from loadtest import stage
from loadtest.stage import Stage

TIMEOUT_S = 180.0  # an expansion takes seconds; on a machine with much else to do, minutes
POLL_S = 0.2
SHARE_PCT = 5


class Seed(msgspec.Struct, frozen=True):
    """What the advertiser was told. recall, lift: of the hidden fifth of the seed, by depth in per cent."""

    uploaded: int
    matched: int
    match_rate: float
    lookalike: int
    held_out_recall: dict[str, float]
    lift: dict[str, float]
    seconds_to_live: float


def grow(on: Stage, file: Path, audience: str) -> Seed:
    """Upload a CSV of ids as the seed of `<advertiser>/<name>` and wait until the audience grown from it is live.

    The stage's store must be open. Raises TagbidError when the seed is refused or takes too long.
    """
    advertiser, name = audience.split("/")
    now_us = time.time_ns() // 1000
    catalogue = open_catalogue(on.folder)
    try:
        catalogue.add_advertiser(advertiser, now_us)
        key = catalogue.issue_key(advertiser, now_us)
    finally:
        catalogue.close()
    with stage.dmp(on) as server, stage.expander(on) as worker:
        told = asyncio.run(upload(file, server.url, key, advertiser, {"name": name, "share_pct": str(SHARE_PCT)}))
        sent = time.monotonic()
        address = f"{server.url}/v1/advertisers/{advertiser}/audiences/{name}"
        while (found := _ask(address, key))["state"] in ("pending", "expanding"):
            server.child.check()
            worker.check()
            if time.monotonic() - sent > TIMEOUT_S:
                raise TagbidError(f"audience {audience} is still {found['state']} after {TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        seconds = time.monotonic() - sent
    if found["state"] != "live":
        raise TagbidError(f"seed {audience} was {found['state']}: {found['message']}")
    return Seed(
        uploaded=told["uploaded"],
        matched=told["matched"],
        match_rate=told["match_rate"],
        lookalike=found["members"],
        held_out_recall=found["report"]["recall"],
        lift=found["report"]["lift"],
        seconds_to_live=round(seconds, 1),
    )


def _ask(url: str, key: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})  # noqa: S310 - our own http URL
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        found: dict[str, Any] = json.load(answer)
    return found
