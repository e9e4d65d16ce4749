"""`tagbid models calibrate`: keeps every campaign's live calibration in the tag store, from the bid log as it grows."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import redis
import typer
from rich.console import Console

from dmp import config as configuration
from dmp import events, keys
from dmp.config import DmpConfig
from dmp.errors import StoreUnavailable
from dmp.events import Bid, Click, Impression
from models import costs, live
from models.config import ModelsConfig

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
TTL_S = 8 * 86_400
COST_TTL_S = 2 * 86_400
EVERY_S = 60.0
SLACK_S = 3_600.0  # bids are logged before their impressions; files untouched for longer than that hold nothing new


def impressions(bidlog: Path, since_us: int, wait_us: int) -> Iterator[tuple[str, float, int, bool]]:
    """(campaign, click probability, when shown, clicked) of what bid log files touched since then hold."""
    chances: dict[tuple[str, str], tuple[str, float]] = {}
    shown: dict[tuple[str, str], int] = {}
    clicked: dict[tuple[str, str], int] = {}
    oldest_s = since_us / 1e6 - wait_us / 1e6 - SLACK_S
    for path in sorted(path for path in bidlog.glob("*.mpk") if path.stat().st_mtime >= oldest_s):
        for event in events.read_file(path):
            if isinstance(event, Bid):
                chances[event.event_id, event.imp_id] = event.campaign, event.pctr if event.model else 0.0
            elif isinstance(event, Impression | Click):
                first = shown if isinstance(event, Impression) else clicked
                key = event.bid_id, event.imp_id
                first[key] = min(event.time_us, first.get(key, event.time_us))
    for key, shown_us in shown.items():
        if key in chances:
            campaign, chance = chances[key]
            at_us = clicked.get(key)
            yield campaign, chance, shown_us, at_us is not None and at_us - shown_us <= wait_us


def step(client: redis.Redis, bidlog: Path, now_us: int, wait_us: int) -> dict[str, live.Ratio]:
    """Count what ripened since the last step, write the new states, return them. The states remember how far it got.

    What campaigns' conversions cost today is written beside them.
    """
    until_us = now_us - wait_us
    recent = list(impressions(bidlog, until_us - 2 * live.HALF_LIFE_US, wait_us))
    names = sorted({campaign for campaign, *_ in recent})
    states = {name: _state(client, name) for name in names}
    since_us = max([state.as_of_us for state in states.values()] or [0]) or until_us - live.HALF_LIFE_US
    found = live.ripe(recent, since_us, until_us)
    changed = {name: live.updated(states[name], *found.get(name, (0.0, 0.0)), until_us) for name in names}
    for name, state in changed.items():
        client.set(keys.calibration(name), live.encode(state), ex=TTL_S)
    for name, cost in costs.today(bidlog, now_us).items():
        client.set(keys.cost(name), live.encode_cost(cost), ex=COST_TTL_S)
    return changed


def _state(client: redis.Redis, campaign: str) -> live.Ratio:
    data = client.get(keys.calibration(campaign))
    return live.decode(data) if isinstance(data, bytes) else live.Ratio()


def calibrate(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk).")],
    watch: Annotated[bool, typer.Option(help="Go on every minute until stopped.")] = False,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Compare clicks with predictions, and costs with conversions, per campaign; bidders take it up within a minute."""
    from dmp.store import open_store

    settings = configuration.load("models", ModelsConfig, config)
    console, errors, stop = Console(), Console(stderr=True), threading.Event()
    if watch:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    with open_store(configuration.load("dmp", DmpConfig, config)) as store:
        client = store.sync()
        try:
            while not stop.is_set():
                try:
                    found = step(client, bidlog, time.time_ns() // 1000, settings.click_wait_s * 1_000_000)
                except redis.RedisError as error:
                    if not watch:
                        raise StoreUnavailable(f"the tag store went away ({error}); run this again") from None
                    errors.print(f"waiting: the tag store does not answer ({error})", markup=False)
                else:
                    if as_json:
                        typer.echo(msgspec.json.encode({name: msgspec.structs.asdict(s) for name, s in found.items()}))
                    for name, state in () if as_json else found.items():
                        note = "  frozen: it jumped by more than a quarter, see that clicks are tracked"
                        new = "  learning" if live.learning(state, state.as_of_us) else ""
                        console.print(f"{name} {state.served:.3f}{new}{note if state.frozen else ''}", markup=False)
                if not watch or stop.wait(EVERY_S):
                    break
        finally:
            client.close()
