"""Persons in a build: what events say of ids goes to the identity log, and its replay tells whose events are whose.

A build makes tags of persons and writes them to every id of the person (except a household, which is nobody's), so
that a bid that names any of them is answered in the one read it may make; an alias would cost a second one. An id
that opted out joins nobody: what it did is not used on other devices, nor the other way round.
"""

from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis

from dmp import identity, keys, optout, rotation
from dmp.config import DmpConfig
from dmp.engine import Engine, family_sql
from dmp.events import unpack_ids
from dmp.forgotten import Forgotten
from dmp.identity import BLOCK, Graph, Records, Statement
from dmp.schema import ID_TYPES, Uid
from dmp.store import Store

CHUNK_IDS = 10_000  # marks read in one round trip
_ALWAYS = 2**62  # later than any record of the log

PERSONS = pa.schema([("uid", pa.binary(16)), ("person", pa.binary(16))])
PAIRS = pa.schema(
    [("a", pa.binary(16)), ("b", pa.binary(16)), ("a_type", pa.string()), ("b_type", pa.string()),
     ("first_us", pa.int64()), ("last_us", pa.int64())]
)  # fmt: skip


def learn(engine: Engine, config: DmpConfig, store: Store) -> int:
    """Make the table `persons` (uid, person) of every id that shares a person; returns how many ids those are.

    engine: holds `raw_events`, `kinds` and `params`. The identity log takes up what the events say of ids first.
    Raises BadEvents for ids that no release wrote, DmpError for a broken log.
    """
    take_up(engine, config)
    known = identity.read(identity.edges_file(config.data_dir))
    records = np.concatenate((known, _carried(Path(config.data_dir))))
    graph = identity.replay(records, config.identity)
    shared = sharing(graph)
    if len(shared):
        client = store.sync(timeout_s=30.0)
        try:
            barred = opted_out(client, shared["uid"].to_pylist())
        finally:
            client.close()
        if barred:
            shared = sharing(identity.replay(np.concatenate((records, _blocked(barred))), config.identity))
    engine.table("persons", shared)
    return len(shared)


def _carried(data_dir: Path) -> Records:
    """That who was carried to another pseudonym by a rotation of the key is one person under both (`dmp.rotation`)."""
    pairs = rotation.carried(data_dir)
    return identity.records([Statement(identity.LINK, 0, "cookie", a, "cookie", b) for a, b in pairs])


def take_up(engine: Engine, config: DmpConfig) -> int:
    """Write to the identity log what the events say of ids; returns how many records that took.

    Event files may have come back from a backup: who was forgotten meanwhile is not linked again (P-71).
    """
    told = pairs_of(engine.sql(family_sql("identity")), Forgotten(config.data_dir))
    return identity.collect(identity.edges_file(config.data_dir), told) if len(told) else 0


def pairs_of(told: pa.Table, forgotten: Container[Uid] = ()) -> pa.Table:
    """The pairs that packed ids name: the first of each list with every other (`PAIRS`).

    told: columns ids, first_us, last_us. forgotten: ids that are in no pair.
    """
    rows = []
    for said in told.to_pylist():
        known = [named for named in unpack_ids(said["ids"]) if named[1] not in forgotten]
        for b_type, b in known[1:]:
            a_type, a = known[0]
            if a != b:
                rows.append((a, b, a_type, b_type, said["first_us"], said["last_us"]))
    columns = list(zip(*rows, strict=True)) or [()] * len(PAIRS)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, PAIRS, strict=True)], schema=PAIRS)


def sharing(graph: Graph) -> pa.Table:
    """(uid, person) of ids whose person has more than one."""
    persons = graph.persons.select(["uid", "person"])
    counted = pc.value_counts(persons["person"])
    several = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    return persons.filter(pc.is_in(persons["person"], value_set=several)).cast(PERSONS)


def opted_out(client: redis.Redis, uids: list[Uid]) -> list[Uid]:
    """Those of these ids that opted out of personalised advertising, or are a child's."""
    found = []
    for start in range(0, len(uids), CHUNK_IDS):
        asked = uids[start : start + CHUNK_IDS]
        pipe = client.pipeline(transaction=False)
        for uid in asked:
            pipe.get(keys.audiences(uid))
        found += [uid for uid, record in zip(asked, pipe.execute(), strict=True) if optout.marks_in(record)]
    return found


def of_members(engine: Engine, held: Mapping[Uid, bytes]) -> dict[Uid, bytes]:
    """What persons hold, as held by each of their ids; those who share no person keep theirs."""
    shared = engine.sql("SELECT uid, person FROM persons").to_pydict()
    every = dict(held)
    for uid, person in zip(shared["uid"], shared["person"], strict=True):
        if person in held:
            every[uid] = held[person]
    return every


def _blocked(uids: list[Uid]) -> Records:
    return identity.records([Statement(BLOCK, _ALWAYS, ID_TYPES[0], uid) for uid in uids])
