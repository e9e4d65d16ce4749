"""What a build takes over from the live generation, so that names and vectors stay where nothing new was learnt.

A generation's folder holds `space` (`dmp.preference.encode_space`) and `vectors.parquet` (uid, vector) beside its tags.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from dmp.clusters import NAMES
from dmp.config import DmpConfig
from dmp.preference import Space, decode_space, encode_space
from dmp.schema import VECTOR_BYTES, Uid
from dmp.store import generation_folder, live_generation

CLUSTERS = pa.schema([("uid", pa.binary(16)), ("tag", pa.int64())])
VECTORS = pa.schema([("uid", pa.binary(16)), ("vector", pa.binary(VECTOR_BYTES))])


class Carried(NamedTuple):
    """clusters: `CLUSTERS`, who was in which. space and vectors: long-term preferences, packed."""

    clusters: pa.Table = CLUSTERS.empty_table()
    space: Space | None = None
    vectors: dict[Uid, bytes] = {}  # noqa: RUF012 - never changed


NOTHING = Carried()


def carried(config: DmpConfig, client: redis.Redis) -> Carried:
    """From the live generation; `NOTHING` where there is none on this machine. Raises CorruptRecord."""
    folder = generation_folder(config, live_generation(client))
    clusters, space, vectors = CLUSTERS.empty_table(), None, {}
    if (folder / "tags.parquet").exists():
        rows = pq.read_table(folder / "tags.parquet", columns=["uid", "tag"], filters=[("tag", "in", NAMES)])
        clusters = rows.cast(CLUSTERS)
    if (folder / "space").exists():
        space = decode_space((folder / "space").read_bytes())
        columns = pq.read_table(folder / "vectors.parquet").to_pydict()
        vectors = dict(zip(columns["uid"], columns["vector"], strict=True))
    return Carried(clusters, space, vectors)


def write(folder: Path, space: Space, vectors: dict[Uid, bytes]) -> None:
    """Keep what was learnt for the next build and for the bidder; the space, which says that both are there, last."""
    columns = [pa.array(list(vectors), pa.binary(16)), pa.array(list(vectors.values()), pa.binary(VECTOR_BYTES))]
    pq.write_table(pa.table(columns, schema=VECTORS), folder / "vectors.parquet", compression="zstd")
    (folder / "space.part").write_bytes(encode_space(space))
    (folder / "space.part").rename(folder / "space")
