"""Influence in a graph of who pays heed to whom: PageRank over declared relations.

An event's `other` is the person it pays heed to: who is followed or quoted, whose invitation or shared link was taken
up. Rank flows to them. A leader is heeded by more people than chance gives anybody in a graph of as many ties (Poisson,
the level shared out over all), and of the top percent by rank; without such people nobody is a leader. A follower heeds
several and is heeded by nobody. Only people with behaviour of their own, for which they consented, get a tag.

Source: Page, Brin, Motwani, Winograd, "The PageRank Citation Ranking" (1999), damping 0.85.
"""

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmp.engine import Engine, family_sql
from dmp.family_columns import FAMILY_COLUMNS, NOTES
from dmp.taxonomy import tag_id

LEADER, FOLLOWER = tag_id("influence.leader"), tag_id("influence.follower")
DAMPING = 0.85
TOP = 0.01
LEVEL = 0.01
MIN_HEEDED_BY, MIN_HEEDS = 10, 3
TURNS = 100

Ints = npt.NDArray[np.int64]


def page_rank(heeds: Ints, heeded: Ints, n: int) -> npt.NDArray[np.float64]:
    """Rank of each of n people, summing to 1. heeds, heeded: who and whom, one pair each tie."""
    from scipy.sparse import csr_array  # takes a second to load, which only a build should wait for

    out = np.bincount(heeds, minlength=n)
    flow = csr_array((1 / out[heeds], (heeded, heeds)), shape=(n, n))
    rank = np.full(n, 1 / n)
    for _ in range(TURNS):
        lost = rank[out == 0].sum()  # people who heed nobody heed everybody a little
        new = (1 - DAMPING) / n + DAMPING * (flow @ rank + lost / n)
        if np.abs(new - rank).sum() < 1e-12:
            break
        rank = new
    final: npt.NDArray[np.float64] = new
    return final


def tags(engine: Engine, now_us: int) -> pa.Table:
    """Influence tags (`FAMILY_COLUMNS`); nothing where events declare no relations."""
    from scipy.stats import poisson

    ties = engine.sql(family_sql("relations"))
    if not len(ties):
        return FAMILY_COLUMNS.empty_table()
    every = pa.chunked_array([*ties["uid"].chunks, *ties["other"].chunks]).combine_chunks().dictionary_encode()
    codes = every.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    heeds, heeded, n = codes[: len(ties)], codes[len(ties) :], len(every.dictionary)
    rank = page_rank(heeds, heeded, n)
    by, of = np.bincount(heeded, minlength=n), np.bincount(heeds, minlength=n)
    more = poisson.sf(by - 1, len(ties) / n) < LEVEL / n
    leads = more & (by >= MIN_HEEDED_BY) & (rank >= np.quantile(rank, 1 - TOP))
    follows = (by == 0) & (of >= MIN_HEEDS)
    place = rank.argsort().argsort() / n
    uids = every.dictionary.to_pylist()
    days = dict(zip(*engine.sql(family_sql("seen_on")).to_pydict().values(), strict=True))
    rows = [(uids[p], LEADER, max(1, round(100 * place[p]))) for p in np.flatnonzero(leads)]
    rows += [(uids[p], FOLLOWER, 100) for p in np.flatnonzero(follows)]
    rows = [row for row in rows if row[0] in days]
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    made = pa.table(
        {
            "uid": pa.array(columns[0], pa.binary(16)),
            "tag": pa.array(columns[1], pa.uint32()),
            "score": pa.array(columns[2], pa.uint8()),
            "as_of_day": pa.array([days[uid] for uid in columns[0]], pa.int32()),
        }
    ).cast(FAMILY_COLUMNS)
    told = {"people": n, "ties": len(ties), "leaders": int(leads.sum()), "followers": int(follows.sum())}
    return made.replace_schema_metadata({NOTES: msgspec.json.encode(told)})
