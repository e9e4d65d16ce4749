"""The workers of a distributed training on a Dask cluster: each Dask worker runs one worker process of ours.

Dask places and watches them and carries their rows; LightGBM links them by its own sockets, as on one machine, so the
command, the bins and the model are the same. (LightGBM's own Dask estimators have each worker bin a share of the
features, which crashes on categorical features without values, and cannot stop early.)
"""

import queue
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from dmp.errors import TagbidError
from models import distributed as training
from models.distributed import Job, Team, Word, WorkerLost

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local"
CHECK_S = 1.0
ANSWER_S = 10


class NoDask(TagbidError):
    """Dask is not installed, does not answer, or has too few workers."""


def run(folder: Path, team: Team, job: Job) -> str:
    """LightGBM's text of the model trained on the shards of a written folder; `job.machines` is filled in here.

    Raises NoDask, or WorkerLost when a worker dies, is taken out of the cluster, or none makes progress.
    """
    with _client(team) as client:
        from distributed import Event

        addresses = sorted(client.nthreads())[: team.workers]
        if len(addresses) < team.workers:
            raise NoDask(f"{len(addresses)} Dask workers at {team.dask}, --workers asks for {team.workers}; start more")
        ports = client.run(_port, workers=addresses)
        machines = [f"{urlsplit(address).hostname}:{ports[address]}" for address in addresses]
        told = msgspec.json.encode(msgspec.structs.replace(job, machines=machines))
        stop = Event(f"tagbid-{uuid4().hex}", client=client)
        try:
            futures = []
            for rank, address in enumerate(addresses):
                names = ["sample.npy", "valid.npz", *(f"{rank}/{path.name}" for path in (folder / f"{rank}").iterdir())]
                files = {name: (folder / name).read_bytes() for name in names} | {"job.json": told}
                placed = {"workers": [address], "allow_other_workers": False, "retries": 0, "pure": False}
                (sent,) = client.scatter([files], workers=[address], hash=False)
                futures.append(client.submit(_work, sent, rank, stop.name, team.stall_s, **placed))
            return _followed(client, addresses, futures)
        finally:
            stop.set()


def _followed(client: "Client", addresses: list[str], futures: "list[Future]") -> str:
    """What the first worker came to, once all are done."""
    while not all(future.status == "finished" for future in futures):
        # The task of a worker that is gone would wait for ever for its return.
        gone = set(addresses) - client.nthreads().keys()
        if gone:
            raise WorkerLost(f"the Dask worker {min(gone)} is gone; nothing was published, train again")
        for future in futures:
            if future.status not in ("pending", "finished"):
                raise WorkerLost(f"on Dask: {future.exception(timeout=ANSWER_S) or future.status}")
        time.sleep(CHECK_S)
    return str(futures[0].result())


@contextmanager
def _client(team: Team) -> Iterator["Client"]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise NoDask(
            "--dask needs Dask; install it with `pip install 'tagbid[dask]'`, or use --workers alone"
        ) from None
    if team.dask == LOCAL:
        with (
            LocalCluster(
                n_workers=team.workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(team.dask, timeout=ANSWER_S)
    except (OSError, ValueError) as error:
        raise NoDask(f"no Dask scheduler answers at {team.dask} ({error}); name it as tcp://HOST:PORT") from None
    with client:
        yield client


def _port() -> int:
    with training.free_ports(1, "") as ports:
        return ports[0]


def _work(files: Mapping[str, bytes], rank: int, stop: str, stall_s: float) -> str:
    """On a Dask worker: one worker process; the model's text from rank 0, "" from the others."""
    from distributed import Event, get_client

    told = Event(stop, client=get_client())
    asked_s = time.monotonic()

    def check() -> None:
        nonlocal asked_s
        if time.monotonic() - asked_s > CHECK_S:
            asked_s = time.monotonic()
            if told.is_set():
                raise WorkerLost("the training was given up")

    with training.workspace() as folder:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        words: queue.SimpleQueue[Word] = queue.SimpleQueue()
        with training.started(folder, rank, words) as process:
            training.follow([process], words, stall_s, check)
        return (folder / "model.txt").read_text() if rank == 0 else ""
