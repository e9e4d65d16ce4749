"""`tagbid dmp identity`: which ids are one person, and what people decide about it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from dmp import config as configuration
from dmp import pseudonym
from dmp.config import DmpConfig
from dmp.errors import DmpError
from dmp.schema import ID_TYPES, IdType, Uid

if TYPE_CHECKING:  # loads SciPy and Arrow, which only the commands that need them should wait for
    from dmp.identity_report import Counts, Person

app = typer.Typer(no_args_is_help=True, help="Which ids are one person.")
console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
TypedId = Annotated[str, typer.Argument(metavar="TYPE:ID", help=f"An id with its type: {', '.join(ID_TYPES)}.")]
EventFiles = Annotated[Path | None, typer.Argument(help="Event files, or a folder, whose ids are taken up first.")]


@app.command()
def link(first: TypedId, second: TypedId, config: ConfigFile = None, as_json: Json = False) -> None:
    """Say that two ids are one person's, who agreed to that."""
    _decide("link", (first, second), config, as_json)


@app.command()
def unlink(first: TypedId, second: TypedId, config: ConfigFile = None, as_json: Json = False) -> None:
    """Say that two ids are not one person's; only later events can tell otherwise."""
    _decide("unlink", (first, second), config, as_json)


@app.command()
def block(value: TypedId, config: ConfigFile = None, as_json: Json = False) -> None:
    """Let an id join nobody: a shop's phone, a test account."""
    _decide("block", (value,), config, as_json)


@app.command()
def unblock(value: TypedId, config: ConfigFile = None, as_json: Json = False) -> None:
    """Let a blocked id join again."""
    _decide("unblock", (value,), config, as_json)


@app.command()
def show(value: TypedId, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the person an id belongs to: all their ids as pseudonyms, and what each is linked with."""
    settings = _settings(config)
    _tell(_persons(settings, _typed(settings, value)), as_json)


@app.command()
def stats(config: ConfigFile = None, as_json: Json = False) -> None:
    """Count ids, edges and persons."""
    from dmp import identity, identity_report

    settings = _settings(config)
    records = identity.read(identity.edges_file(settings.data_dir))
    _tell_counts(identity_report.counts(len(records), identity.replay(records, settings.identity)), as_json)


@app.command()
def rebuild(events: EventFiles = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Replay the whole log into `identity/persons.parquet`, after taking up what event files say of ids."""
    from dmp import identity, identity_report, offline

    settings = _settings(config)
    learnt = 0 if events is None else offline.take_up_ids(settings, events, time.time_ns() // 1000)
    log = identity.edges_file(settings.data_dir)
    records = identity.read(log)
    graph = identity.replay(records, settings.identity)
    identity.write_persons(log.with_name("persons.parquet"), graph)
    _tell_counts(identity_report.counts(len(records), graph, learnt), as_json)


def _decide(
    what: Literal["link", "unlink", "block", "unblock"], texts: tuple[str, ...], config: Path | None, as_json: bool
) -> None:
    from dmp import identity

    op = {"link": identity.LINK, "unlink": identity.UNLINK, "block": identity.BLOCK, "unblock": identity.UNBLOCK}[what]
    settings = _settings(config)
    ids = [_typed(settings, text) for text in texts]
    now_us = time.time_ns() // 1000
    said = identity.Statement(op, now_us, *ids[0], *ids[1]) if ids[1:] else identity.Statement(op, now_us, *ids[0])
    identity.append(identity.edges_file(settings.data_dir), [said])
    _tell(_persons(settings, *ids), as_json)
    if not as_json:
        console.print("profiles follow at the next build")


def _settings(config: Path | None) -> DmpConfig:
    return configuration.load("dmp", DmpConfig, config)


def _typed(settings: DmpConfig, text: str) -> tuple[IdType, Uid]:
    """The type and pseudonym of an id given as TYPE:ID."""
    name, colon, raw = text.partition(":")
    kind = next((kind for kind in ID_TYPES if kind == name), None)
    if not colon or kind is None:
        raise DmpError(f"give an id with its type, as email:ann@example.com; types: {', '.join(ID_TYPES)}")
    uid = pseudonym.key_ring(settings.data_dir).uid(kind, raw)
    if uid is None:
        raise DmpError(f"that is no usable {kind} id (blank, all zeros, a placeholder, malformed, or forgotten)")
    return kind, uid


def _persons(settings: DmpConfig, *ids: tuple[IdType, Uid]) -> "list[Person]":
    """The persons of some ids, each once."""
    from dmp import identity, identity_report

    graph = identity.replay(identity.read(identity.edges_file(settings.data_dir)), settings.identity)
    found = [identity_report.person(graph, uid) for _, uid in ids]
    return list({person.person: person for person in found}.values())


def _tell(persons: "list[Person]", as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(persons))
        return
    for person in persons:
        table = Table("id", "type", "linked with", "joins nobody because", title=f"person {person.person}")
        for member in person.members:
            table.add_row(member.id, member.type, ", ".join(member.linked), member.apart_because)
        console.print(table)


def _tell_counts(counts: "Counts", as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(counts))
        return
    table = Table("", "", show_header=False)
    for name, value in msgspec.structs.asdict(counts).items():
        many = ", ".join(f"{key}: {n:,}" for key, n in value.items()) if isinstance(value, dict) else f"{value:,}"
        table.add_row(name.replace("_", " "), many)
    console.print(table)
