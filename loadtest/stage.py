"""The processes a demo runs, each as an operator would start it: own data directory, own configuration, real ports.

Everything runs as a child of the demo and dies with it. A stage is one data directory with its tag store; the
store is started by the demo itself, the commands join it.
"""

import contextlib
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from dmp.config import DmpConfig
from dmp.store import Store, open_store
from loadtest import children
from loadtest.children import Child

EXCHANGE = "demo"
_READY = re.compile(r"^ready (\S+) admin (\S+)$", re.MULTILINE)
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
    config = _configuration(stage, {"bidder": {**_bidder(stage), "port": "0", "admin_port": "0"}})
    with _serve(stage, "bidder", config) as child:
        children.wait_until(child, lambda: _READY.search(child.log.read_text()) is not None)
        found = _READY.search(child.log.read_text())
        assert found is not None  # noqa: S101 - waited for above
        yield Running(found.group(1), found.group(2), child)


@contextlib.contextmanager
def dmp(stage: Stage) -> Iterator[Running]:
    """`tagbid dmp serve` on a free port, ready to take seeds."""
    port = free_port()
    config = _configuration(stage, {"dmp": {"port": str(port)}})
    with _serve(stage, "dmp", config) as child:
        running = Running(f"http://127.0.0.1:{port}", "", child)
        children.wait_until(child, lambda: answers(f"{running.url}/health"))
        yield running


@contextlib.contextmanager
def expander(stage: Stage) -> Iterator[Child]:
    """`tagbid models expand --watch`: grows audiences from seeds as they come."""
    with _command(stage, "expander", ["models", "expand", "--watch"], _configuration(stage, {})) as child:
        yield child


def free_port() -> int:
    """A port nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET is answered 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own http URL
            return bool(200 <= answer.status < 300)
    except (OSError, urllib.error.URLError):
        return False


def _serve(stage: Stage, room: str, config: Path) -> contextlib.AbstractContextManager[Child]:
    return _command(stage, room, [room, "serve"], config)


def _command(stage: Stage, name: str, arguments: list[str], config: Path) -> contextlib.AbstractContextManager[Child]:
    command = [sys.executable, "-m", *arguments, "--config", str(config)]
    return children.started(name, command, stage.folder / f"{name}.log", {KEY_VARIABLE: stage.key.hex()})


def _bidder(stage: Stage) -> dict[str, str]:
    return {
        "campaigns": quoted(str(stage.campaigns)),
        "models_dir": quoted(str(stage.models)),
        "gdpr_when_unknown": '"by_country"',
        **stage.bidder,
    }


def _configuration(stage: Stage, tables: Mapping[str, Mapping[str, str]]) -> Path:
    """Write the stage's `tagbid.toml`; one for each command, since their ports differ."""
    whole = {
        "dmp": {"data_dir": quoted(str(stage.folder)), **tables.get("dmp", {})},
        "models": {"models_dir": quoted(str(stage.models))},
        "bidder": tables.get("bidder", _bidder(stage)),
    }
    text = "\n".join(
        f"[{room}]\n" + "".join(f"{key} = {value}\n" for key, value in table.items()) for room, table in whole.items()
    )
    path = stage.folder / f"{'-'.join(tables) or 'models'}.toml"
    path.write_text(text)
    return path


def quoted(text: str) -> str:
    r"""A TOML basic string.

    >>> quoted('a"b')
    '"a\\\\"b"'
    """
    return msgspec.json.encode(text).decode()
