"""`tagbid dmp forget | export | sweep | audit`: what a person may ask of us, how long data lives, who did what."""

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dmp import audit, identity, pseudonym, store
from dmp import config as configuration
from dmp.audit import Entry
from dmp.config import DmpConfig
from dmp.errors import DmpError
from dmp.forgotten import digest
from dmp.schema import ID_TYPES, IdType, Uid

if TYPE_CHECKING:
    import redis

audit_app = typer.Typer(no_args_is_help=True, help="The audit log.")
console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RawId = Annotated[str, typer.Argument(metavar="ID", help="The user's id as the site or exchange knows it.")]
Type = Annotated[str, typer.Option(help="cookie, device, exchange, email, phone, login or household.")]
Also = Annotated[
    list[Path] | None, typer.Option("--also", help="A folder outside the data directory with events; repeatable.")
]
Alone = Annotated[bool, typer.Option("--alone", help="This id only, not the others known to be the same person's.")]
TRACE_LEFT = 1


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `tagbid dmp`."""
    app.command()(forget)
    app.command()(export)
    app.command()(sweep)
    app.command()(opt_out_link)
    app.add_typer(audit_app, name="audit")


def forget(
    raw_id: RawId,
    id_type: Type = "cookie",
    also: Also = None,
    alone: Alone = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Erase a user everywhere, for good, and prove it: store, streams, logs, event files, audiences, bitmaps.

    Event files that builds read are found by the builds' manifests. Exits 1 when a trace is left; doing it again is
    safe.
    """
    from dmp import forget as erasure

    settings = configuration.load("dmp", DmpConfig, config)
    uids = _person(settings, raw_id, id_type, alone)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        store.open_store(settings) as tags,
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("store")
        now_us = time.time_ns() // 1000
        receipt = erasure.forget(
            settings,
            tags.sync(timeout_s=30.0),
            uids,
            now_us,
            (*erasure.event_folders(settings), *(also or ())),
            lambda step, done, total: bar.update(task, description=step, completed=done, total=total),
        )
    _audit(settings, now_us, "forget", uids[0])
    if as_json:
        typer.echo(msgspec.json.encode(receipt))
    else:
        console.print(
            f"{len(uids)} ids forgotten: {receipt.keys} keys, {receipt.entries} stream entries and "
            f"{sum(receipt.files.values())} places in {len(receipt.files)} files erased in {receipt.seconds:.1f} s"
        )
        for place in receipt.left:
            console.print(f"[red]still found in {place}[/red]; stop what writes there and do it again", markup=True)
    if receipt.left:
        raise typer.Exit(TRACE_LEFT)


def export(
    raw_id: RawId,
    id_type: Type = "cookie",
    out: Annotated[Path | None, typer.Option(help="Write here instead of to the terminal.")] = None,
    also: Also = None,
    alone: Alone = False,
    config: ConfigFile = None,
) -> None:
    """Everything that is held about a user, as JSON."""
    from contextlib import closing

    from dmp import forget as erasure
    from dmp import held
    from dmp.catalogue import open_catalogue

    settings = configuration.load("dmp", DmpConfig, config)
    uids = _person(settings, raw_id, id_type, alone)
    now_us = time.time_ns() // 1000
    places = (*erasure.event_folders(settings), *(also or ()))
    with (
        store.open_store(settings) as tags,
        closing(open_catalogue(Path(settings.data_dir))) as catalogue,
    ):
        client: redis.Redis = tags.sync(timeout_s=30.0)
        found = held.export(settings, catalogue, client, uids, places, now_us // 1_000_000)
    _audit(settings, now_us, "export", uids[0])
    text = msgspec.json.format(msgspec.json.encode(found), indent=1)
    if out is None:
        typer.echo(text)
    else:
        out.write_bytes(text)


def sweep(config: ConfigFile = None, as_json: Json = False) -> None:
    """Remove what is older than the `dmp.retention` table allows; to be run once a day."""
    from dmp import retention

    settings = configuration.load("dmp", DmpConfig, config)
    removed = retention.sweep(settings, time.time_ns() // 1000)
    if as_json:
        typer.echo(msgspec.json.encode(removed))
    else:
        console.print("removed " + ", ".join(f"{count} of {kind}" for kind, count in removed.items()))


def opt_out_link(
    raw_id: RawId,
    id_type: Type = "cookie",
    url: Annotated[
        str | None, typer.Option(help="Where the world reaches `tagbid dmp serve`; default: where it listens.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Print the link with which a person opts out without logging in."""
    from dmp import optout_link as links

    settings = configuration.load("dmp", DmpConfig, config)
    uid = _person(settings, raw_id, id_type, alone=True)[0]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base = f"http://{host}:{settings.port}" if url is None else url.rstrip("/")
    typer.echo(f"{base}{links.ROUTE}?t={links.token(settings.data_dir, uid)}")


@audit_app.command()
def verify(config: ConfigFile = None, as_json: Json = False) -> None:
    """Check every line of the audit log against its hash chain; exits 2 naming the first that was changed."""
    settings = configuration.load("dmp", DmpConfig, config)
    entries = list(audit.entries(settings.data_dir))
    end = entries[-1].chain if entries else audit.START
    if as_json:
        typer.echo(msgspec.json.encode({"entries": len(entries), "end": end}))
    else:
        console.print(f"{len(entries)} entries, none changed; the chain ends with {end}")


def _person(settings: DmpConfig, raw_id: str, id_type: str, alone: bool) -> list[Uid]:
    """The pseudonyms of an id and, unless alone, of all that are known to be the same person's."""
    try:
        kind = msgspec.convert(id_type, IdType)
    except msgspec.ValidationError:
        raise DmpError(f"id type {id_type!r} is none of {', '.join(ID_TYPES)}") from None
    ring = pseudonym.key_ring(settings.data_dir)
    uid, former = ring.pseudonym(kind, raw_id), ring.former(kind, raw_id)
    if uid is None:
        raise DmpError(f"that is no usable {id_type} id (blank, all zeros, a placeholder, or malformed)")
    own = [uid] if former is None else [uid, former]
    if alone:
        return own
    graph = identity.replay(identity.read(identity.edges_file(settings.data_dir)), settings.identity)
    return list(dict.fromkeys([*own, *(member for one in own for member, _ in identity.members(graph, one))]))


def _audit(settings: DmpConfig, now_us: int, what: str, uid: Uid) -> None:
    """Note an act about a user by the hash of their pseudonym: the log must outlast their erasure unchanged."""
    audit.record(settings.data_dir, Entry(now_us, getpass.getuser(), what, digest(uid).hex()))
