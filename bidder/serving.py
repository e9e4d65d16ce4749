"""What is being served: the snapshot with its fixed bytes, loaded off the loop and swapped whole.

A campaign file or model that does not load changes nothing: the old one stays, the problem is logged once and counted.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import redis.exceptions
from msgspec import Struct

from bidder import campaigns, experiments, results, snapshot, supply_week, traffic
from bidder.campaigns import Campaign, Portfolio
from bidder.config import BidderConfig
from bidder.markup import AdParts, UrlParts, ad_parts, most_bytes, url_parts
from bidder.metrics import Metrics
from bidder.pages import host
from bidder.snapshot import Paces, Snapshot
from bidder.tastes import Source
from bidder.tokens import text_field
from bidder.topics import Topics
from dmp import keys
from dmp.errors import ConfigError, TagbidError
from dmp.link import Link
from models import artefacts, landscape, live, registry
from models.context import encode_ad
from models.live import Cost, Ratio
from models.registry import BadArtefact, Model

log = logging.getLogger("tagbid.bidder")
MODEL = "response"  # the kind of model bids are scored with
DAY_S = 86_400
RATIOS_S = 60.0


class Serving(Struct, frozen=True):
    """A snapshot and what its answers are made of; `parts` and `fields` line up with `snapshot.ads`.

    fields: campaign and creative as token fields; logged: ads as logged. campaigns: by id, paused ones too. landing:
    creative id -> where its clicks go. contacts_keep_s: the longest window anything reads contact counters over (P-70).
    domain: ours, where people learn why they see an ad. challenger: a model that is scored on a sample of bids and
    decides nothing.
    """

    snapshot: Snapshot
    parts: tuple[AdParts, ...]
    fields: tuple[bytes, ...]
    logged: tuple[bytes, ...]
    urls: UrlParts
    campaigns: dict[str, Campaign]
    landing: dict[str, str]
    contacts_keep_s: int
    made_s: float
    domain: str
    challenger: Model | None = None


def load(
    settings: BidderConfig,
    public_url: str,
    paces: Paces | None = None,
    ratios: Mapping[str, float] | None = None,
    topics: Topics | None = None,
    preferences: Source | None = None,
) -> Serving:
    """Everything from disk, checked. paces, ratios, topics: as in `snapshot.build`.

    preferences: where the space of the live generation is; None = there is none.
    Raises TagbidError when a part cannot be used.
    """
    portfolio = campaigns.load(Path(settings.campaigns))
    if strangers := sorted(_audited(portfolio) - settings.exchanges.keys()):
        raise ConfigError(
            settings.campaigns,
            [
                f"audit names the exchange {name!r}, which is not configured: add [bidder.exchanges.{name}]"
                for name in strangers
            ],
        )
    root = Path(settings.models_dir)
    version = registry.current(root, MODEL)
    model = None if version is None else registry.load(root, MODEL, version)
    if model is not None and settings.model_max_age_h:
        registry.require_fresh(root, model, time.time_ns() // 1000, settings.model_max_age_h)
    prices = None if artefacts.current(root, landscape.KIND) is None else landscape.load(root)
    name = f"{portfolio.digest}/{version or 'no model'}/{'no landscape' if prices is None else prices.version}"
    budgets = {campaign.id: campaign.daily_budget_micros for campaign in portfolio.campaigns}
    tests = experiments.load(Path(settings.experiments), budgets) if settings.experiments else ()
    outcomes = results.load(root, model)
    challenger = _challenger(root)
    tastes = None if preferences is None else preferences.load((model, challenger, *outcomes.values()))
    parts = {
        creative.id: ad_parts(campaign, creative, public_url)
        for campaign in portfolio.campaigns
        for creative in campaign.creatives
    }
    https = public_url.startswith("https://")
    made = snapshot.build(
        portfolio, model, settings, name, prices, paces, tests, outcomes, ratios, topics, tastes, https,
        _too_large(settings, parts),
    )  # fmt: skip
    rows = list(zip(made.by_ad, made.creatives, strict=True))
    windows = [cap.window_s for campaign in portfolio.campaigns for cap in campaign.caps]
    return Serving(
        snapshot=made,
        parts=tuple(parts[creative.id] for _, creative in rows),
        fields=tuple(text_field(campaign.id) + text_field(creative.id) for campaign, creative in rows),
        logged=tuple(map(encode_ad, made.ads)),
        urls=url_parts(public_url),
        campaigns={campaign.id: campaign for campaign in portfolio.campaigns},
        landing={creative.id: creative.landing_url for _, creative in rows},
        contacts_keep_s=max([7 * DAY_S, *windows]),  # features look back seven days
        made_s=time.time(),
        domain=host(public_url),
        challenger=challenger,
    )


def _audited(portfolio: Portfolio) -> set[str]:
    """Every exchange that is said to have judged a creative."""
    return {name for campaign in portfolio.campaigns for creative in campaign.creatives for name in creative.audit}


def _too_large(settings: BidderConfig, parts: Mapping[str, AdParts]) -> dict[str, frozenset[str]]:
    """Exchange with a limit -> ids of the creatives whose bids it cannot hold."""
    limits = {name: one.max_answer_bytes for name, one in settings.exchanges.items() if one.max_answer_bytes}
    sizes = {name: most_bytes(part) for name, part in parts.items()} if limits else {}
    return {
        exchange: frozenset(name for name, size in sizes.items() if size > limit) for exchange, limit in limits.items()
    }


def _challenger(root: Path) -> Model | None:
    """The model in shadow; one that cannot be used is told of and does without."""
    try:
        version = registry.challenger(root, MODEL)
        return None if version is None else registry.load(root, MODEL, version)
    except BadArtefact as error:
        log.error("no challenger: %s", error)  # noqa: TRY400 - for its reader, not a defect
        return None


class Ratios:
    """Live calibration as last read. of: {campaign: factor}; version: changes with it. states: what it is made of.

    costs: what conversions cost campaigns that pay for them, for the pacing loop.
    """

    def __init__(self) -> None:
        self.of: dict[str, float] = {}
        self.states: dict[str, Ratio] = {}
        self.costs: dict[str, Cost] = {}
        self.version = 0

    def take(self, states: Mapping[str, bytes | None], advertisers: Mapping[str, str]) -> None:
        """What the store holds per campaign. A campaign it holds nothing of any more is at its parent's again."""
        self.states = live.read(states)
        found = live.served(self.states, advertisers)
        if found != self.of:
            self.of = found
            self.version += 1


async def read_ratios(ratios: Ratios, link: Link, campaigns: Mapping[str, Campaign]) -> None:
    """Read live calibration of some campaigns. While the store is away, what was read last holds."""
    try:
        states = await _read(link, keys.calibration, list(campaigns))
        ratios.take(states, {name: campaign.advertiser for name, campaign in campaigns.items()})
        paid = [name for name, campaign in campaigns.items() if campaign.goal == "cpa"]
        ratios.costs = live.read_costs(await _read(link, keys.cost, paid))
    except redis.exceptions.RedisError as error:
        log.warning("live calibration could not be read: %s", error)


async def _read(link: Link, key: Callable[[str], bytes], names: list[str]) -> dict[str, bytes | None]:
    found = await link.values(list(map(key, names)))
    if failed := next((reply for reply in found if isinstance(reply, Exception)), None):
        raise failed
    return dict(zip(names, found, strict=True))


async def follow_ratios(ratios: Ratios, link: Link, campaigns: Callable[[], Mapping[str, Campaign]]) -> None:
    """Read live calibration every `RATIOS_S`; never returns."""
    while True:
        await asyncio.sleep(RATIOS_S)
        await read_ratios(ratios, link, campaigns())


def recalibrated(served: Serving, ratios: Mapping[str, float]) -> Serving:
    """The same with other live calibration, which changes once a minute: nothing else is made anew."""
    return msgspec.structs.replace(served, snapshot=snapshot.recalibrated(served.snapshot, ratios))


def fingerprint(settings: BidderConfig) -> tuple[object, ...]:
    """Changes whenever `load` may give something else; a few microseconds for every file there is."""
    week = Path(settings.models_dir) / supply_week.FILE
    paths = [Path(settings.campaigns), week, *([Path(settings.experiments)] if settings.experiments else [])]
    file = tuple(map(_changes, (*paths, *traffic.files(settings))))
    try:
        root = Path(settings.models_dir)
        kinds = (MODEL, *results.KINDS, landscape.KIND)
        return *file, *(artefacts.current(root, kind) for kind in kinds), registry.challenger(root, MODEL)
    except BadArtefact as error:  # told by `load`, once
        return *file, str(error)


def _changes(path: Path) -> tuple[object, ...]:
    """What changes when a file does, or why it cannot be looked at."""
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno,)
    return status.st_mtime_ns, status.st_size, status.st_ino


async def follow(
    settings: BidderConfig,
    public_url: str,
    seen: tuple[object, ...],
    served: Serving,
    swap: Callable[[Serving], Awaitable[None]],
    metrics: Metrics,
    paces: Paces,
    ratios: Ratios,
    topics: Topics,
    preferences: Source,
) -> None:
    """Load again whenever something changed, and hand it to `swap`; never returns.

    served: what there is; seen: the `fingerprint` it was loaded at, with live calibration and generation as they are.
    """
    calibrated, generation = ratios.version, preferences.version()
    good, bad = (metrics.slot("tagbid_snapshot_total", result=result) for result in ("loaded", "failed"))
    while True:
        await asyncio.sleep(settings.reload_s)
        looked = await asyncio.to_thread(fingerprint, settings)  # folders of supply checks may hold thousands of files
        found, of = (looked, preferences.version()), ratios.of
        if found == (seen, generation) and ratios.version == calibrated:
            continue
        loads = found != (seen, generation)
        calibrated, (seen, generation) = ratios.version, found
        try:
            if loads:
                made = await asyncio.to_thread(load, settings, public_url, paces, of, topics, preferences)
            else:
                made = await asyncio.to_thread(recalibrated, served, of)
        except TagbidError as error:
            metrics.counts[bad] += 1
            calibrated = -1  # what is kept may still be calibrated anew
            log.error("kept the campaigns and model in use: %s", error)  # noqa: TRY400 - for its reader, not a defect
            continue
        served = made
        await swap(made)
        if loads:
            gc.freeze()  # a large snapshot must not be walked by every full collection (p99.9 halves)
            metrics.counts[good] += 1
            log.info("serving %s", made.snapshot.version)
