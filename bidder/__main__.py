"""`tagbid bidder …`: the bidder's commands."""

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from bidder import config, openrtb, serving
from bidder import explain as explaining
from bidder.config import BidderConfig
from bidder.supply_commands import supply
from bidder.topics import Topics
from dmp import commands, keys, store, trends
from dmp import config as files
from dmp.config import DmpConfig
from dmp.errors import ConfigError
from dmp.schema import User
from dmp.taxonomy import tag_id

LOG_FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"
app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.callback()
def bidder() -> None:
    """Answer OpenRTB requests, and explain single answers."""


app.command()(supply)


@app.command()
def serve(
    campaign_file: Annotated[
        Path | None, typer.Option("--campaigns", help="portfolio, else that of the config")
    ] = None,
    port: Annotated[int | None, typer.Option(help="public port, 0 for a free one")] = None,
    admin_port: Annotated[int | None, typer.Option(help="port of /metrics and /health, 0 for a free one")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="tagbid.toml")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes sharing the port, else as configured")] = None,
    ready_fd: Annotated[int | None, typer.Option(help="also write the ready line to this file descriptor")] = None,
) -> None:
    """Answer bid requests until SIGTERM; prints `ready <public URL> admin <admin URL>` when both ports answer."""
    import uvloop

    from bidder import app as process
    from bidder import supervisor

    settings = _settings(config_file, campaign_file, port, admin_port, workers)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)

    def ready(public_url: str, admin_url: str) -> None:
        line = f"ready {public_url} admin {admin_url}\n"
        sys.stdout.write(line)
        sys.stdout.flush()
        if ready_fd is not None:
            os.write(ready_fd, line.encode())
            os.close(ready_fd)

    dmp = files.load("dmp", DmpConfig, config_file)
    with (
        store.open_store(dmp) as opened,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        if settings.workers == 1:
            runner.run(process.serve(settings, dmp, opened, ready))
        else:
            options = [] if config_file is None else ["--config", str(config_file)]
            options += ["--campaigns", settings.campaigns]
            runner.run(supervisor.supervise(settings, Path(dmp.data_dir), options, ready))


@app.command(hidden=True)
def nursery(
    campaign_file: Annotated[Path, typer.Option("--campaigns")],
    port: Annotated[int, typer.Option()],
    workers: Annotated[int, typer.Option(min=2)],
    config_file: Annotated[Path | None, typer.Option("--config")] = None,
) -> None:
    """What the processes of `serve --workers` are forked from, started by it."""
    import uvloop

    from bidder import app as process
    from bidder import nursery as births
    from bidder import supervisor

    settings = _settings(config_file, campaign_file, port, 0, workers)
    settings = msgspec.structs.replace(settings, admin_host="127.0.0.1")
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    dmp = files.load("dmp", DmpConfig, config_file)

    def ready(public_url: str, admin_url: str) -> None:
        sys.stdout.write(f"ready {public_url} admin {admin_url}\n")
        sys.stdout.flush()

    inherited = births.born(settings, process.public_url_of(settings, port))
    if inherited is None:
        return
    with store.open_store(dmp) as opened, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process.serve(settings, dmp, opened, ready, supervisor.told_to_serve, inherited))


def _settings(
    config_file: Path | None, campaign_file: Path | None, port: int | None, admin_port: int | None, workers: int | None
) -> BidderConfig:
    """The configuration, with what the command line says instead."""
    given = {
        "campaigns": None if campaign_file is None else str(campaign_file),
        "port": port,
        "admin_port": admin_port,
        "workers": workers,
    }
    return msgspec.structs.replace(
        config.load(config_file), **{key: value for key, value in given.items() if value is not None}
    )


@app.command()
def explain(
    request: Annotated[Path, typer.Argument(help="a bid request as JSON, - for standard input")],
    campaign_file: Annotated[
        Path | None, typer.Option("--campaigns", help="portfolio, else that of the config")
    ] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="tagbid.toml")] = None,
    exchange: Annotated[str, typer.Option(help="whose endpoint received it")] = "explain",
    user_tags: Annotated[str, typer.Option(help="what is known about the user: interest.travel=80,...")] = "",
    user_audiences: Annotated[str, typer.Option(help="audiences the user is in: acme/buyers,...")] = "",
    no_user: Annotated[bool, typer.Option("--no-user", help="as if the store could not be read")] = False,
    hot: Annotated[str, typer.Option(help="topics that are hot: travel,ski boots,...")] = "",
    at: Annotated[int | None, typer.Option(help="unix seconds of the request, else now")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Replay one request and print every rule's answer for every campaign."""
    settings = config.load(config_file)
    told = msgspec.structs.replace(settings, campaigns=str(campaign_file or settings.campaigns), model_max_age_h=0)
    try:
        body = sys.stdin.buffer.read() if str(request) == "-" else request.read_bytes()
        parsed = openrtb.decode(body)
    except OSError as error:
        raise ConfigError(str(request), [str(error)]) from None
    except openrtb.BadRequest as error:
        raise ConfigError(str(request), [f"is no bid request: {error.reason}; it would be answered with 400"]) from None
    user = None if no_user else User(_scores(user_tags), frozenset(map(keys.number, _names(user_audiences))))
    now_us = time.time_ns() // 1000 if at is None else at * 1_000_000
    topics = Topics([trends.stated(name, now_us) for name in _names(hot)])
    found = explaining.explain(
        parsed,
        user,
        serving.load(told, settings.public_url or f"http://{settings.host}", topics=topics).snapshot,
        now_us,
        settings.exchanges.get(exchange, config.DEFAULT_EXCHANGE),
        exchange,
    )
    if as_json:
        print(json.dumps(msgspec.to_builtins(found), indent=1))  # noqa: T201 - the command's output
    else:
        explaining.show(found, Console())


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _scores(text: str) -> dict[int, int]:
    """Text "interest.travel=80" to {tag id: 80}; a name alone is 100. Raises UnknownTag and ConfigError."""
    found = {}
    for part in _names(text):
        name, _, score = part.partition("=")
        if score and not (score.isascii() and score.isdecimal() and int(score) <= 100):
            raise ConfigError("--user-tags", [f"{part}: a score is a whole number from 0 to 100"])
        found[tag_id(name)] = int(score) if score else 100
    return found


if __name__ == "__main__":
    sys.exit(commands.run(app, "tagbid bidder", sys.argv[1:]))
