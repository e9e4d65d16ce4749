"""`tagbid dmp taxonomy`: the tag tree, and the labels that wait to be mapped to it."""

import getpass
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dmp import config as configuration
from dmp import decisions, standardise, taxonomy, taxonomy_check
from dmp.config import DmpConfig
from dmp.decisions import Decision
from dmp.errors import DmpError
from dmp.standardise import Answer

app = typer.Typer(help="The standard tags, and free labels on their way to them.")
console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Label = Annotated[str, typer.Argument(help="The free label, with its facet if it has one.")]
Who = Annotated[str, typer.Option(default_factory=getpass.getuser, help="Who decides; default: your login name.")]
STATES = ("mapped", "suggested", "unknown", "rejected")


def _data_dir(config: Path | None) -> str:
    return configuration.load("dmp", DmpConfig, config).data_dir


@app.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: Json = False) -> None:
    """The standard tags, and free labels on their way to them; without a command: `show`."""
    if context.invoked_subcommand is None:
        show(as_json=as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A tag or group; shows it and all under it.")] = "",
    as_json: Json = False,
) -> None:
    """List the standard tags."""
    if name:
        taxonomy.tag_id(name)
    tags = [tag for tag in taxonomy.TAGS if not name or f"{tag.name}.".startswith(f"{name}.")]
    if as_json:
        typer.echo(msgspec.json.encode(tags))
        return
    table = Table("id", "name", "English", "中文", "IAB content", "IAB audience", "half-life", "lives", "notes")
    for tag in tags:
        notes = ", ".join(filter(None, ("sensitive" if tag.sensitive else "", "one only" if tag.exclusive else "")))
        half_life = f"{tag.half_life_days} d" if tag.half_life_days else ""
        ids = (tag.iab_content, tag.iab_audience)
        table.add_row(str(tag.id), tag.name, tag.label_en, tag.label_zh, *ids, half_life, f"{tag.ttl_days} d", notes)
    console.print(table)


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="Taxonomy CSV; default: the one of this release.")] = None,
    as_json: Json = False,
) -> None:
    """Check a taxonomy file; exits 1 and tells every problem if there is one."""
    try:
        text = file.read_text(encoding="utf-8") if file else taxonomy.packaged()
    except OSError as error:
        raise DmpError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DmpError(f"{file}: is no UTF-8 text ({error.reason} at byte {error.start})") from None
    problems = taxonomy_check.problems(text)
    if as_json:
        typer.echo(msgspec.json.encode({"problems": problems}))
    elif problems:
        typer.echo("\n".join(problems), err=True)
    else:
        typer.echo(f"{len(taxonomy.parse(text))} tags, no problem")
    if problems:
        raise typer.Exit(1)


@app.command("import")
def import_labels(
    file: Annotated[Path, typer.Argument(help="CSV with the column label and, if you like, count.")],
    at_version: Annotated[
        int | None, typer.Option(min=0, help="Answer as after this many decisions, and queue nothing.")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Map the labels of a source to tags and queue what a person must decide."""
    root = _data_dir(config)
    made = decisions.read(decisions.decisions_file(root), at_version)
    decided = decisions.replay(made)
    answers = [standardise.standard(label, n, decided) for label, n in standardise.read_labels(file).items()]
    answers.sort(key=lambda answer: -answer.count)
    if at_version is None:
        standardise.enqueue(standardise.queue_file(root), answers)
    states: Counter[str] = Counter(answer.status for answer in answers)
    total = sum(answer.count for answer in answers)
    mapped = sum(answer.count for answer in answers if answer.status == "mapped")
    if as_json:
        head = {state: states[state] for state in STATES}
        share = round(mapped / total, 4) if total else 0.0
        typer.echo(msgspec.json.encode({"version": len(made), **head, "mapped_share": share, "labels": answers}))
        return
    console.print(_table(answers))
    told = ", ".join(f"{states[state]:,} {state}" for state in STATES)
    console.print(f"{len(answers):,} labels: {told}; {mapped:,} of {total:,} uses are mapped (decisions: {len(made)})")


@app.command()
def review(config: ConfigFile = None, as_json: Json = False) -> None:
    """List the labels that wait for a person, the most frequent first."""
    root = _data_dir(config)
    decided = decisions.replay(decisions.read(decisions.decisions_file(root)))
    waiting = standardise.pending(standardise.queue_file(root), decided)
    if as_json:
        typer.echo(msgspec.json.encode(waiting))
        return
    console.print(_table(waiting))


@app.command()
def accept(
    label: Label,
    tag: Annotated[str, typer.Argument(help="Name of the tag that the label means.")],
    who: Who,
    sensitive: Annotated[bool, typer.Option(help="I know that a sensitive tag is touched.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Decide that a label means a tag, from the next build on."""
    log = decisions.decisions_file(_data_dir(config))
    _told(decisions.record(log, "accept", label, tag, who, time.time_ns() // 1000, sensitive), as_json)


@app.command()
def reject(label: Label, who: Who, config: ConfigFile = None, as_json: Json = False) -> None:
    """Decide that a label means no tag, even where an alias would, from the next build on."""
    log = decisions.decisions_file(_data_dir(config))
    _told(decisions.record(log, "reject", label, "", who, time.time_ns() // 1000), as_json)


def _told(decision: Decision, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(decision))
    else:
        meaning = decision.tag or "no tag"
        typer.echo(f"decision {decision.version}: {_printable(decision.label)} means {meaning} ({decision.who})")


def _table(answers: list[Answer]) -> Table:
    table = Table("label", "count", "state", "by", "tag, or what it may be")
    for answer in answers:
        likely = ", ".join(f"{s.tag} {s.score:.2f}{' sensitive' if s.sensitive else ''}" for s in answer.suggestions)
        label = escape(_printable(answer.label))
        table.add_row(label, f"{answer.count:,}", answer.status, answer.how, answer.tag or likely)
    return table


def _printable(label: str) -> str:
    """Labels come from strangers' files: no control characters reach a terminal."""
    return label if label.isprintable() else ascii(label)
