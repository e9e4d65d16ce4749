"""The yardstick: the same decisions the obvious way, as a competent engineer would write them first.

A plain aiohttp application: json, one awaited redis-py MGET per request, a Python loop over the campaigns,
`Booster.predict` on the candidates, dicts and json.dumps for the answer, a line of JSON in the log file. It shares
with the bidder what defines the decision (campaign file, feature definition, user records, pseudonyms, signing of
URLs) and nothing of how the bidder is fast. On requests of the bench both make the same bids; the bench checks it.
It answers banners and reads every rule a bench campaign may have; it is no second bidder.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any, TextIO

import lightgbm
import msgspec
import numpy as np
import uvloop
from aiohttp import web

from bidder.campaigns import Campaign, Portfolio
from bidder.campaigns import load as load_campaigns
from bidder.creatives import Creative
from bidder.snapshot import ad_of
from bidder.useragent import families
from bidder.wording import topics_of, words_of
from dmp import codec, keys, pseudonym
from dmp.schema import User
from dmp.store import Store, live_generation
from dmp.taxonomy import tag_id
from models import features, registry
from models.context import Context
from models.features import N_CAMPAIGN, N_REQUEST
from models.pairs import columns_of, pair_columns

PRIOR_CTR = 0.001
KEEP = 0.85
MAX_PRICE_MICROS = 100_000_000
MAX_CANDIDATES = 50
HOUR_US = 3_600_000_000
DEVICES = {"mobile": (1, 4, 5), "phone": (4,), "tablet": (5,), "desktop": (2,), "tv": (3, 7)}


class Rules:
    """A campaign with its lists as sets and its names as the numbers that user records have for them."""

    def __init__(self, campaign: Campaign) -> None:
        target = campaign.targeting
        self.campaign = campaign
        self.countries = frozenset(target.countries)
        self.cities = frozenset(city.lower().replace("usa", "USA") for city in target.cities)
        self.device_types = {number for name in target.devices for number in DEVICES[name]}
        self.hours = frozenset(target.hours)
        self.domains, self.not_domains = frozenset(target.domains), frozenset(target.not_domains)
        self.apps = frozenset(target.apps)
        self.categories = frozenset(target.categories)
        self.tags = {tag_id(name): least for name, least in target.tags.items()}
        self.audiences = {keys.number(name) for name in target.audiences}
        self.scope = keys.number(campaign.id)
        self.labels = frozenset(label for cat in campaign.cat for label in with_parents(cat))
        self.sizes = {(creative.w, creative.h) for creative in campaign.creatives}
        self.insecure = any("http://" in creative.image_url for creative in campaign.creatives)


def with_parents(category: str) -> list[str]:
    """A category and those it is part of.

    >>> with_parents("IAB9-30")
    ['IAB9', 'IAB9-30']
    """
    parts = category.split("-")
    return ["-".join(parts[: n + 1]) for n in range(len(parts))] if category else []


class Rival:
    """What the application keeps between requests."""

    def __init__(
        self,
        portfolio: Portfolio,
        artefact: Path | None,
        ring: pseudonym.KeyRing,
        store: Store,
        log: TextIO,
        key: bytes,
    ) -> None:
        self.portfolio = portfolio
        self.ring = ring
        self.redis: Any = store.aio()
        self.log = log
        self.key = key
        self.base = "http://127.0.0.1:8080"
        self.budget = {campaign.id: campaign.daily_budget_micros * 1000 for campaign in portfolio.campaigns}
        client = store.sync()
        self.generation = live_generation(client)
        client.close()
        self.rules = [Rules(campaign) for campaign in portfolio.campaigns]
        shown = [(campaign, creative) for campaign in portfolio.campaigns for creative in campaign.creatives]
        ads = [ad_of(campaign, creative) for campaign, creative in shown]
        self.place = {creative.id: i for i, (_, creative) in enumerate(shown)}
        self.ads = columns_of(ads)
        self.booster: lightgbm.Booster | None = None
        if artefact is not None:
            self.model = registry.load(artefact, "response")
            self.booster = lightgbm.Booster(model_file=artefact / "response" / self.model.version / "model.txt")
            self.ad_side = np.array([features.campaign_values(self.model.vocabulary, ad) for ad in ads])

    async def bid(self, http: web.Request) -> web.Response:
        try:
            request = json.loads(await http.read())
        except ValueError:
            return web.Response(status=400)
        if not isinstance(request, dict) or not request.get("id") or not request.get("imp"):
            return web.Response(status=400)
        answer = await self.decide(request, http.match_info["exchange"])
        if answer is None:
            return web.Response(status=204)
        return web.Response(text=json.dumps(answer), content_type="application/json")

    async def decide(self, request: dict[str, Any], exchange: str) -> dict[str, Any] | None:
        """The bid response to a request, None for no bid."""
        now_us = time.time_ns() // 1000
        user: User | None = None
        uid = self.user_id(request, exchange) if may_use_ids(request) else None
        if uid is not None:
            values = await self.redis.mget(keys.user_keys(uid))
            user = codec.decode_user(values, self.generation, now_us // 1_000_000)
        bids = []
        for imp in request["imp"]:
            bid = self.best(request, imp, user, now_us, exchange)
            if bid is not None:
                bids.append(bid)
        if not bids:
            return None
        seats: dict[str, list[dict[str, Any]]] = {}
        for bid in bids:
            seats.setdefault(bid.pop("seat"), []).append(bid)
        return {
            "id": request["id"],
            "cur": "USD",
            "seatbid": [{"seat": seat, "bid": of_seat} for seat, of_seat in seats.items()],
        }

    def user_id(self, request: dict[str, Any], exchange: str) -> bytes | None:
        user = request.get("user") or {}
        device = request.get("device") or {}
        if user.get("buyeruid"):
            return self.ring.uid("cookie", user["buyeruid"])
        if device.get("ifa"):
            return self.ring.uid("device", device["ifa"])
        if user.get("id"):
            return self.ring.uid("exchange", f"{exchange}:{user['id']}")
        return None

    def best(
        self, request: dict[str, Any], imp: dict[str, Any], user: User | None, now_us: int, exchange: str
    ) -> dict[str, Any] | None:
        floor = round((imp.get("bidfloor") or 0) * 1e6)
        context = context_of(request, imp, floor, now_us, exchange)
        page = with_parents(context.category)
        banner = imp.get("banner") or {}
        sizes = {(size.get("w"), size.get("h")) for size in (*(banner.get("format") or ()), banner)}
        unwanted = set(banner.get("battr") or ())
        candidates = []
        for rules in self.rules:
            if not rules.sizes.isdisjoint(sizes) and fits(rules, request, imp, user, context, page, now_us):
                campaign = rules.campaign
                candidates += [
                    (campaign, creative)
                    for creative in campaign.creatives
                    if (creative.w, creative.h) in sizes and unwanted.isdisjoint(creative.attr)
                ]
        if not candidates:
            return None
        candidates = candidates[:MAX_CANDIDATES]
        rows = np.empty((len(candidates), len(features.FEATURES)))
        if self.booster is None:
            chances = [PRIOR_CTR] * len(candidates)
        else:
            places = [self.place[creative.id] for _, creative in candidates]
            rows[:, :N_REQUEST] = features.request_values(self.model.vocabulary, context, user, now_us)
            rows[:, N_REQUEST : N_REQUEST + N_CAMPAIGN] = self.ad_side[places]
            for i, column in enumerate(pair_columns(self.ads, places, context, user, now_us), N_REQUEST + N_CAMPAIGN):
                rows[:, i] = column
            chances = self.model.calibrate(np.asarray(self.booster.predict(rows, num_threads=1))).tolist()
        ranked = []
        for i, (campaign, creative) in enumerate(candidates):
            value = (
                campaign.price_micros if campaign.goal == "cpm" else round(campaign.price_micros * chances[i] * 1000)
            )
            ranked.append((value, -i, campaign, creative))
        for value, back, campaign, creative in sorted(ranked, key=lambda entry: entry[:2], reverse=True):
            if value < floor:
                return None
            most = min(MAX_PRICE_MICROS, value)
            price = min(most, round(value * KEEP if context.at == 1 else value))
            if price < floor:
                price = min(most, floor + 1)
            if price <= 0 or self.budget[campaign.id] < price:
                continue
            self.budget[campaign.id] -= price
            bid = self.answer(request, imp, campaign, creative, price)
            row = [] if self.booster is None else rows[-back].tolist()
            self.write_down(bid, request, context, user, value, chances[-back], row)
            return bid
        return None

    def write_down(
        self,
        bid: dict[str, Any],
        request: dict[str, Any],
        context: Context,
        user: User | None,
        value: int,
        chance: float,
        row: list[float],
    ) -> None:
        """A line of the log with what models are trained from later, as the bidder's own log has it."""
        line = {
            "bid": bid["id"],
            "auction": request["id"],
            "imp": bid["impid"],
            "campaign": bid["cid"],
            "creative": bid["crid"],
            "price": bid["price"],
            "value": value,
            "chance": chance,
            "features": row,
            "context": msgspec.structs.astuple(context),
            "tags": user.tags if user is not None else None,
            "audiences": list(user.audiences) if user is not None else None,
            "contacts": [msgspec.structs.astuple(seen) for seen in user.contacts] if user is not None else None,
        }
        self.log.write(json.dumps(line) + "\n")

    def answer(
        self, request: dict[str, Any], imp: dict[str, Any], campaign: Campaign, creative: Creative, price: int
    ) -> dict[str, Any]:
        bid_id = hashlib.sha256(f"{request['id']}{imp['id']}{time.time_ns()}".encode()).hexdigest()[:16]
        token = f"{bid_id}.{campaign.id}.{creative.id}.{price}.{int(time.time())}"
        signature = hmac.new(self.key, token.encode(), hashlib.sha256).hexdigest()[:32]
        query = f"t={token}.{signature}"
        click = f"{self.base}/click?{query}"
        pixel = f"{self.base}/imp?{query}"
        shown = creative.html or f'<img src="{creative.image_url}" width="{creative.w}" height="{creative.h}">'
        markup = f'<a href="{click}">{shown}</a><img src="{pixel}" width="1" height="1">'
        return {
            "id": bid_id,
            "impid": imp["id"],
            "price": price / 1e6,
            "adm": markup,
            "adomain": [campaign.adomain],
            "cid": campaign.id,
            "crid": creative.id,
            "cat": list(campaign.cat),
            "w": creative.w,
            "h": creative.h,
            "nurl": f"{self.base}/win?{query}&p=${{AUCTION_PRICE}}",
            "burl": f"{self.base}/bill?{query}&p=${{AUCTION_PRICE}}",
            "seat": campaign.seat,
        }


def may_use_ids(request: dict[str, Any]) -> bool:
    regs = request.get("regs") or {}
    device = request.get("device") or {}
    country = (device.get("geo") or {}).get("country", "")
    ext = regs.get("ext") or {}
    gdpr = regs.get("gdpr", ext.get("gdpr"))
    if gdpr is None:
        gdpr = country != "USA"
    us_privacy = regs.get("us_privacy") or ext.get("us_privacy") or "1---"
    return not (
        gdpr or regs.get("coppa") or device.get("lmt") or device.get("dnt") or us_privacy[2] == "Y" or ext.get("gpc")
    )


def context_of(request: dict[str, Any], imp: dict[str, Any], floor: int, now_us: int, exchange: str) -> Context:
    site, app, device = request.get("site") or {}, request.get("app") or {}, request.get("device") or {}
    geo = device.get("geo") or {}
    banner = imp.get("banner") or {}
    size = (banner.get("format") or [banner])[0]
    agent = families(device.get("ua", ""))
    categories = [
        *((site or app).get("pagecat") or ()),
        *((site or app).get("sectioncat") or ()),
        *((site or app).get("cat") or ()),
    ]
    offset = geo.get("utcoffset")
    slot = -1 if offset is None else ((now_us // 1_000_000 + offset * 60) // 3600 + 3 * 24) % 168
    country = geo.get("country", "")
    return Context(
        exchange=exchange,
        domain=(site.get("domain") or app.get("domain") or "").lower().removeprefix("www."),
        bundle=app.get("bundle", ""),
        category=categories[0] if categories else "",
        tagid=imp.get("tagid", ""),
        width=size.get("w", 0),
        height=size.get("h", 0),
        position=banner.get("pos", -1),
        instl=int(imp.get("instl", 0)),
        device_type=device.get("devicetype") or agent.device_type,
        os=(device.get("os") or agent.os).lower(),
        browser=agent.browser,
        connection=device.get("connectiontype", 0),
        language=device.get("language", "")[:2].lower(),
        country=country,
        region=f"{country}-{geo['region']}" if geo.get("region") else "",
        city=f"{country}-{geo['city'].lower()}" if geo.get("city") else "",
        floor_micros=floor,
        at=1 if request.get("at", 2) == 1 else 2,
        hour=slot % 24 if slot >= 0 else -1,
        weekday=slot // 24 if slot >= 0 else -1,
        n_imps=len(request["imp"]),
        topics=topics_of(words_of((), (site.get("page", "").partition("://")[2].partition("/")[2],))),
    )


def fits(
    rules: Rules,
    request: dict[str, Any],
    imp: dict[str, Any],
    user: User | None,
    context: Context,
    page: list[str],
    now_us: int,
) -> bool:
    """Every rule of one campaign, in the order one would write them down. page: the categories it is in."""
    campaign = rules.campaign
    target = campaign.targeting
    if campaign.status != "active":
        return False
    if request.get("wseat") and campaign.seat not in request["wseat"]:
        return False
    if target.at and context.at not in target.at:
        return False
    if rules.countries and context.country not in rules.countries:
        return False
    if rules.cities and context.city not in rules.cities:
        return False
    if rules.device_types and context.device_type not in rules.device_types:
        return False
    if target.os and context.os not in target.os:
        return False
    if rules.hours and context.hour not in rules.hours:
        return False
    if (rules.domains or rules.apps) and context.domain not in rules.domains and context.bundle not in rules.apps:
        return False
    if context.domain in rules.not_domains:
        return False
    if rules.categories and rules.categories.isdisjoint(page):
        return False
    blocked = request.get("bcat")
    if blocked and (not rules.labels or not rules.labels.isdisjoint(blocked)):
        return False
    if campaign.adomain in (request.get("badv") or ()):
        return False
    if rules.insecure and imp.get("secure"):
        return False
    if user is None:
        return not (rules.tags or rules.audiences or (campaign.caps and campaign.cap_without_user == "skip"))
    if rules.tags and not any(user.tags.get(tag, 0) >= least for tag, least in rules.tags.items()):
        return False
    if rules.audiences and rules.audiences.isdisjoint(user.audiences):
        return False
    for cap in campaign.caps:
        since = (now_us - cap.window_s * 1_000_000) // HOUR_US
        if sum(seen.count for seen in user.contacts if seen.scope == rules.scope and seen.hour >= since) >= cap.limit:
            return False
    return True


async def serve(application: web.Application, port: int) -> None:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)  # noqa: T201 - the starter waits for this line
    await asyncio.Event().wait()


def make(arguments: argparse.Namespace) -> Rival:
    """A rival from the command line's files."""
    return Rival(
        load_campaigns(Path(arguments.campaigns)),
        Path(arguments.models) if arguments.models else None,
        pseudonym.KeyRing(pseudonym.load_key(Path(arguments.key))),
        Store(arguments.store),
        Path(arguments.log).open("w"),
        b"rival signing key",
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the bidder's yardstick")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--campaigns", required=True)
    parser.add_argument("--models")
    parser.add_argument("--key", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--log", default="/dev/null")
    return parser.parse_args()


async def run(given: argparse.Namespace) -> None:
    application = web.Application(client_max_size=256 * 1024)
    application.router.add_post("/bid/{exchange}", make(given).bid)
    await serve(application, given.port)


if __name__ == "__main__":
    uvloop.run(run(arguments()))
