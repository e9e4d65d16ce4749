import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from dmp import audiences, keys
from dmp.audiences import Audience
from dmp.catalogue import Catalogue, Upload, open_catalogue
from dmp.config import DmpConfig
from dmp.store import Store, generation_folder, read_users
from dmp.taxonomy import INTERESTS, tag_id, tag_name
from models import expand, tag_matrix
from models.config import ModelsConfig
from tests.models.factories import tag_matrix_of

SECOND = 1_000_000
NOW = 4_000_000_000 * SECOND - 365 * 86_400 * SECOND  # far enough ahead that the store's own clock ends nothing
USERS, SEED = 4_000, 300
RELIGION = tag_id("interest.religion")


class Stage:
    """Known users of generation 1, of whom a tenth like travel and golf together; a catalogue; a clock to turn."""

    def __init__(self, root: Path, store: Store, client: redis.Redis) -> None:
        self.dmp = DmpConfig(data_dir=str(root), redis_url=store.url)
        self.models = ModelsConfig(threads=1)
        self.client, self.now_us = client, NOW
        self.catalogue: Catalogue = open_catalogue(root)
        self.catalogue.add_advertiser("acme", NOW)
        rng = np.random.default_rng(4)
        joined = rng.bytes(16 * USERS)
        self.uids = [joined[at : at + 16] for at in range(0, len(joined), 16)]
        tags = [tag for tag in INTERESTS if tag != RELIGION][:12]
        holds = rng.random((USERS, len(tags))) < 0.2
        holds[:, -1] = True  # a user without any tag would not be known
        self.wanted = np.arange(USERS) < USERS // 10
        holds[self.wanted, :2] |= rng.random((int(self.wanted.sum()), 2)) < 0.7
        owner, tag = np.nonzero(holds)
        uid, ids = [self.uids[row] for row in owner], np.array(tags)[tag]
        uid += [self.uids[row] for row in np.flatnonzero(self.wanted)]  # the seed's faith would give them all away
        ids = np.append(ids, np.full(int(self.wanted.sum()), RELIGION))
        table = pa.table(
            {
                "uid": pa.array(uid, pa.binary(16)),
                "tag": pa.array(ids, pa.uint32()),
                "score": pa.array(np.full(len(ids), 60), pa.uint8()),
            }
        )
        folder = generation_folder(self.dmp, 1)
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "tags.parquet")
        client.set(keys.GENERATION, 1)

    def seed(
        self, name: str = "spring", size: int = SEED, share_pct: float = 5.0, include_seed: bool = False
    ) -> Audience:
        audiences.write_uids(Path(self.dmp.data_dir) / "seeds" / f"{name}.uids", self.uids[:size])
        upload = Upload(rows=size, invalid=0, distinct=size, matched=size, seed_file=f"seeds/{name}.uids")
        return self.catalogue.add_audience("acme", name, upload, share_pct, include_seed, self.now_us)

    def job(self) -> expand.Job:
        return expand.Job(self.catalogue, self.client, self.dmp, self.models, lambda: self.now_us)

    def run(self, **changes: Any) -> list[Audience]:
        return list(expand.run(msgspec.structs.replace(self.job(), **changes)))

    def audience(self, name: str = "spring") -> Audience:
        found = self.catalogue.audience("acme", name)
        assert found is not None
        return found

    def members(self, name: str = "spring") -> set[bytes]:
        number = keys.number(f"acme/{name}")
        users = read_users(self.client, self.uids, self.now_us // SECOND)
        return {uid for uid, user in zip(self.uids, users, strict=True) if number in user.audiences}


@pytest.fixture
def stage(tmp_path: Path, store: Store, client: redis.Redis) -> Iterator[Stage]:
    made = Stage(tmp_path, store, client)
    yield made
    made.catalogue.close()


def test_a_pending_seed_becomes_a_live_audience_whose_members_a_bidder_sees(stage: Stage) -> None:
    stage.seed()
    (live,) = stage.run()
    assert (live.state, live.members) == ("live", USERS * 5 // 100)
    members = stage.members()
    assert len(members) == live.members
    assert not members & set(stage.uids[:SEED])
    # 100 of the other 3,700 users are like the seed; chance would find 5 of them.
    assert len(members & set(stage.uids[SEED : USERS // 10])) > 30
    assert live.report["auc"] > 0.7
    assert live.report["recall"].keys() == live.report["lift"].keys() == {"1", "5", "10"}
    assert stage.run() == []


def test_the_seed_is_in_the_audience_when_asked_for(stage: Stage) -> None:
    stage.seed(include_seed=True)
    (live,) = stage.run()
    assert live.members == SEED + USERS * 5 // 100
    assert set(stage.uids[:SEED]) <= stage.members()


def test_nobody_is_found_by_a_sensitive_tag(stage: Stage) -> None:
    """Everyone like the seed is tagged with a religion here: learnt from, it would find them without a miss."""
    stage.seed()
    stage.run()
    found = stage.members() & set(stage.uids[SEED : USERS // 10])
    assert len(found) < 95
    path = generation_folder(stage.dmp, 1) / "tags.parquet"
    assert RELIGION in tag_matrix.read(path).tags
    assert RELIGION not in tag_matrix.read(path, expand.SENSITIVE).tags


@pytest.mark.rule("P-65")
def test_a_seed_too_small_is_refused_without_giving_its_size_away(stage: Stage) -> None:
    stage.seed(size=199)
    (refused,) = stage.run()
    assert refused.state == "refused"
    assert "fewer than 200" in refused.message
    assert "199" not in refused.message
    assert stage.members() == set()


@pytest.mark.rule("P-65")
def test_no_exact_size_is_in_the_report(stage: Stage) -> None:
    stage.seed(size=317)
    (live,) = stage.run()
    assert live.report["base"] == 4_000
    assert live.report["lookalikes"] == 200
    for depth, value in live.report["recall"].items():
        assert value == round(value, 2), depth
    assert "hidden" not in live.report
    assert "auc_error" not in live.report


def test_a_tag_that_spells_the_seed_out_is_named_in_the_warnings(stage: Stage) -> None:
    matrix = tag_matrix_of(
        tag_matrix.as_uids(b"".join(stage.uids[:SEED] + stage.uids)),
        np.repeat([INTERESTS[0], INTERESTS[1]], [SEED, USERS]),
        np.full(SEED + USERS, 50),
    )
    seed = matrix.rows_of(tag_matrix.as_uids(b"".join(stage.uids[:SEED])))
    found = expand.lookalike.expand(matrix, seed, 5, expand.Settings(), 1)
    report = expand.told_report(found, matrix, 1)
    assert report["left_out_tags"] == [tag_name(INTERESTS[0])]
    assert any(tag_name(INTERESTS[0]) in warning for warning in report["warnings"])
    assert any("no better than a random one" in warning for warning in report["warnings"])


def test_an_audience_ends_and_its_files_go(stage: Stage) -> None:
    stage.seed()
    stage.run()
    ends_us = stage.audience().expires_us
    assert ends_us == NOW + 30 * 86_400 * SECOND
    stage.now_us = ends_us
    stage.run()
    assert stage.audience().state == "expired"
    assert stage.members() == set()
    assert list((Path(stage.dmp.data_dir) / "seeds").iterdir()) == []
    assert list((Path(stage.dmp.data_dir) / "members").iterdir()) == []


def test_without_tags_seeds_stay_pending(stage: Stage) -> None:
    assert stage.run() == []
    stage.seed()
    stage.client.delete(keys.GENERATION)
    with pytest.raises(expand.NoGeneration, match="dmp build"):
        stage.run()
    stage.client.set(keys.GENERATION, 2)
    with pytest.raises(expand.NoGeneration, match="generation 2 was not built on this machine"):
        stage.run()
    assert (stage.audience().state, stage.audience().attempts) == ("pending", 0)


class KilledHere(BaseException):
    pass


TRAININGS = 10  # the lease is kept after each of two times five models, then before each batch of members


def break_off(stage: Stage, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Run a worker that dies when it keeps its lease for the `at`-th time; members go in batches of 50."""
    left = at

    def keep(self: expand.Lease) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KilledHere

    with monkeypatch.context() as patch:
        patch.setattr(audiences, "BATCH", 50)
        patch.setattr(expand.Lease, "keep", keep)
        with pytest.raises(KilledHere):
            stage.run()


def test_a_worker_that_dies_while_storing_is_finished_by_another_with_the_same_members(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.seed()
    break_off(stage, monkeypatch, at=TRAININGS + 3)
    half = stage.members()
    assert len(half) == 2 * 50
    assert stage.audience().state == "expanding"
    assert stage.run() == []  # the dead worker's lease holds
    stage.now_us += stage.models.lease_s * SECOND
    # Meanwhile tags changed: what was decided stays decided.
    stage.client.set(keys.GENERATION, 2)
    generation_folder(stage.dmp, 1).rename(generation_folder(stage.dmp, 2))
    (live,) = stage.run()
    assert (live.state, live.members, live.attempts) == ("live", 200, 2)
    assert live.report["generation"] == 1
    assert half < stage.members()
    assert len(stage.members()) == 200


def test_a_seed_that_ends_every_worker_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.seed()
    for _ in range(expand.MAX_ATTEMPTS):
        break_off(stage, monkeypatch, at=1)
        stage.now_us += stage.models.lease_s * SECOND
    (refused,) = stage.run()
    assert refused.state == "refused"
    assert "broke off 5 times" in refused.message


def test_a_worker_whose_lease_was_taken_stores_nothing_more(stage: Stage) -> None:
    """The clock jumps past the lease while it trains; another worker has taken the audience by then."""
    stage.seed()
    thief: list[Audience | None] = []

    def jump(audience: str, done: int, total: int) -> None:
        if done == 1:
            stage.now_us += stage.models.lease_s * SECOND
            thief.append(stage.catalogue.claim("thief", stage.now_us, SECOND * 60))

    (seen,) = stage.run(progress=jump)
    assert thief[0] is not None
    assert seen.state == "expanding"
    assert stage.members() == set()


def test_a_process_killed_in_the_middle_leaves_no_live_audience_and_the_next_one_finishes(stage: Stage) -> None:
    stage.seed()
    environ = {
        **os.environ,
        "TAGBID_DMP_DATA_DIR": stage.dmp.data_dir,
        "TAGBID_DMP_REDIS_URL": stage.dmp.redis_url,
        "TAGBID_MODELS_THREADS": "1",
    }
    command = [sys.executable, "-m", "models", "expand"]
    worker = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while stage.audience().state == "pending" and worker.poll() is None and time.monotonic() < deadline:
        pass
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    assert stage.audience().state == "expanding"
    stage.now_us = time.time_ns() // 1000 + stage.models.lease_s * SECOND
    (live,) = stage.run()
    assert (live.state, live.members, live.attempts) == ("live", 200, 2)
    assert len(stage.members()) == 200


def test_the_command_tells_what_became_of_each_seed(stage: Stage) -> None:
    stage.seed()
    stage.seed("tiny", size=10)
    environ = {**os.environ, "TAGBID_DMP_DATA_DIR": stage.dmp.data_dir, "TAGBID_DMP_REDIS_URL": stage.dmp.redis_url}
    command = [sys.executable, "-m", "models", "expand", "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert '"audience":"acme/spring","state":"live"' in done.stdout
    assert '"audience":"acme/tiny","state":"refused"' in done.stdout
