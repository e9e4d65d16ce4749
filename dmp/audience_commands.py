"""`tagbid dmp audience`: who is meant by an expression, how many, how they differ, and an audience made of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dmp import config as configuration
from dmp import store
from dmp.config import DmpConfig

if TYPE_CHECKING:  # loads SQLAlchemy and pyarrow, for which `--help` should not wait
    import redis

    from dmp.catalogue import Catalogue
    from dmp.insight import Asker

app = typer.Typer(
    no_args_is_help=True, help="Audiences by expression: sizes, overlaps, insight; never about few people."
)
console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
EXPRESSION_HELP = (
    'For instance: "interest.travel >= 60 AND NOT lifecycle.lost AND seen < 7d"; audience:acme/buyers; all.'
)
Expression = Annotated[str, typer.Argument(help=EXPRESSION_HELP)]
For = Annotated[str, typer.Option("--advertiser", help="Ask as this advertiser: its own audiences only, its own log.")]


@app.command()
def size(expression: Expression, advertiser: For = "", config: ConfigFile = None, as_json: Json = False) -> None:
    """How many users an expression means."""
    with _asking(config, advertiser) as (asker, *_):
        found = asker.size(expression)
    if _printed(found, as_json):
        return
    console.print(f"{found.users:,} of {found.of:,} users ({found.share:.0%}), generation {found.generation}; rounded")


@app.command()
def overlap(
    a: Expression, b: Expression, advertiser: For = "", config: ConfigFile = None, as_json: Json = False
) -> None:
    """How many users two expressions share."""
    with _asking(config, advertiser) as (asker, *_):
        found = asker.overlap(a, b)
    if _printed(found, as_json):
        return
    table = Table("", "users", "of them in both", title=f"generation {found.generation}, rounded")
    table.add_row(found.a, f"{found.users_a:,}", f"{found.share_of_a:.0%}")
    table.add_row(found.b, f"{found.users_b:,}", f"{found.share_of_b:.0%}")
    table.add_row("both", f"{found.both:,}", "")
    console.print(table)


@app.command()
def insight(
    expression: Expression,
    base: Annotated[str, typer.Option(help="Compare with these users.")] = "all",
    top: Annotated[int, typer.Option(min=1, help="Show so many tags.")] = 30,
    advertiser: For = "",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Which tags a group has more often than others: the target group index (100 = as in the base) of every tag."""
    with _asking(config, advertiser) as (asker, *_):
        found = asker.insight(expression, base)
    if _printed(found, as_json):
        return
    title = f"{found.users:,} users against {found.base_users:,}, generation {found.generation}, rounded"
    table = Table("tag", "", "", "index", "users", "share", "in the base", title=title)
    for entry in found.tags[:top]:
        shares = (f"{entry.share:.1%}", f"{entry.base_share:.1%}")
        table.add_row(entry.tag, entry.label_en, entry.label_zh, str(entry.index), f"{entry.users:,}", *shares)
    console.print(table)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="ADVERTISER/NAME", help="What campaigns will call it.")],
    expression: Expression,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it lives.")] = 30,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make the users of an expression a live audience, which a campaign can target at the next bid."""
    from dmp import choosing
    from dmp.audiences import BadName, told

    advertiser, slash, short = name.partition("/")
    if not slash:
        raise BadName(name)
    now_us = time.time_ns() // 1000
    columns = (TextColumn("storing members"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        _asking(config, advertiser) as (asker, settings, catalogue, client),
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("")
        expires_us = now_us + days * 86_400_000_000
        made = choosing.create(
            settings, catalogue, client, asker, advertiser, short, expression, expires_us, now_us,
            lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    if _printed({"audience": made.id, "state": made.state, "members": told(made.members), **made.report}, as_json):
        return
    console.print(f"audience {made.id} is {made.state}: about {told(made.members):,} members for {days} days")


@app.command("list")
def list_audiences(
    advertiser: Annotated[str, typer.Argument(metavar="ADVERTISER", help="Whose audiences.")],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """The audiences of an advertiser, chosen or grown from seeds, with their state and rounded size."""
    from dmp.audiences import told
    from dmp.catalogue import open_catalogue

    catalogue = open_catalogue(Path(configuration.load("dmp", DmpConfig, config).data_dir))
    try:
        found = catalogue.audiences(advertiser)
    finally:
        catalogue.close()
    if _printed([{"audience": a.id, "state": a.state, "members": told(a.members)} for a in found], as_json):
        return
    table = Table("audience", "state", "members", "made of")
    for audience in found:
        made_of = str(audience.report.get("expression", "a seed"))
        table.add_row(audience.id, audience.state, f"{told(audience.members):,}", Text(made_of))
    console.print(table)


@contextmanager
def _asking(config: Path | None, advertiser: str) -> "Iterator[tuple[Asker, DmpConfig, Catalogue, redis.Redis]]":
    from dmp import choosing
    from dmp.audiences import check_name
    from dmp.catalogue import open_catalogue
    from dmp.insight import OPERATOR

    settings = configuration.load("dmp", DmpConfig, config)
    tenant = check_name(advertiser) if advertiser else OPERATOR
    catalogue = open_catalogue(Path(settings.data_dir))
    try:
        with store.open_store(settings) as tags:
            client = tags.sync(timeout_s=30.0)
            clock = lambda: time.time_ns() // 1000  # noqa: E731 - one value
            with choosing.asking(settings, catalogue, client, clock, tenant) as asker:
                yield asker, settings, catalogue, client
    finally:
        catalogue.close()


def _printed(found: Any, as_json: bool) -> bool:
    if as_json:
        typer.echo(msgspec.json.encode(found))
    return as_json
