"""Groups of people who behave alike: k-means over their behaviour tags.

**k** is the number for which the mean silhouette (Rousseeuw, 1987) exceeds most what the same data gives after each
column was shuffled by itself, which keeps how common every tag is and destroys what goes together (shuffled before the
rows are brought to length 1, which ties columns together too); below `MIN_GAP`
there are no groups and no tags. **Separation** is told per tag by a Kruskal-Wallis test over the clusters and its
effect size H / (n - 1). The test alone proves little, because the clusters were made from the same tags: the gap is
what refuses noise, the effect size picks the tags that define a cluster. **Names** are stable: a new cluster takes the
number of the earlier one it shares most members with (assignment by greatest sum of Jaccard overlaps), others take
free numbers, the largest first.
"""

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmp import taxonomy
from dmp.engine import Engine, family_sql
from dmp.family_columns import FAMILY_COLUMNS, NOTES

NAMES: tuple[int, ...] = tuple(tag.id for tag in taxonomy.TAGS if tag.parent == "cluster")
ROOTS = ("interest", "intent", "channel", "time", "habit", "content", "media", "device")  # what people do
MIN_USERS = 200
MIN_SHARE = 0.01  # of users that hold a tag, for it to be looked at
LEARN_USERS, SILHOUETTE_USERS = 5_000, 1_500
MIN_GAP = 0.05
MIN_EFFECT = 0.1  # variance of ranks explained: above Cohen's "medium"
LEVEL = 0.001
DEFINING = 3

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Cluster(msgspec.Struct, frozen=True):
    """users: members. defined_by: tags that its members have most above all others, if any sets it apart."""

    users: int
    defined_by: tuple[str, ...]


class Clusters(msgspec.Struct, frozen=True):
    """k and gap: as chosen. separated: {tag: effect size} of the tags that differ between clusters."""

    k: int
    gap: float
    separated: dict[str, float]
    clusters: dict[str, Cluster]


def group(held: Floats, seed: int = 0) -> tuple[Ints, float] | None:
    """(cluster of each row, gap) or None where nothing groups. held: scores (users, tags), no row all zero."""
    from sklearn.cluster import KMeans  # takes a second to load, which only a build should wait for
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    picked = held[rng.choice(len(held), min(LEARN_USERS, len(held)), replace=False)]
    learn, null = _even(picked), _even(np.column_stack([rng.permutation(column) for column in picked.T]))
    best: tuple[float, KMeans] | None = None
    with threadpool_limits(1):  # on matrices this small threads wait for each other longer than they work
        for k in range(2, min(len(NAMES), len(learn) // 20) + 1):
            scores = []
            for data in (learn, null):
                model = KMeans(k, n_init=2, random_state=seed).fit(data)
                labels = model.labels_[:SILHOUETTE_USERS]
                scores.append(silhouette_score(data[:SILHOUETTE_USERS], labels) if len(np.unique(labels)) > 1 else 0.0)
                if data is learn:
                    fitted = model
            if best is None or scores[0] - scores[1] > best[0]:
                best = scores[0] - scores[1], fitted
    if best is None or best[0] < MIN_GAP:
        return None
    return best[1].predict(_even(held)).astype(np.int64), float(best[0])


def _even(held: Floats) -> Floats:
    """Rows at length 1, so that how much somebody did does not count; rows that are all zero left out."""
    length = np.sqrt((held**2).sum(axis=1))
    even: Floats = held[length > 0] / length[length > 0, None]
    return even


def separation(held: Floats, cluster: Ints) -> dict[int, float]:
    """{column: effect size} of the columns that differ between clusters."""
    from scipy.stats import kruskal

    found = {}
    parts = [held[cluster == c] for c in np.unique(cluster)]
    for column in range(held.shape[1]):
        values = [part[:, column] for part in parts]
        if all(np.all(v == values[0][0]) for v in values):
            continue
        h, p = kruskal(*values)
        effect = h / (len(held) - 1)
        if p < LEVEL / held.shape[1] and effect >= MIN_EFFECT:
            found[column] = float(effect)
    return found


def named(cluster: Ints, before: Ints) -> Ints:
    """Number of the name (0 .. len(NAMES) - 1) that each cluster takes.

    cluster: of each user, 0 .. k - 1. before: the name each of them had in the live generation, -1 for none.
    """
    from scipy.optimize import linear_sum_assignment

    k = int(cluster.max()) + 1
    shared = np.zeros((k, len(NAMES)))
    known = before >= 0
    np.add.at(shared, (cluster[known], before[known]), 1)
    size, old = np.bincount(cluster, minlength=k), np.bincount(before[known], minlength=len(NAMES))
    overlap = shared / np.maximum(1, size[:, None] + old[None, :] - shared)
    rows, columns = linear_sum_assignment(-overlap)
    name = np.full(k, -1)
    for row, column in zip(rows, columns, strict=True):
        if overlap[row, column] > 0:
            name[row] = column
    free = [n for n in range(len(NAMES)) if n not in name]
    for row in sorted(np.flatnonzero(name < 0), key=lambda c: -size[c]):
        name[row] = free.pop(0)
    return name


def tags(engine: Engine, now_us: int) -> pa.Table:
    """One cluster tag a user (`FAMILY_COLUMNS`), scored 100; notes: `Clusters`. Nothing where nothing groups."""
    engine.table("cluster_names", pa.table({"tag": pa.array(NAMES, pa.int64())}))
    engine.table("behaviour_tags", pa.table({"tag": pa.array(_looked_at(), pa.int64())}))
    rows = engine.sql(family_sql("behaviour"))
    uids, columns, held, days = _matrix(rows)
    found = group(held) if len(uids) >= MIN_USERS else None
    separated = separation(held, found[0]) if found else {}
    if found is None or len(separated) < 2:
        return FAMILY_COLUMNS.empty_table()
    cluster, gap = found
    before = dict(zip(*engine.sql(family_sql("cluster_before")).to_pydict().values(), strict=True))
    place = {tag: n for n, tag in enumerate(NAMES)}
    name = named(cluster, np.array([place.get(before.get(uid, 0), -1) for uid in uids]))
    told = Clusters(
        k=len(name),
        gap=round(gap, 4),
        separated={taxonomy.tag_name(columns[c]): round(e, 3) for c, e in sorted(separated.items())},
        clusters={
            taxonomy.tag_name(NAMES[name[c]]): Cluster(
                int((cluster == c).sum()), _defining(held, cluster == c, separated, columns)
            )
            for c in range(len(name))
        },
    )
    made = pa.table(
        {
            "uid": pa.array(uids, pa.binary(16)),
            "tag": np.array(NAMES)[name[cluster]],
            "score": np.full(len(uids), 100),
            "as_of_day": days,
        }
    ).cast(FAMILY_COLUMNS)
    return made.replace_schema_metadata({NOTES: msgspec.json.encode(told)})


def _looked_at() -> list[int]:
    return [tag.id for tag in taxonomy.TAGS if tag.name.partition(".")[0] in ROOTS and not tag.sensitive]


def _matrix(rows: pa.Table) -> tuple[list[bytes], list[int], Floats, Ints]:
    """(uids, tags, scores, youngest day) of rows (uid, tag, score, as_of_day), users in order; none without a tag."""
    uid = rows["uid"].combine_chunks().dictionary_encode()
    codes = uid.indices.to_numpy(zero_copy_only=False)
    known, column = np.unique(rows["tag"].to_numpy(), return_inverse=True)
    common = np.bincount(column, minlength=len(known)) >= MIN_SHARE * max(1, len(uid.dictionary))
    held = np.zeros((len(uid.dictionary), len(known)), np.float32)
    held[codes, column] = rows["score"].to_numpy() / 100
    days = np.zeros(len(held), np.int64)
    np.maximum.at(days, codes, rows["as_of_day"].to_numpy().astype(np.int64))
    held = held[:, common]
    some: npt.NDArray[np.bool_] = np.asarray(held.any(axis=1))
    uids = [u for u, here in zip(uid.dictionary.to_pylist(), some, strict=True) if here]
    return uids, known[common].tolist(), held[some], days[some]


def _defining(
    held: Floats, inside: npt.NDArray[np.bool_], separated: dict[int, float], columns: list[int]
) -> tuple[str, ...]:
    """The separated tags that members have most above all users, in standard deviations; only those above by half."""
    above = {c: (held[inside, c].mean() - held[:, c].mean()) / max(1e-9, float(held[:, c].std())) for c in separated}
    ranked = sorted(above, key=lambda c: -above[c])[:DEFINING]
    return tuple(taxonomy.tag_name(columns[c]) for c in ranked if above[c] >= 0.5)
