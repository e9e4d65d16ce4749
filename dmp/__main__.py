"""The DMP's commands."""

import asyncio
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table

from dmp import (
    advertiser_commands,
    archive_commands,
    audience_commands,
    brushing_commands,
    commands,
    hot_commands,
    identity_commands,
    ingest_commands,
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
from dmp.errors import DmpError, StoreUnavailable
from dmp.schema import IdType, Uid

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
    columns = ("weight", "as of", "source", "half-life, lives", "made by")
    named = Column("tag", overflow="fold", no_wrap=True)  # to be copied whole
    table = Table(named, *(Column(name, overflow="fold") for name in columns), title=title, box=box.SIMPLE)
    for tag in (*found.tags, *found.realtime):
        lasting = f"{f'{tag.half_life_days} d' if tag.half_life_days else 'none'}, {tag.ttl_days} d"
        made_by = f"{tag.rule} {tag.rule_sha256[:8]}".rstrip()
        names = f"{tag.tag}\n  {tag.label_en} {tag.label_zh}".rstrip()
        table.add_row(names, str(tag.weight), tag.as_of or "now", tag.source, lasting, made_by)
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
app.add_typer(advertiser_commands.advertisers, name="advertisers")
app.add_typer(advertiser_commands.seed_files, name="seeds")
app.command("ingest")(ingest_commands.ingest_logs)
app.add_typer(ingest_commands.quarantines, name="quarantine")


@app.command("store")
def run_store(config: ConfigFile = None) -> None:
    """Run the tag store in the foreground, for other commands to join; ends on Ctrl-C or SIGTERM.

    Exits with 2 when the server ends by itself, so that whoever runs this knows to start it again.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with store.open_store(settings(config)) as tags:
        console.print(
            f"tag store at {tags.url}" + ("" if tags.server else " (already running, run by another process)")
        )
        while tags.server is not None and not stop.wait(0.5):
            if (status := tags.server.poll()) is not None:
                log = Path(settings(config).data_dir) / "store" / "server.log"
                raise StoreUnavailable(f"the tag store ended with status {status}; see {log}, then run this again")


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

    with store.open_store(settings_) as tags, advertiser_commands.catalogue_of(config) as catalogue:
        client = tags.sync()
        store.check_durability(client, settings_.collect.durability)
        try:
            uvloop.run(run(Desk(settings_, catalogue, client, ring, url=tags.url)))
        except OSError as error:
            raise DmpError(f"cannot listen on {settings_.host}:{settings_.port}: {error.strerror or error}") from None
        finally:
            client.close()


if __name__ == "__main__":
    sys.exit(commands.run(app, "tagbid dmp", sys.argv[1:]))
