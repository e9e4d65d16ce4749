"""The identity graph as people and machines are shown it: one person, and the whole in numbers. Pseudonyms only."""

from collections import Counter

import msgspec
import pyarrow.compute as pc

from dmp import identity, keys
from dmp.identity import Graph
from dmp.schema import ID_TYPES, Uid


class Member(msgspec.Struct, frozen=True):
    """One id of a person. linked: ids it has live edges with. apart_because: why those edges join nobody, or ""."""

    id: str
    type: str
    linked: tuple[str, ...]
    apart_because: str


class Person(msgspec.Struct, frozen=True):
    """person: the canonical id. members: all ids of the component; empty for an id that no edge has named."""

    person: str
    members: tuple[Member, ...] = ()


class Counts(msgspec.Struct, frozen=True):
    """ids: {type: ids}. persons_by_ids: {number of ids: persons}. learnt: records taken up from events in this run."""

    records: int
    ids: dict[str, int]
    edges: int
    edges_that_join: int
    persons: int
    persons_by_ids: dict[int, int]
    blocked: int
    over_cap: int
    dissolved: int
    learnt: int = 0


def person(graph: Graph, uid: Uid) -> Person:
    """The person an id belongs to."""
    uids = graph.persons["uid"].to_pylist()
    place = {known: n for n, known in enumerate(uids)}
    if uid not in place:
        return Person(_text(uid))
    linked: dict[Uid, list[str]] = {}
    for a, b in graph.edges.tolist():
        linked.setdefault(uids[a], []).append(_text(uids[b]))
        linked.setdefault(uids[b], []).append(_text(uids[a]))
    apart = dict.fromkeys(graph.capped.tolist(), "too many partners") | dict.fromkeys(graph.blocked.tolist(), "blocked")
    return Person(
        _text(graph.persons["person"][place[uid]].as_py()),
        tuple(
            Member(_text(member), kind, tuple(linked.get(member, ())), apart.get(place[member], ""))
            for member, kind in identity.members(graph, uid)
        ),
    )


def counts(records: int, graph: Graph, learnt: int = 0) -> Counts:
    """records: of the whole log."""
    types = Counter(ID_TYPES[kind] for kind in graph.persons["type"].to_pylist())
    sizes = Counter(entry["counts"] for entry in pc.value_counts(graph.persons["person"]).to_pylist())
    return Counts(
        records=records,
        ids=dict(types),
        edges=len(graph.edges),
        edges_that_join=int(graph.joins.sum()),
        persons=sizes.total(),
        persons_by_ids=dict(sorted(sizes.items())),
        blocked=len(graph.blocked),
        over_cap=len(graph.capped),
        dissolved=graph.dissolved,
        learnt=learnt,
    )


def _text(uid: Uid) -> str:
    return keys.text(uid).decode()
