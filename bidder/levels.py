"""Rules with a least value: scores of tags, measures of placements. From what is reached to the ads that pass."""

from collections.abc import Sequence

from bidder.bits import mask_of
from dmp.taxonomy import tag_id


def scores_of(rows: Sequence[dict[str, int]], n: int) -> dict[int, tuple[int, ...]]:
    """Tag id -> for each score 0..100 the ads whose least score it reaches."""
    least: dict[int, list[tuple[int, int]]] = {}
    for bit, tags in enumerate(rows):
        for name, score in tags.items():
            least.setdefault(tag_id(name), []).append((score, bit))
    found = {}
    for tag, entries in least.items():
        steps = {score: mask_of((bit for s, bit in entries if s <= score), n) for score in {s for s, _ in entries}}
        masks, current = [], 0
        for score in range(101):
            current = steps.get(score, current)
            masks.append(current)
        found[tag] = tuple(masks)
    return found


def metrics_of(rows: Sequence[dict[str, float]], n: int) -> dict[str, tuple[tuple[float, ...], tuple[int, ...]]]:
    """Type -> (values asked for, ascending; for each the ads that ask for it or more, and none at the end)."""
    found = {}
    for name in {name for wanted in rows for name in wanted}:
        steps = sorted({wanted[name] for wanted in rows if name in wanted})
        asking = [mask_of((i for i, wanted in enumerate(rows) if wanted.get(name, 0.0) >= step), n) for step in steps]
        found[name] = (tuple(steps), (*asking, 0))
    return found
