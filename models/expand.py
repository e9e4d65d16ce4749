"""The job: pending seeds -> look-alike -> members in the store -> live audiences. Restartable at any point.

A worker takes one audience under a lease and renews it as it goes. It learns, writes the members to a file, notes
the file in the catalogue, and only then stores memberships: killed before the note, another worker begins anew;
killed after it, another worker stores the same members again. Only with all of them stored is the audience live.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import redis

from dmp import audiences, store, taxonomy
from dmp.audiences import Audience, told
from dmp.catalogue import Catalogue, LeaseLost
from dmp.config import DmpConfig
from dmp.errors import DmpError, SeedTooSmall
from models import lookalike, tag_matrix
from models.config import ModelsConfig
from models.lookalike import Expansion, NothingToExpand, Settings
from models.tag_matrix import TagMatrix

MAX_ATTEMPTS = 5  # a seed that ends its worker every time must not keep the others waiting for ever
SENSITIVE = frozenset(tag.id for tag in taxonomy.TAGS if tag.sensitive)  # nobody is found by faith or politics
SECOND_US = 1_000_000
DAY_S = 86_400
Clock = Callable[[], int]
Progress = Callable[[str, int, int], None]


class NoGeneration(DmpError):
    """There are no tags on this machine to learn from."""

    def __init__(self, generation: int) -> None:
        missing = f"generation {generation} was not built on this machine" if generation else "there are no user tags"
        super().__init__(f"{missing}: run `tagbid dmp build EVENTS` first; uploaded seeds stay pending")


class Job(msgspec.Struct, frozen=True):
    """What a worker works with. clock: microseconds UTC. progress: called with (audience, done, total)."""

    catalogue: Catalogue
    client: redis.Redis
    dmp: DmpConfig
    models: ModelsConfig
    clock: Clock
    progress: Progress = lambda audience, done, total: None


class Lease:
    """A worker's hold on one audience; `keep` renews it after a quarter of its time, and raises LeaseLost."""

    def __init__(self, job: Job, worker: str, audience: str) -> None:
        self._job, self.worker, self._audience = job, worker, audience
        self._length_us = job.models.lease_s * SECOND_US
        self._renewed_us = job.clock()

    def keep(self) -> None:
        now_us = self._job.clock()
        if now_us - self._renewed_us >= self._length_us // 4:
            self._job.catalogue.renew(self._audience, self.worker, now_us, self._length_us)
            self._renewed_us = now_us


def run(job: Job) -> Iterator[Audience]:
    """Expand all that waits; yields each audience as it then is. Also ends audiences whose time is up.

    Raises NoGeneration while seeds wait and there is nothing to learn from; redis.RedisError when the store goes
    away (the audience is taken up again when its lease has run out).
    """
    housekeeping(job)
    while (found := _next(job)) is not None:
        yield found


def housekeeping(job: Job) -> None:
    """Expire what is over, remove files nothing refers to."""
    now_us = job.clock()
    job.catalogue.expire(now_us)
    audiences.sweep(Path(job.dmp.data_dir), job.catalogue.files(), now_us / SECOND_US)


def _next(job: Job) -> Audience | None:
    if not job.catalogue.waiting(job.clock()):
        return None
    generation = store.live_generation(job.client)
    path = store.generation_folder(job.dmp, generation) / "tags.parquet"
    if not path.exists():
        raise NoGeneration(generation)
    worker = secrets.token_hex(8)
    audience = job.catalogue.claim(worker, job.clock(), job.models.lease_s * SECOND_US)
    if audience is None:
        return None
    # Taken over while we were slow: whoever has it now finishes it.
    with suppress(LeaseLost):
        _work(job, Lease(job, worker, audience.id), audience, path, generation)
    return job.catalogue.audience(audience.advertiser, audience.name)


def _work(job: Job, lease: Lease, audience: Audience, tags: Path, generation: int) -> None:
    try:
        if audience.attempts > MAX_ATTEMPTS:
            refusal = f"the expansion broke off {MAX_ATTEMPTS} times; ask the operator to look into it"
        else:
            _store(job, lease, audience if audience.members_file else _decide(job, lease, audience, tags, generation))
            return
    except SeedTooSmall as error:
        # The exact number of matches stays with the operator (P-65).
        refusal = f"fewer than {error.required} of the seed's users are known; upload more identifiers"
    except NothingToExpand as error:
        refusal = str(error)
    job.catalogue.refuse(audience.id, lease.worker, refusal, job.clock())


def _decide(job: Job, lease: Lease, audience: Audience, tags: Path, generation: int) -> Audience:
    """Learn who the members are and write it down; returns the audience with its members file."""
    matrix = tag_matrix.read(tags, SENSITIVE)
    seed = matrix.rows_of(tag_matrix.as_uids((Path(job.dmp.data_dir) / audience.seed_file).read_bytes()))

    def trained(done: int, total: int) -> None:
        lease.keep()
        job.progress(audience.id, done, total)

    settings = Settings(threads=job.models.threads, min_seed=job.dmp.min_seed)
    found = lookalike.expand(matrix, seed, audience.share_pct, settings, audience.number, trained)
    rows = np.concatenate((seed, found.rows)) if audience.include_seed else found.rows
    members_file = f"members/{audience.number:08x}-{lease.worker}.uids"
    audiences.write_uids(Path(job.dmp.data_dir) / members_file, map(matrix.uid, rows.tolist()))
    now_us = job.clock()
    expires_us = (now_us // SECOND_US + job.models.audience_days * DAY_S) * SECOND_US
    report = told_report(found, matrix, generation)
    job.catalogue.plan(audience.id, lease.worker, members_file, expires_us, report, now_us)
    return msgspec.structs.replace(audience, members_file=members_file, expires_us=expires_us)


def _store(job: Job, lease: Lease, audience: Audience) -> None:
    path = Path(job.dmp.data_dir) / audience.members_file

    def members() -> Iterator[bytes]:
        for batch in audiences.batches(audiences.read_uids(path)):
            lease.keep()
            yield from batch

    stored = audiences.add_members(job.client, audience.id, members(), audience.expires_us // SECOND_US)
    job.catalogue.make_live(audience.id, lease.worker, stored, job.clock())


def told_report(found: Expansion, matrix: TagMatrix, generation: int) -> dict[str, Any]:
    """What the advertiser is told of how the audience was learnt; rounded, so that no exact size follows (P-65).

    recall, lift and centroid_recall: by depth in per cent of the users ranked, on the hidden fifth of the seed.
    """
    measured = found.measured

    def two_decimals(values: dict[int, float]) -> dict[str, float]:
        return {str(depth): round(value, 2) for depth, value in values.items()}

    return {
        "generation": generation,
        "base": told(len(matrix)),
        "lookalikes": told(len(found.rows)),
        "auc": round(measured.auc, 2),
        "recall": two_decimals(measured.recall),
        "lift": {depth: round(value, 1) for depth, value in two_decimals(measured.lift).items()},
        "centroid_recall": two_decimals(measured.centroid_recall),
        "left_out_tags": [taxonomy.tag_name(tag) for tag in found.leaking],
        "warnings": [*found.warnings, *(_leak(taxonomy.tag_name(tag)) for tag in found.leaking)],
    }


def _leak(name: str) -> str:
    return f"tag {name} all but spells the seed out and was left out: who has it was in the seed already"
