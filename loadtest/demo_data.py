"""The demo on real logs: real users' tags, a model of real clicks, real bid requests, and requests that are broken.

Tags come from two logs: what the pages of the first third of a recorded AdX stream were about, and the segments of
the iPinYou users. The click model is learnt from iPinYou impressions, one source at a time because each was sampled
in its own way; its probabilities are those of its sample, so the prices bid here say nothing about a campaign. Nobody
bids against us and nobody clicks: what is shown is that real traffic is looked up, decided and answered.
"""

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from bidder import useragent
from dmp import offline, pseudonym
from dmp.offline import Generation
from dmp.pseudonym import KeyRing
from dmp.taxonomy import find, tag_id
from loadtest import broken, data_report, demo, generator, real_users, scrape, seeding, stage, summary, traffic
from loadtest.arms import store_reads
from loadtest.data_report import Sent
from loadtest.load import Load, Result
from loadtest.real_users import IMPRESSIONS, REQUESTS, SEGMENTS, Imported
from loadtest.stage import Running, Stage, quoted
from loadtest.steps import Advance, Steps
from models import ipinyou, response
from models.response import Report, TooFewClicks

EXCHANGE = "adx"
VALID = Path("requests.jsonl.gz")
BROKEN = Path("invalid.jsonl.gz")
PUBLIC_URL = "https://bidder.example"
PORTFOLIO = Path(__file__).parent / "campaigns.toml"
AUDIENCE = "stride/buyers"  # what a campaign of the portfolio targets
SEED_TAG = "interest.sports"
SOURCES: tuple[ipinyou.Source, ...] = ("FH", "NEM", "DC", "DLF")
RATE = 1_000.0
CORPUS_RATE = 400.0
PATIENCE_MS = 5_000
DEFAULT_TMAX_MS = 100


def run(data: Path, out: Path, console: Console) -> dict[str, Any]:
    """Play the logs in `data` (and the request corpus beside it, `../openrtb`); writes the reports into `out`.

    Raises MissingData naming every file that is not there.
    """
    started = time.monotonic()
    corpus = data.resolve().parent / "openrtb"
    real_users.check(data, (REQUESTS, IMPRESSIONS, SEGMENTS))
    real_users.check(corpus, (VALID, BROKEN))
    with demo.workspace(out) as work, Steps(console) as steps:
        now_us = time.time_ns() // 1000
        key = pseudonym.load_key(work / "pseudonym.key")
        ring = KeyRing(key)
        # Recorded requests ask for secure ads; nobody calls the URLs of their bids.
        main = Stage(work / "real", key, PORTFOLIO, work / "models", {"public_url": quoted(PUBLIC_URL)})
        total = pq.read_metadata(data / REQUESTS).num_rows
        first = total // 3
        with steps.step("tags from pages and segments"):
            events = real_users.page_views(
                data / REQUESTS, first, EXCHANGE, ring, now_us, work / "events/views.parquet"
            )
            imported = real_users.segments(data, ring, now_us)
            generation = build_tags(main, work / "events", imported, now_us)
        with steps.step("click models, one a source", total=len(SOURCES)) as advance:
            trained = train(data, work, main, advance)
        with steps.step("a seed becomes an audience"), stage.store(main):
            write_seed(work / "customers.csv", data)
            seed = seeding.grow(main, work / "customers.csv", AUDIENCE)
        with stage.store(main), stage.bidder(main) as bidder:
            bodies = traffic.read(data / REQUESTS)[first:]
            with steps.step("recorded AdX requests", total=len(bodies)) as advance:
                live = send(bidder, EXCHANGE, bodies, RATE, advance)
            bodies = traffic.read(corpus / VALID)
            with steps.step("requests of other exchanges", total=len(bodies)) as advance:
                others = send(bidder, "corpus", bodies, CORPUS_RATE, advance)
            faults = broken.read(corpus / BROKEN)
            with steps.step("broken requests", total=len(faults)) as advance:
                answers, _ = drive(bidder, "broken", [fault.sent for fault in faults], CORPUS_RATE, advance)
            bidder.child.check()
            counted = scrape.metrics(bidder.admin)
    report = data_report.assemble(
        generation=generation,
        events=events,
        imported=imported,
        seed=seed,
        trained=trained,
        serving=best_source(trained),
        live=live,
        others=others,
        broken=broken.judge(faults, answers),
        defects=round(sum(value for name, value in counted.items() if name.startswith("tagbid_errors_total"))),
        steps=steps.seconds,
        seconds=time.monotonic() - started,
    )
    data_report.publish(report, live.result, out, console)
    return report


def build_tags(on: Stage, events: Path, imported: Imported, now_us: int) -> Generation:
    """One generation of both kinds of tags: built from page views, then published again with the imported ones."""
    with stage.store(on) as store:
        offline.build(on.dmp, events, now_us, store)
        client = store.sync()
        built = offline.live_tags(on.dmp, client)
        client.close()
        assert built is not None  # noqa: S101 - just built
        return offline.publish_tags(on.dmp, pa.concat_tables([built, imported.tags]), now_us, store, "iPinYou segments")


def train(data: Path, work: Path, on: Stage, advance: Advance) -> dict[str, Report | str]:
    """{source: what its model came to, or why there is none}; the best one that passes the gate goes live."""
    found: dict[str, Report | str] = {}
    folder = data / IMPRESSIONS.parent
    for source in SOURCES:
        try:
            rows = ipinyou.rows(folder, source, useragent.families)
            found[source] = response.train(rows, work / "judged" / source, now_us=time.time_ns() // 1000)
        except TooFewClicks as error:
            found[source] = str(error)
        advance(1)
    best = best_source(found)
    if best is not None:
        (work / "judged" / best).rename(on.models)
    return found


def best_source(trained: Mapping[str, Report | str]) -> str | None:
    """The published model with the largest log-loss gain in its own standard errors."""
    passed = {s: r for s, r in trained.items() if isinstance(r, Report) and r.version is not None}
    return max(passed, key=lambda s: passed[s].over_base.value / passed[s].over_base.se, default=None)


def write_seed(file: Path, data: Path) -> None:
    """A customer file: the real users whose segments say sport, by the exchange's id for them."""
    names = {row["id"]: row["name"] for row in pq.read_table(data / SEGMENTS).to_pylist()}
    sporty = {segment for segment, name in names.items() if find(name) == tag_id(SEED_TAG)}
    log = pq.read_table(data / IMPRESSIONS, columns=["user_id", "user_tags"]).to_pylist()
    users = {row["user_id"] for row in log if row["user_id"] and sporty.intersection(row["user_tags"] or ())}
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(("id_type", "id"))
        lines.writerows(("exchange", f"ipinyou:{user}") for user in sorted(users))


def send(bidder: Running, exchange: str, bodies: Sequence[bytes], rate: float, advance: Advance) -> Sent:
    """Send every body once, look at what the bidder counted, and check every answer as an exchange would."""
    before, cpu_before = scrape.metrics(bidder.admin), scrape.cpu_s([bidder.child.process.pid])
    result, load = drive(bidder, exchange, bodies, rate, advance)
    cpu_s = scrape.cpu_s([bidder.child.process.pid]) - cpu_before
    after = scrape.metrics(bidder.admin)
    told = summary.summarise(result, load.bodies, cpu_s, scrape.no_bid_reasons(before, after))
    return Sent(result, told, store_reads(before, after))


def drive(
    bidder: Running, exchange: str, bodies: Sequence[bytes], rate: float, advance: Advance
) -> tuple[Result, Load]:
    load = Load(
        url=f"{bidder.url}/bid/{exchange}",
        bodies=bodies,
        rate=rate,
        duration_s=len(bodies) / rate,
        count=len(bodies),
        poisson=True,
        tmax_ms=traffic.tmax_ms(bodies, DEFAULT_TMAX_MS),
        patience_ms=PATIENCE_MS,
    )
    done_before = 0

    def tick(_sent: int, done: int) -> None:
        nonlocal done_before
        advance(done - done_before)
        done_before = done

    return generator.play(load, tick), load
