"""What is bought by the same people: association rules over categories, and cross-sell tags from them.

A basket is everything a person bought in `WINDOW_DAYS`, because many shops sell one thing an order. A rule "who buys
A buys B" is kept when enough people bought both, when that is more than chance (one-sided hypergeometric test, with
the level shared out over all pairs), and when it lifts the chance of B by at least `MIN_LIFT`. Who bought A and nothing
of B's vertical gets the tag `cross_sell.<vertical of B>`, scored by the best rule's confidence.

Measures: Agrawal, Imielinski, Swami (SIGMOD 1993) for support and confidence; Brin et al. (SIGMOD 1997) for lift.
"""

import msgspec
import numpy as np
import pyarrow as pa

from dmp import taxonomy
from dmp.engine import Engine, family_sql
from dmp.family_columns import FAMILY_COLUMNS, NOTES

MIN_TOGETHER = 20  # people who bought both; fewer might be told apart
MIN_LIFT = 1.2
LEVEL = 0.01  # chance of any rule out of data without one
MAX_NOTES = 100

CROSS_SELL: dict[int, int] = {
    taxonomy.BY_NAME[f"interest.{tag.name.rpartition('.')[2]}"].id: tag.id
    for tag in taxonomy.TAGS
    if tag.parent == "cross_sell"
}
"""{vertical: its cross-sell tag}."""


class Rule(msgspec.Struct, frozen=True):
    """Who buys `of` buys `then`. support: share of all buyers with both. confidence: of those of `of`. lift: against
    all. together: buyers of both.
    """

    of: int
    then: int
    support: float
    confidence: float
    lift: float
    together: int


def vertical(tag: int) -> int | None:
    """The tag right under `interest` that a tag of interest or intent belongs to, None for others."""
    parts = taxonomy.BY_ID[tag].name.split(".")
    if parts[0] not in ("interest", "intent") or len(parts) < 2:
        return None
    found = taxonomy.BY_NAME.get(f"interest.{parts[1]}")
    return found.id if found else None


def rules(buyer: np.ndarray, item: np.ndarray) -> list[Rule]:
    """Rules between the items people bought, the most confident first.

    buyer, item: int arrays, one pair each once; items are tags.
    """
    from scipy.sparse import csr_array  # both take a second to load, which only a build should wait for
    from scipy.stats import hypergeom

    people, row = np.unique(buyer, return_inverse=True)
    items, column = np.unique(item, return_inverse=True)
    n = len(people)
    bought = csr_array((np.ones(len(row), np.int64), (row, column)), shape=(n, len(items)))
    both = (bought.T @ bought).toarray()
    alone = both.diagonal()
    tested = np.array([(a, b) for a in range(len(items)) for b in range(len(items)) if _apart(items[a], items[b])])
    if not len(tested):
        return []
    a, b = tested.T
    together = both[a, b]
    confidence, lift = together / alone[a], together * n / (alone[a] * alone[b])
    chance = hypergeom.sf(together - 1, n, alone[a], alone[b])
    keep = np.flatnonzero((together >= MIN_TOGETHER) & (lift >= MIN_LIFT) & (chance < LEVEL / len(tested)))
    found = [
        Rule(int(items[a[i]]), int(items[b[i]]), together[i] / n, confidence[i], lift[i], int(together[i]))
        for i in keep
    ]
    return sorted(found, key=lambda rule: (-rule.confidence, rule.of, rule.then))


def _apart(a: int, b: int) -> bool:
    """Whether b is a vertical that can be recommended to buyers of a, which is not of it."""
    return b in CROSS_SELL and vertical(a) != b


def tags(engine: Engine, now_us: int) -> pa.Table:
    """Cross-sell tags (`FAMILY_COLUMNS`); the rules they come from are its notes."""
    orders = engine.sql(family_sql("bought")).to_pydict()
    uids = {uid: n for n, uid in enumerate(dict.fromkeys(orders["uid"]))}
    last: dict[tuple[int, int], int] = {}
    for uid, tag, day in zip(orders["uid"], orders["tag"], orders["day"], strict=True):
        for item in {tag, vertical(tag)} - {None}:
            last[uids[uid], item] = max(last.get((uids[uid], item), 0), day)
    pairs = np.array(list(last), np.int64).reshape(-1, 2)
    found = rules(pairs[:, 0], pairs[:, 1])
    leads: dict[int, list[Rule]] = {}
    for rule in found:
        leads.setdefault(rule.of, []).append(rule)
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for (person, item), day in last.items():
        for rule in leads.get(item, ()):
            if (person, rule.then) not in last:
                place = person, CROSS_SELL[rule.then]
                best[place] = max(best.get(place, (0.0, 0)), (rule.confidence, day))
    names = list(uids)
    made = pa.table(
        {
            "uid": pa.array([names[person] for person, _ in best], pa.binary(16)),
            "tag": [tag for _, tag in best],
            "score": [max(1, round(100 * confidence)) for confidence, _ in best.values()],
            "as_of_day": [day for _, day in best.values()],
        }
    ).cast(FAMILY_COLUMNS)
    told = [
        f"{taxonomy.tag_name(r.of)} -> {taxonomy.tag_name(r.then)}: support {r.support:.4f}, "
        f"confidence {r.confidence:.3f}, lift {r.lift:.2f}"
        for r in found[:MAX_NOTES]
    ]
    return made.replace_schema_metadata({NOTES: msgspec.json.encode(told)})
