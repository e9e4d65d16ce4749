"""The processes a demo runs, each as an operator would start it: own data directory, own configuration, real ports.

Everything runs as a child of the demo and dies with it. A stage is one data directory with its tag store; the
store is started by the demo itself, the commands join it.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dmp import keys
from dmp.config import DmpConfig
from dmp.store import Store, open_store
from loadtest import children
from loadtest.children import Child

EXCHANGE = "demo"
_READY = re.compile(r"^ready (\S+)(?: admin (\S+))?$", re.MULTILINE)
KEY_VARIABLE = "TAGBID_PSEUDONYM_KEY"


class Stage(msgspec.Struct, frozen=True):
    """One data directory. key: the pseudonym key all stages share, so that a user is the same user in each.

    campaigns: portfolio file. models: registry root. bidder: further keys of the `[bidder]` table, as TOML values.
    """

    folder: Path
    key: bytes
    campaigns: Path
    models: Path
    bidder: dict[str, str] = {}

    @property
    def dmp(self) -> DmpConfig:
        return DmpConfig(data_dir=str(self.folder))

    @property
    def bid_log(self) -> Path:
        return self.folder / "bidlog"


class Running(msgspec.Struct, frozen=True):
    """A started server: where it answers, where it tells about itself, and its process."""

    url: str
    admin: str
    child: Child


@contextlib.contextmanager
def store(stage: Stage) -> Iterator[Store]:
    """The stage's tag store, ours as long as the block lasts."""
    stage.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open_store(stage.dmp) as opened:
        yield opened


@contextlib.contextmanager
def bidder(stage: Stage) -> Iterator[Running]:
    """`tagbid bidder serve` on free ports, ready to answer."""
    with _command(stage, "bidder", "serve") as child:
        yield _ready(child)


@contextlib.contextmanager
def dmp(stage: Stage) -> Iterator[Running]:
    """`tagbid dmp serve` on a free port, ready to take seeds."""
    with _command(stage, "dmp", "serve") as child:
        yield _ready(child)


@contextlib.contextmanager
def streamer(stage: Stage) -> Iterator[Child]:
    """`tagbid dmp stream`: turns collected events into real-time tags; ready once it holds its partitions."""
    with (
        store(stage) as opened,
        contextlib.closing(opened.sync()) as client,
        _command(stage, "dmp", "stream") as child,
    ):
        partitions = range(stage.dmp.stream.partitions)
        children.wait_until(child, lambda: all(client.exists(keys.event_owner(p)) for p in partitions))
        yield child


@contextlib.contextmanager
def expander(stage: Stage) -> Iterator[Child]:
    """`tagbid models expand --watch`: grows audiences from seeds as they come."""
    with _command(stage, "models", "expand", "--watch") as child:
        yield child


def _command(stage: Stage, room: str, *arguments: str) -> contextlib.AbstractContextManager[Child]:
    command = [sys.executable, "-m", room, *arguments, "--config", str(_configuration(stage))]
    log = f"{room}.log" if arguments[0] == "serve" else f"{room}-{arguments[0]}.log"
    return children.started(room, command, stage.folder / log, {KEY_VARIABLE: stage.key.hex()})


def _ready(child: Child) -> Running:
    """The server's URLs, once it has printed that it is ready."""
    children.wait_until(child, lambda: _READY.search(child.log.read_text(errors="replace")) is not None)
    found = _READY.search(child.log.read_text(errors="replace"))
    assert found is not None  # noqa: S101 - waited for above
    return Running(found.group(1), found.group(2) or "", child)


def _configuration(stage: Stage) -> Path:
    """Write the stage's `tagbid.toml`, with free ports everywhere."""
    tables: dict[str, dict[str, str]] = {
        "dmp": {"data_dir": quoted(str(stage.folder)), "port": "0"},
        "models": {"models_dir": quoted(str(stage.models)), "watch_s": "0.25"},
        "bidder": {
            "port": "0",
            "admin_port": "0",
            "campaigns": quoted(str(stage.campaigns)),
            "models_dir": quoted(str(stage.models)),
            **stage.bidder,
        },
    }
    path = stage.folder / "tagbid.toml"
    path.write_text(
        "\n".join(f"[{room}]\n" + "".join(f"{k} = {v}\n" for k, v in table.items()) for room, table in tables.items())
    )
    return path


def quoted(text: str) -> str:
    r"""A TOML basic string.

    >>> quoted('a"b')
    '"a\\"b"'
    """
    return msgspec.json.encode(text).decode()
