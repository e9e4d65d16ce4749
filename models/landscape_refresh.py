"""Between two trainings of the landscape: what winning really took lately, by exchange.

Prices drift, and rivals answer. Every few minutes the bids of the last hours whose outcome is known are scored by the
live landscape again, whatever made them. Where wins were off from what it expected by more than 15 %, and beyond
chance, in the last half hour and the one before, its model is no longer believed for that exchange (`held`): the
segments' ratios are bid there until wins are as expected again. The calibration of the chance to win is made anew from
the same bids, so that slow drift never gets that far. The result is published as a version of its own: bidders take it
up at once, and `rollback` undoes it. Centre and spread stay those of the last training (decision science 2.4).
"""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from models import artefacts, landscape, landscape_fit, landscape_train
from models.landscape import Landscape
from models.landscape_train import Observations

Floats = npt.NDArray[np.float64]
Knots = tuple[list[float], list[float]]

WINDOW_US = 6 * 3_600_000_000
HALF_HOUR_US = 1_800_000_000
OFF = 0.15
Z = 3.0
LEAST_MOVE = 0.01
LEAST = 200  # bids of an exchange in a half hour, to say anything of it


class Drift(msgspec.Struct, frozen=True):
    """One exchange in the last half hour and the one before: bids, wins, and the wins that were expected."""

    exchange: str
    bids: tuple[int, int]
    wins: tuple[int, int]
    expected: tuple[float, float]
    held: bool


class Refresh(msgspec.Struct, frozen=True):
    """version: as published, None where nothing changed. recalibrated: exchanges with a new calibration."""

    version: str | None
    drifts: list[Drift]
    recalibrated: list[str]


def refresh(bidlog: Path, root: Path, *, now_us: int) -> Refresh:
    """Judge the live landscape by the latest bids, recalibrate it, publish what changed.

    Raises BadArtefact without a live landscape, BadEvents when no late bid tells of prices.
    """
    live = landscape.load(root)
    data = landscape_train.observations(bidlog, since_us=now_us - WINDOW_US)
    raw = raw_chances(live, data)
    exchanges = np.array([context.exchange for context in data.contexts])
    modelled = ~np.isnan(raw)
    drifts = [
        judged(live, exchange, data, raw, modelled & (exchanges == exchange), now_us)
        for exchange in np.unique(exchanges[modelled]).tolist()
    ]
    segments = [name for name, kept in zip(data.segments, modelled.tolist(), strict=True) if kept]
    found = landscape_fit.chances(raw[modelled], data.won[modelled], segments)
    before = live.manifest.chances
    chances = {exchange: knots for exchange, knots in found.items() if moved(before.get(exchange), knots)}
    seen = {drift.exchange for drift in drifts}
    held = sorted({drift.exchange for drift in drifts if drift.held} | (live.held - seen))
    if not chances and set(held) == live.held:
        return Refresh(None, drifts, [])
    manifest = msgspec.structs.replace(
        live.manifest,
        version="",
        created_us=now_us,
        parent=live.version,
        chances=live.manifest.chances | chances,
        held=held or msgspec.UNSET,
    )
    home = artefacts.folder(root, landscape.KIND, live.version)
    files = {name: (home / name).read_bytes() for name in manifest.sha256}
    version, files["manifest.json"] = artefacts.seal(manifest, now_us)
    artefacts.publish(
        root, landscape.KIND, version, files, lambda folder: landscape.read(folder, version), (version, live.version)
    )
    return Refresh(version, drifts, sorted(chances))


def moved(before: Knots | None, after: Knots) -> bool:
    """Whether a calibration says something else than before by a hundredth somewhere; less is not worth a version."""
    grid = np.linspace(0, 1, 101)
    return before is None or float(np.abs(np.interp(grid, *before) - np.interp(grid, *after)).max()) > LEAST_MOVE


def raw_chances(live: Landscape, data: Observations) -> Floats:
    """P(m < bid) by the model for bids of first-price auctions, uncalibrated; NaN where it has no spread."""
    manifest = live.manifest
    X = np.array(
        [
            landscape.values(live.codes, context, quality)
            for context, quality in zip(data.contexts, data.quality.tolist(), strict=True)
        ]
    ).reshape(-1, len(landscape.NAMES))
    mu = manifest.base + live.forest.predict(X)
    found = np.full(len(mu), np.nan)
    for i, (context, place) in enumerate(zip(data.contexts, data.segments, strict=True)):
        spread = manifest.spreads.get(place) or manifest.spreads.get(context.exchange)
        first = context.at == 1 or context.exchange in manifest.first
        if spread is not None and first and data.bid[i] > 0:
            found[i] = landscape.phi((float(np.log(data.bid[i])) - mu[i]) / spread)
    return found


def judged(
    live: Landscape, exchange: str, data: Observations, raw: Floats, own: npt.NDArray[np.bool_], now_us: int
) -> Drift:
    """Whether wins in an exchange are what the live landscape expects.

    One that is held is released once the half hour shows nothing; with too few bids to say, it stays as it was.
    """
    newest_us = int(data.time_us[own].max())
    knots = live.manifest.chances.get(exchange)
    halves = []
    for n in range(2):
        until_us = newest_us - n * HALF_HOUR_US
        here = own & (data.time_us <= until_us) & (data.time_us > until_us - HALF_HOUR_US)
        p = raw[here] if knots is None else np.interp(raw[here], *knots)
        halves.append((int(here.sum()), int(data.won[here].sum()), float(p.sum()), float((p * (1 - p)).sum())))
    certain = [bids >= LEAST for bids, *_ in halves]
    off = [
        enough and abs(wins - expected) > max(OFF * expected, Z * variance**0.5)
        for enough, (_, wins, expected, variance) in zip(certain, halves, strict=True)
    ]
    held = all(off) or (exchange in live.held and (off[0] or not certain[0]))
    columns = list(zip(*halves, strict=True))
    return Drift(exchange, columns[0], columns[1], columns[2], held)
