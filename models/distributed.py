"""One training on several processes: LightGBM's own socket mode, rows split by user, children of this process.

Every worker is given the same sample of rows and bins by it before the sockets are linked, so all of them cut features
at the same values, those a single process would cut at. Left to itself, LightGBM has each worker bin a share of the
features by its own rows and send the result round; a categorical feature without a value among those rows then crashes
it (seen with 4.7: a bin mapper of one bin and no category is copied from a null pointer). Every worker judges by all
validation rows, so all of them stop after the same tree.

A worker ends when its standard input does, so none outlives this process. LightGBM waits for ever for a peer that is
gone; therefore the first worker that ends with an error, or all that say nothing for `STALL_S`, end the training.
The ports listen on every address of the machine while the workers look for each other, as LightGBM opens them so.
"""

import queue
import socket
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt

from dmp.errors import TagbidError
from models import features

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Blocks = Iterator[tuple[Ints, Floats]]
"""Rows block by block: the worker of each, and X, float64 (rows, features)."""

STALL_S = 600.0
LINK_MIN = 2  # LightGBM's time_out: how long a worker looks for the others
SAMPLE_ROWS = 200_000  # that bins are cut by; LightGBM's own default
_STEP_S = 0.2


class WorkerLost(TagbidError):
    """A worker of a distributed training died or stopped answering."""


class TooManyWorkers(TagbidError):
    """There are more workers than users to share out."""


class Team(msgspec.Struct, frozen=True):
    """Who trains. workers: processes; below 2 this one trains alone. dask: address of a Dask scheduler whose workers
    run them, "local" for a cluster of this machine, "" for children of this process. stall_s: silence that ends it.
    """

    workers: int = 1
    dask: str = ""
    stall_s: float = STALL_S


class Job(msgspec.Struct, frozen=True):
    """What every worker is told. params: LightGBM's. machines: "host:port" of each rank. weighted: rows have weights.

    trees, patience: at most so many, stopped when so many brought nothing; patience 0: all of them.
    """

    params: dict[str, Any]
    machines: list[str]
    trees: int
    patience: int
    weighted: bool


class Word(msgspec.Struct, frozen=True):
    """What a worker says on standard output, a JSON line each. round: trees so far, 0 when its rows are binned."""

    rank: int
    round: int


class Run(msgspec.Struct, frozen=True):
    """One worker process. errors: the file of what it says on standard error."""

    rank: int
    process: subprocess.Popen[bytes]
    errors: Path


def shares(uids: Sequence[bytes | None], row_keys: Sequence[str], workers: int) -> Ints:
    """The worker of every row, by its user (by the row's key where the user is unknown), so that users stay whole.

    >>> shares([b"a", b"b", b"a"], ["1", "2", "3"], 2).tolist()
    [1, 1, 1]
    """
    return np.array(
        [zlib.crc32(uid or key.encode()) % workers for uid, key in zip(uids, row_keys, strict=True)], dtype=np.int64
    )


def write(
    folder: Path,
    owners: Ints,
    blocks: Blocks,
    labels: Floats,
    weights: Floats | None,
    seed: int,
    workers: int,
) -> None:
    """Shards of the training rows, one folder a rank, and the sample all bin by; one block in memory at a time.

    owners, labels, weights: (rows,), in the order of the blocks. Raises TooManyWorkers when a worker gets no row.
    """
    counts = np.bincount(owners, minlength=workers)
    if not counts.all():
        raise TooManyWorkers(
            f"{workers} workers, but no user of {len(owners)} rows for one of them; use fewer --workers"
        )
    picked = np.zeros(len(owners), dtype=bool)
    picked[np.random.default_rng(seed).permutation(len(owners))[:SAMPLE_ROWS]] = True
    width = len(features.FEATURES)

    def opened(path: Path, rows: int) -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(path, "w+", np.float64, (rows, width))

    sample = opened(folder / "sample.npy", int(picked.sum()))
    shards = [opened(folder / f"{rank}" / "X.npy", int(rows)) for rank, rows in enumerate(counts)]
    at, filled, sampled = 0, [0] * len(shards), 0
    for owner, X in blocks:
        kept = X[picked[at : at + len(X)]]
        sample[sampled : sampled + len(kept)] = kept
        sampled, at = sampled + len(kept), at + len(X)
        for rank, shard in enumerate(shards):
            own = X[owner == rank]
            shard[filled[rank] : filled[rank] + len(own)] = own
            filled[rank] += len(own)
    for rank in range(len(shards)):
        np.save(folder / f"{rank}" / "y.npy", labels[owners == rank])
        if weights is not None:
            np.save(folder / f"{rank}" / "w.npy", weights[owners == rank])


def write_validation(folder: Path, X: Floats, labels: Floats, weights: Floats | None, start: float) -> None:
    """What every worker judges by. start: raw score that rows begin with, 0 for none."""
    starts = np.full(len(labels), start) if start else np.empty(0)
    np.savez(folder / "valid.npz", X=X, y=labels, start=starts, w=np.empty(0) if weights is None else weights)


def train(
    folder: Path, team: Team, params: Mapping[str, Any], trees: int, patience: int, *, weighted: bool
) -> lightgbm.Booster:
    """The booster that the workers of a written folder come to; its best trees only.

    Raises WorkerLost, with what the worker said, when one dies or none makes progress.
    """
    told = {
        **params,
        "tree_learner": "data",
        "pre_partition": True,
        "time_out": LINK_MIN,
        "num_threads": max(1, int(params.get("num_threads", 1)) // team.workers),
    }
    if team.dask:
        from models import dask_team

        text = dask_team.run(folder, team, Job(told, [], trees, patience, weighted))
    else:
        with free_ports(team.workers) as ports:
            machines = [f"127.0.0.1:{port}" for port in ports]
        (folder / "job.json").write_bytes(msgspec.json.encode(Job(told, machines, trees, patience, weighted)))
        with ExitStack() as stack:
            words: queue.SimpleQueue[Word] = queue.SimpleQueue()
            runs = [stack.enter_context(started(folder, rank, words)) for rank in range(team.workers)]
            follow(runs, words, team.stall_s)
        text = (folder / "model.txt").read_text()
    return lightgbm.Booster(model_str=without_team(text))


def without_team(text: str) -> str:
    r"""A model's text without how it was trained together, which whoever loads it would try to link up with again.

    >>> without_team("[num_leaves: 7]\n[machines: a:1,b:2]\n[num_machines: 2]\n[seed: 1]")
    '[num_leaves: 7]\n[seed: 1]'
    """
    told = ("[machines:", "[num_machines:", "[local_listen_port:", "[tree_learner:", "[pre_partition:", "[time_out:")
    return "\n".join(line for line in text.split("\n") if not line.startswith(told))


@contextmanager
def started(folder: Path, rank: int, words: "queue.SimpleQueue[Word]") -> Iterator[Run]:
    """A worker process; it is gone when the block is left."""
    errors = folder / f"{rank}" / "errors.txt"
    with errors.open("wb") as err:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", "models.distributed_worker", str(folder), str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
        )

    def listen() -> None:
        assert process.stdout is not None  # noqa: S101 - piped above
        for line in process.stdout:
            try:
                words.put(msgspec.json.decode(line, type=Word))
            except msgspec.DecodeError:
                continue  # LightGBM prints here too

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield Run(rank, process, errors)
    finally:
        process.kill()
        process.wait()
        listener.join()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None  # noqa: S101 - piped above
            pipe.close()


def follow(
    runs: Sequence[Run],
    words: "queue.SimpleQueue[Word]",
    stall_s: float,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Wait until every worker has ended well. check: called now and then; what it raises ends the waiting."""
    silent_s = 0.0
    while any(run.process.poll() is None for run in runs):
        for run in runs:
            if run.process.poll():
                raise lost(run)
        check()
        try:
            words.get(timeout=_STEP_S)
            silent_s = 0.0
        except queue.Empty:
            silent_s += _STEP_S
        if silent_s > stall_s:
            raise WorkerLost(
                f"no worker made progress for {stall_s:g} s; train again with fewer --workers, or with none"
            )
    for run in runs:
        if run.process.returncode:
            raise lost(run)


def lost(run: Run) -> WorkerLost:
    """What to say of a worker that ended with an error."""
    said = run.errors.read_text(errors="replace").strip().splitlines()[-1:]
    code = run.process.returncode
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return WorkerLost(
        f"training worker {run.rank} {how}{': ' + said[0] if said else ''}; "
        f"nothing was published, train again, with fewer --workers if memory was short"
    )


@contextmanager
def free_ports(count: int, host: str = "127.0.0.1") -> Iterator[list[int]]:
    """Ports nobody listens on, held until the block is left."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind((host, 0))
        yield [int(one.getsockname()[1]) for one in held]


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for shards, deleted afterwards; readable by this user alone, as rows of people are in it."""
    with tempfile.TemporaryDirectory(prefix="tagbid-train-") as name:
        yield Path(name)
