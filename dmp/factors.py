"""Long-term preference: vectors of tags and people by implicit matrix factorisation, learnt each night.

Alternating least squares over who did how much with what (Hu, Koren, Volinsky, ICDM 2008): with the items' vectors held
still every person's is one small linear system (`dmp.preference.solve`), and the other way round. Items are learnt from
a sample of `LEARN_PEOPLE`; everybody's own vector is then one more such step.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dmp.engine import Engine, family_sql
from dmp.generations import NO_VECTORS
from dmp.preference import CONFIDENCE, REGULARISATION, Floats, Space, pack, solve, space_of
from dmp.schema import DIMENSIONS, VECTOR_BYTES, Uid

TURNS = 8  # the loss moves by less than a per cent after that
LEARN_PEOPLE = 20_000
ITEMS_A_DIMENSION = 10
MIN_PEOPLE = 50  # fewer say nothing of what goes together
SPACE_DAYS, DAY_US = 7, 86_400_000_000
SAME = 0.99  # cosine: 8 degrees
BLOCK_NUMBERS = 1 << 21  # numbers of one block of systems: 16 MB
NO_VECTOR = bytes(VECTOR_BYTES)
MIN_HELD = 5  # people that like an item, for it to get a vector

Ints = npt.NDArray[np.int64]


class Taste(NamedTuple):
    """Who likes what, how much: one row a person and item, in order of person. weight > 0."""

    person: Ints
    item: Ints
    weight: Floats


def learn_items(taste: Taste, items: int, turns: int = TURNS, seed: int = 0) -> Floats:
    """Vectors of items 0 .. items - 1, float32 (items, DIMENSIONS).

    As many dimensions are used as the items bear; the others stay zero. With one for every item each would get an
    axis of its own, which says nothing of what goes together.
    """
    rng = np.random.default_rng(seed)
    factors = np.zeros((items, DIMENSIONS), np.float32)
    used = max(2, min(DIMENSIONS, items // ITEMS_A_DIMENSION))
    factors[:, :used] = rng.normal(0, 0.1, (items, used))
    order = np.argsort(taste.item, kind="stable")
    turned = Taste(taste.item[order], taste.person[order], taste.weight[order])
    for _ in range(turns):
        people = _folded(factors, taste, int(taste.person.max()) + 1).astype(np.float32)
        factors = _solved(turned, people, items)
    return factors


def _solved(taste: Taste, factors: Floats, n: int) -> Floats:
    """As `_folded`, one by one: better for items, which are few and each liked by many."""
    gram = factors.T @ factors
    found = np.zeros((n, DIMENSIONS), np.float32)
    for who, rows in _runs(taste.person):
        found[who] = solve(gram, factors[taste.item[rows]], taste.weight[rows])
    return found


def _runs(person: Ints) -> Iterator[tuple[int, slice]]:
    """(person, rows) of people in order."""
    starts = np.flatnonzero(np.diff(person, prepend=-1))
    for start, end in zip(starts.tolist(), np.append(starts[1:], len(person)).tolist(), strict=True):
        yield int(person[start]), slice(start, end)


def sampled(taste: Taste, most: int, seed: int = 0) -> Taste:
    """The rows of at most so many people, renumbered."""
    people = np.unique(taste.person)
    if len(people) > most:
        people = np.sort(np.random.default_rng(seed).choice(people, most, replace=False))
    here = np.isin(taste.person, people)
    return Taste(np.searchsorted(people, taste.person[here]), taste.item[here], taste.weight[here])


def space_from(taste: Taste, names: Ints, now_us: int = 0) -> Space | None:
    """The space of the items that enough people like; None where that is too little to learn from. names: of items."""
    held = np.bincount(taste.item, minlength=len(names)) >= MIN_HELD
    here = held[taste.item]
    kept = Taste(taste.person[here], (np.cumsum(held) - 1)[taste.item[here]], taste.weight[here])
    if held.sum() < 2 or len(np.unique(kept.person)) < MIN_PEOPLE:
        return None
    factors = learn_items(sampled(kept, LEARN_PEOPLE), int(held.sum()))
    return space_of(names[held].tolist(), factors, now_us)


def learn(
    engine: Engine, now_us: int, space: Space | None = None, before: Mapping[Uid, bytes] = NO_VECTORS
) -> tuple[Space, dict[Uid, bytes]] | None:
    """(space, packed vector of everybody with a taste) of a build's events; None where there is too little.

    engine: holds `events`, `labels` and `params`. space, before: of the live generation. The space is kept for
    `SPACE_DAYS` and a vector as long as it points where the new one would (`SAME`): else every nightly build would
    have to write every profile anew, which would then be in the store twice.
    """
    rows = engine.sql(family_sql("taste"))
    coded = rows["uid"].combine_chunks().dictionary_encode()
    names, item = np.unique(rows["tag"].to_numpy().astype(np.int64), return_inverse=True)
    person = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    taste = Taste(person, item, rows["weight"].to_numpy().astype(np.float32))
    if space is None or now_us - space.learnt_us > SPACE_DAYS * DAY_US:
        space, before = space_from(taste, names, now_us), NO_VECTORS
    if space is None:
        return None
    place = np.array([space.rows.get(int(name), -1) for name in names])
    here = place[taste.item] >= 0
    known = Taste(taste.person[here], place[taste.item[here]], taste.weight[here])
    uids = coded.dictionary.to_pylist()
    found = tastes(space, known, len(uids))
    old = np.frombuffer(b"".join(before.get(uid, NO_VECTOR) for uid in uids), "<f2").reshape(-1, DIMENSIONS)
    old = old.astype(np.float32)
    same = (old * found).sum(axis=1) >= SAME * np.maximum(np.sqrt((old**2).sum(axis=1)), 0.5)
    kept = np.where(same[:, None], old, found)
    return space, {uids[who]: pack(kept[who]) for who in np.flatnonzero(found.any(axis=1))}


def tastes(space: Space, taste: Taste, people: int) -> Floats:
    """What `dmp.preference.fold_in` gives each person 0 .. people - 1, for all at once; zeros for who likes nothing.

    float32 (people, DIMENSIONS).
    """
    found = _folded(space.factors, taste, people)
    length = np.sqrt((found**2).sum(axis=1, keepdims=True))
    even: Floats = (found / np.maximum(length, 1e-12)).astype(np.float32)
    return even


def _folded(factors: Floats, taste: Taste, people: int) -> npt.NDArray[np.float64]:
    """What `solve` gives each person 0 .. people - 1; zeros for who likes nothing.

    With the Woodbury identity a person of n items costs a system of n by n instead of one of `DIMENSIONS`, and people
    with equally many items are solved together: a few us a person instead of 70.
    """
    y = factors.astype(np.float64)
    spread = y @ np.linalg.inv(y.T @ y + REGULARISATION * np.eye(DIMENSIONS))
    between = spread @ y.T
    found = np.zeros((people, DIMENSIONS))
    starts = np.flatnonzero(np.diff(taste.person, prepend=-1))
    counts = np.diff(np.append(starts, len(taste.person)))
    for n in np.unique(counts):
        alike = starts[counts == n]
        block = max(1, BLOCK_NUMBERS // max(int(n) * int(n), int(n) * DIMENSIONS))
        for at in range(0, len(alike), block):
            rows = alike[at : at + block, None] + np.arange(n)
            item, extra = taste.item[rows], CONFIDENCE * taste.weight[rows].astype(np.float64)
            inner = between[item[:, :, None], item[:, None, :]]
            wanted = 1 + extra
            less = np.linalg.solve(inner + np.eye(n) / extra[:, :, None], inner @ wanted[:, :, None])[:, :, 0]
            found[taste.person[rows[:, 0]]] = ((wanted - less)[:, None, :] @ spread[item])[:, 0, :]
    return found
