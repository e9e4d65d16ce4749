"""The DMP's commands."""

import asyncio
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from dmp import (
    archive_commands,
    audience_commands,
    brushing_commands,
    commands,
    hot_commands,
    identity_commands,
    key_commands,
    keys,
    optout,
    partner_commands,
    preference_commands,
    pseudonym,
    rights_commands,
    rule_commands,
    store,
    stream_commands,
    taxonomy_commands,
)
from dmp import config as configuration
from dmp.config import DmpConfig
from dmp.errors import DmpError
from dmp.schema import IdType, Uid

if TYPE_CHECKING:  # loads SQLAlchemy, which only the commands that need it should wait for
    from dmp.catalogue import Catalogue
    from dmp.ingest import Report

app = typer.Typer(no_args_is_help=True, help="User tags, audiences and seeds.")
console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def settings(path: Path | None) -> DmpConfig:
    return configuration.load("dmp", DmpConfig, path)


@app.command()
def build(
    events: Annotated[Path, typer.Argument(help="Parquet event file, or a folder of them.")],
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option(help="Publish even when the build looks unlike the last one.")] = False,
    engine: Annotated[str, typer.Option(help="What runs the queries: duckdb, or spark (needs the extra).")] = "duckdb",
    as_json: Json = False,
) -> None:
    """Build every user's tags from event files and make them live, all at once."""
    from dmp import offline

    settings_ = settings(config)
    with (
        store.open_store(settings_) as tags,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        ) as bar,
    ):
        task = bar.add_task("reading")

        def show(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        made = offline.build(settings_, events, time.time_ns() // 1000, tags, force, show, offline.named_engine(engine))
    if as_json:
        typer.echo(msgspec.json.encode(made))
        return
    table = Table("", "", show_header=False)
    table.add_row("generation", f"{made.number} (before: {made.parent or 'none'})")
    table.add_row("events used", f"{made.events:,}")
    table.add_row(
        "users", f"{made.users:,} ({made.written:,} written, {made.unchanged:,} unchanged, {made.gone:,} gone)"
    )
    table.add_row("tags", f"{made.tags:,}: " + ", ".join(f"{name} {n:,}" for name, n in sorted(made.rows.items())))
    table.add_row("histogram drift", f"{made.drift:.3f}")
    longest = sorted(made.steps.items(), key=lambda item: -item[1])[:5]
    table.add_row("seconds", f"{made.seconds:.1f}: " + ", ".join(f"{step} {s:.1f}" for step, s in longest))
    if made.excluded:
        table.add_row("beaten by a better tag of their group", f"{made.excluded:,}")
    console.print(table)
    if made.unmapped:
        worst = sorted(made.unmapped.items(), key=lambda item: -item[1])[:10]
        console.print(
            f"{made.unmapped_events:,} events have a category that is no standard tag: "
            + ", ".join(f"{label if label.isprintable() else ascii(label)} ({n:,})" for label, n in worst),
            markup=False,  # labels come from event files
        )
    if made.withheld:
        console.print(f"{made.withheld:,} events are about sensitive subjects and make no tags")


@app.command()
def rollback(config: ConfigFile = None) -> None:
    """Make the generation before the live one live again."""
    from dmp import offline

    settings_ = settings(config)
    with store.open_store(settings_) as tags:
        console.print(f"generation {offline.rollback(settings_, tags)} is live")


@app.command()
def profile(
    raw_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id as the site or exchange knows it.")],
    id_type: Annotated[
        str, typer.Option(help="cookie, device, exchange, email, phone, login or household.")
    ] = "cookie",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show what the bidder knows of a user right now."""
    from dmp import explain

    settings_ = settings(config)
    uids = _uids(settings_, raw_id, id_type)
    with store.open_store(settings_) as tags:
        client = tags.sync()
        uid = next((one for one in uids if client.exists(*keys.user_keys(one))), uids[0])
        found = explain.explain(settings_, client, uid, time.time_ns() // 1000)
    if as_json:
        told = msgspec.to_builtins(found) | {
            "tags": {tag.tag: tag.weight for tag in found.tags},
            "explained": found.tags,
        }
        typer.echo(msgspec.json.encode(told))
        return
    title = f"user {found.user}, generation {found.generation}"
    columns = ("weight", "as of", "source", "half-life", "lives", "made by", "")
    table = Table(Column("tag", no_wrap=True), *columns, title=title)
    for tag in (*found.tags, *found.realtime):
        lasting = (f"{tag.half_life_days} d" if tag.half_life_days else "none", f"{tag.ttl_days} d")
        made_by = f"{tag.rule} {tag.rule_sha256[:8]}".rstrip()
        label = f"{tag.label_en} {tag.label_zh}".strip()
        table.add_row(tag.tag, str(tag.weight), tag.as_of or "now", tag.source, *lasting, made_by, label)
    console.print(table)
    console.print(f"in {len(found.audiences)} audiences, {sum(c.count for c in found.contacts)} counted contacts")


@app.command()
def opt_out(
    raw_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id as the site or exchange knows it.")],
    id_type: Annotated[
        str, typer.Option(help="cookie, device, exchange, email, phone, login or household.")
    ] = "cookie",
    child: Annotated[bool, typer.Option("--child", help="The user is known to be a child.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    config: ConfigFile = None,
) -> None:
    """Show this user no personalised advertising any more, from the next bid request on."""
    settings_ = settings(config)
    uid, *former = _uids(settings_, raw_id, id_type)
    marks = {keys.CHILD if child else keys.OPTED_OUT}
    with store.open_store(settings_) as tags:
        for one in (uid, *former):
            (optout.clear_marks if undo else optout.set_marks)(tags.sync(), one, marks)
    console.print(
        f"user {keys.text(uid).decode()} is {'no longer ' if undo else ''}{'a known child' if child else 'opted out'}"
    )


def _uids(settings_: DmpConfig, raw_id: str, id_type: str) -> list[Uid]:
    """The pseudonym of an id typed by the operator; while a key is rotated, also that under the former one."""
    try:
        kind = msgspec.convert(id_type, IdType)
    except msgspec.ValidationError:
        raise DmpError(f"id type {id_type!r} is none of {', '.join(IdType.__args__)}") from None  # type: ignore[attr-defined]
    ring = pseudonym.key_ring(settings_.data_dir)
    uid = ring.uid(kind, raw_id)
    if uid is None and ring.pseudonym(kind, raw_id) is not None:
        raise DmpError("this user was forgotten: nothing is held about them, and nothing will be")
    if uid is None:
        raise DmpError(f"that is no usable {id_type} id (blank, all zeros, a placeholder, or malformed)")
    former = ring.former(kind, raw_id)
    return [uid] if former is None else [uid, former]


app.add_typer(taxonomy_commands.app, name="taxonomy")
app.add_typer(stream_commands.app, name="stream")
app.add_typer(audience_commands.app, name="audience")
app.command("archive")(archive_commands.archive)
rights_commands.register(app)
app.add_typer(rule_commands.app, name="rules")
app.command("hot")(hot_commands.hot)
app.add_typer(identity_commands.app, name="identity")
app.add_typer(brushing_commands.app, name="brushing")
app.add_typer(preference_commands.app, name="preference")
app.add_typer(partner_commands.app, name="partners")
app.add_typer(key_commands.app, name="keys")


@app.command("store")
def run_store(config: ConfigFile = None) -> None:
    """Run the tag store in the foreground, for other commands to join; ends on Ctrl-C or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with store.open_store(settings(config)) as tags:
        console.print(
            f"tag store at {tags.url}" + ("" if tags.server else " (already running, run by another process)")
        )
        while tags.server is not None and tags.server.poll() is None and not stop.wait(0.5):
            pass


SCOPES = ("seeds", "events", "events.link", "tags", "tags.longterm", "tags.realtime", "tags.audiences")
_SCOPES = ", ".join(SCOPES)
advertisers = typer.Typer(no_args_is_help=True, help="Who may upload: advertisers and their API keys.")
app.add_typer(advertisers, name="advertisers")
seed_files = typer.Typer(no_args_is_help=True, help="Audience seeds.")
app.add_typer(seed_files, name="seeds")


@contextmanager
def catalogue_of(path: Path | None) -> "Iterator[Catalogue]":
    from dmp.catalogue import open_catalogue

    catalogue = open_catalogue(Path(settings(path).data_dir))
    try:
        yield catalogue
    finally:
        catalogue.close()


@advertisers.command("add")
def add_advertiser(
    advertiser: Annotated[str, typer.Argument(metavar="ID", help="Letters, digits, '_', '-', '.'.")],
    config: ConfigFile = None,
) -> None:
    """Add an advertiser and print its first API key, which is shown this once."""
    with catalogue_of(config) as catalogue:
        now_us = time.time_ns() // 1000
        catalogue.add_advertiser(advertiser, now_us)
        typer.echo(catalogue.issue_key(advertiser, now_us))


@advertisers.command("key")
def add_key(
    advertiser: Annotated[str, typer.Argument(metavar="ID")],
    days: Annotated[int, typer.Option(min=0, help="Days until it expires; 0: when revoked.")] = 0,
    scope: Annotated[list[str] | None, typer.Option(help=f"What it opens: {_SCOPES}; default seeds.")] = None,
    config: ConfigFile = None,
) -> None:
    """Print another API key of an advertiser, which is shown this once."""
    wanted = scope or ["seeds"]
    if unknown := set(wanted) - set(SCOPES):
        raise DmpError(f"no scope {', '.join(sorted(unknown))}; there are {_SCOPES}")
    with catalogue_of(config) as catalogue:
        now_us = time.time_ns() // 1000
        expires_us = now_us + days * 86_400_000_000 if days else 0
        typer.echo(catalogue.issue_key(advertiser, now_us, tuple(wanted), expires_us))


@advertisers.command("revoke")
def revoke_key(
    advertiser: Annotated[str, typer.Argument(metavar="ID")],
    key: Annotated[str, typer.Argument(help="The key, or its first nine characters.")],
    config: ConfigFile = None,
) -> None:
    """Revoke an API key; the next request with it is refused."""
    with catalogue_of(config) as catalogue:
        if not catalogue.revoke_keys(advertiser, key, time.time_ns() // 1000):
            raise DmpError(f"advertiser {advertiser!r} has no valid key that begins like this")


@seed_files.command("upload")
def upload_seed(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV of ids, plain or gzipped.")],
    advertiser: Annotated[str, typer.Option(help="Whose seed it is.")],
    name: Annotated[str, typer.Option(help="Name of the audience to grow.")],
    key: Annotated[str, typer.Option(envvar="TAGBID_KEY", help="API key; better given as TAGBID_KEY.")],
    url: Annotated[str, typer.Option(help="Where `tagbid dmp serve` listens.")] = "http://127.0.0.1:8100",
    id_type: Annotated[str, typer.Option(help="Type of all ids, for a file without the column id_type.")] = "",
    share_pct: Annotated[float, typer.Option(help="Size of the look-alike, per cent of the known users.")] = 5.0,
    include_seed: Annotated[bool, typer.Option(help="Make the seed's users members too.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a seed to a running server; `tagbid models expand` grows it into an audience."""
    from dmp.upload import upload

    query = {"name": name, "share_pct": str(share_pct), "include_seed": str(include_seed).lower()}
    if id_type:
        query["id_type"] = id_type
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=file.stat().st_size)
        told = asyncio.run(upload(file, url, key, advertiser, query, lambda size: bar.advance(task, size)))
    if as_json:
        typer.echo(msgspec.json.encode(told))
        return
    console.print(
        f"{told['audience']}: {told['uploaded']:,} lines, {told['invalid']:,} invalid, about {told['matched']:,} "
        f"known users (match rate {told['match_rate']:.0%}); {told['state']}"
    )
    for warning in told["warnings"]:
        console.print(f"[yellow]{warning}[/yellow]")


@app.command()
def serve(config: ConfigFile = None) -> None:
    """Take events and seed uploads, and tell tags, over HTTP until Ctrl-C or SIGTERM."""
    import uvloop

    from dmp import sync
    from dmp.app import listening
    from dmp.desk import Desk

    settings_ = settings(config)
    sync.check(settings_.collect.sync)
    ring = pseudonym.key_ring(settings_.data_dir)

    async def run(desk: Desk) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with listening(desk) as url:
            typer.echo(f"ready {url}")
            await stop.wait()

    with store.open_store(settings_) as tags, catalogue_of(config) as catalogue:
        client = tags.sync()
        store.check_durability(client, settings_.collect.durability)
        try:
            uvloop.run(run(Desk(settings_, catalogue, client, ring, url=tags.url)))
        except OSError as error:
            raise DmpError(f"cannot listen on {settings_.host}:{settings_.port}: {error.strerror or error}") from None
        finally:
            client.close()


IntoFolder = Annotated[Path, typer.Option(help="Folder of the event files; a run that was killed goes on there.")]
MappingName = Annotated[str, typer.Option(help="TOML file that says what the columns mean, or ipinyou, clickstream.")]
quarantines = typer.Typer(no_args_is_help=True, help="Rows of raw logs that became no event.")
app.add_typer(quarantines, name="quarantine")


@contextmanager
def ingest_bar(files: list[Path]) -> "Iterator[Callable[[str, float, int], None]]":
    """A progress bar over logs by their bytes, with rows/s."""
    sizes = {str(path): path.stat().st_size for path in files}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=sum(sizes.values()))
        begun, rows = time.monotonic(), 0
        done = dict.fromkeys(sizes, 0.0)

        def show(file: str, share: float, count: int) -> None:
            nonlocal rows
            rows += count
            done[file] = share * sizes[file]
            rate = rows / max(0.001, time.monotonic() - begun)
            bar.update(task, description=f"{rows:,} rows, {rate:,.0f}/s", completed=sum(done.values()))

        yield show


@app.command("ingest")
def ingest_logs(
    paths: Annotated[list[Path], typer.Argument(help="Logs, or folders of them: Parquet, CSV(.gz), JSON lines(.gz).")],
    into: IntoFolder,
    mapping: MappingName = "clickstream",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Turn raw behaviour logs into event files for `build`; ids become pseudonyms, bad rows go to quarantine."""
    from dmp import ingest
    from dmp import mapping as mappings

    meant = mappings.load(mapping)
    files = ingest.found(paths)
    begun = time.monotonic()
    with ingest_bar(files) as show:
        report = ingest.ingest(files, into, meant, key_ring(config), time.time_ns() // 1000, show)
    tell_ingested(report, time.monotonic() - begun, into, as_json)


@quarantines.command("list")
def list_quarantine(
    into: IntoFolder,
    reason: Annotated[str, typer.Option(help="Only rows refused for this.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what was refused, why, and where it stands; ids and digits are disguised."""
    from dmp import journal, quarantine

    if reason and reason not in quarantine.REASONS:
        raise DmpError(f"no rows are refused for {reason!r}; reasons: {', '.join(quarantine.REASONS)}")
    steps = journal.quarantined(journal.read(into))
    counts: dict[str, int] = {}
    for step in steps:
        for name, count in step.bad.items():
            counts[name] = counts.get(name, 0) + count
    rows = quarantine.listed([journal.quarantine(into, step.n) for step in steps if not reason or reason in step.bad])
    shown = list(itertools.islice((row for row in rows if reason in ("", row.reason)), limit))
    if as_json:
        typer.echo(msgspec.json.encode({"reasons": counts, "rows": shown}))
        return
    summary = Table("reason", "rows", "meaning")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        summary.add_row(name, f"{count:,}", quarantine.REASONS[name])
    console.print(summary)
    table = Table("reason", "file", "row", "content")
    for row in shown:
        table.add_row(row.reason, Text(row.file), str(row.row), Text(row.raw))
    console.print(table)


@quarantines.command("replay")
def replay_quarantine(into: IntoFolder, mapping: MappingName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Read the refused rows again from their logs, under a better mapping."""
    from dmp import ingest, journal
    from dmp import mapping as mappings

    meant = mappings.load(mapping)
    files = sorted({Path(step.file) for step in journal.quarantined(journal.read(into))})
    if gone := [str(path) for path in files if not path.exists()]:
        raise DmpError(f"{', '.join(gone)}: not there; a replay reads the rows, with their ids, from the log itself")
    begun = time.monotonic()
    with ingest_bar(files) as show:
        report = ingest.replay(into, meant, key_ring(config), time.time_ns() // 1000, show)
    tell_ingested(report, time.monotonic() - begun, into, as_json)


def key_ring(path: Path | None) -> pseudonym.KeyRing:
    return pseudonym.key_ring(settings(path).data_dir)


def tell_ingested(report: "Report", seconds: float, into: Path, as_json: bool) -> None:
    rate = report.rows / max(0.001, seconds)
    if as_json:
        told = msgspec.to_builtins(report) | {"seconds": round(seconds, 3), "rows_per_s": round(rate)}
        typer.echo(msgspec.json.encode(told))
        return
    console.print(
        f"{report.rows:,} rows of {report.files} files in {seconds:.1f} s ({rate:,.0f} rows/s): "
        f"{report.events:,} events, {report.duplicates:,} copies left out, "
        f"{sum(report.bad.values()):,} rows to quarantine"
        + (f"; {report.skipped} files were done before" if report.skipped else "")
    )
    for reason, rows in sorted(report.bad.items(), key=lambda item: -item[1]):
        console.print(f"  {reason}: {rows:,} (tagbid dmp quarantine list --into {into} --reason {reason})")


if __name__ == "__main__":
    sys.exit(commands.run(app, "tagbid dmp", sys.argv[1:]))
