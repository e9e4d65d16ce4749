"""The tables that queries of a build may read: their columns, types and what is unique in them.

`raw_events` are the event files as they are, `cleaned` what may be used of them, `events` that with weights. The others
are small: what texts of events mean (`dmp.words`), the taxonomy, and one row of parameters.
"""

from dmp.portable import Table

EVENT_COLUMNS: dict[str, tuple[str, str | None]] = {
    "event_id": ("VARCHAR", None),
    "kind": ("VARCHAR", None),
    "uid": ("BLOB", None),
    "time_us": ("BIGINT", None),
    "consent": ("INTEGER", None),
    "source": ("VARCHAR", "''"),
    "category": ("VARCHAR", "''"),
    "value_micros": ("BIGINT", "0"),
    "gender": ("VARCHAR", "''"),
    "birth_year": ("INTEGER", "0"),
    "site": ("VARCHAR", "''"),
    "item": ("VARCHAR", "''"),
    "brand": ("VARCHAR", "''"),
    "device": ("VARCHAR", "''"),
    "channel": ("VARCHAR", "''"),
    "region": ("VARCHAR", "''"),
    "query": ("VARCHAR", "''"),
    "order_id": ("VARCHAR", "''"),
    "lat": ("DOUBLE", "NULL"),
    "lon": ("DOUBLE", "NULL"),
    "due_us": ("BIGINT", "0"),
    "seller": ("VARCHAR", "''"),
    "address": ("VARCHAR", "''"),
    "ip": ("VARCHAR", "''"),
    "ids": ("BLOB", "CAST('' AS BLOB)"),
    "other": ("BLOB", "CAST('' AS BLOB)"),
}
"""Columns read from event files (fields of `dmp.events`): SQL type, default, None where the column must be there."""

_EVENT = {name: kind for name, (kind, _) in EVENT_COLUMNS.items()}
_CLEAN = {name: kind for name, kind in _EVENT.items() if name not in ("consent", "ids")}
_EVENT_KEY = (frozenset({"source", "event_id"}),)
_LABEL = (frozenset({"label"}),)

TABLES: dict[str, Table] = {
    "raw_events": Table(_EVENT | {"file": "VARCHAR"}),
    "copies": Table({"source": "VARCHAR", "event_id": "VARCHAR"}, _EVENT_KEY),
    "kinds": Table({"kind": "VARCHAR", "behaviour": "BOOLEAN"}, (frozenset({"kind"}),)),
    "persons": Table({"uid": "BLOB", "person": "BLOB"}, (frozenset({"uid"}),)),
    "cleaned": Table(_CLEAN, _EVENT_KEY),
    "weights": Table({"source": "VARCHAR", "event_id": "VARCHAR", "weight": "DOUBLE", "reason": "VARCHAR"}),
    # Days on which a machine acts in a user's name (`dmp.brushing`).
    "machine_days": Table(
        {"uid": "BLOB", "day": "BIGINT", "weight": "DOUBLE", "reason": "VARCHAR"}, (frozenset({"uid", "day"}),)
    ),
    "events": Table(_CLEAN | {"weight": "DOUBLE"}, _EVENT_KEY),
    # As of when: now_us, its UTC day since 1970 and its year; offset_us: local time less UTC where no region tells.
    "params": Table({"now_us": "BIGINT", "day": "BIGINT", "year": "INT", "offset_us": "BIGINT"}, (frozenset(),)),
    # one_of: a number of the group of which a user has one tag; that of the tag where it is in none.
    "taxonomy": Table(
        {"tag": "BIGINT", "name": "VARCHAR", "half_life_us": "BIGINT", "ttl_us": "BIGINT", "one_of": "BIGINT"},
        (frozenset({"tag"}), frozenset({"name"})),
    ),
    # What a category means: the tag with share 1, its parents with half of their child's.
    "labels": Table(
        {"label": "VARCHAR", "tag": "BIGINT", "share": "DOUBLE", "half_life_us": "BIGINT", "ttl_us": "BIGINT"},
        (frozenset({"label", "tag"}),),
    ),
    "devices": Table({"label": "VARCHAR", "tag": "BIGINT", "facet": "VARCHAR"}, _LABEL),
    "channels": Table({"label": "VARCHAR", "tag": "BIGINT", "facet": "VARCHAR"}, _LABEL),
    # home: name of the tag of whom lives there, "" where none is.
    "regions": Table(
        {"label": "VARCHAR", "code": "VARCHAR", "home": "VARCHAR", "country": "VARCHAR", "offset_us": "BIGINT"}, _LABEL
    ),
    "tags": Table(
        {"uid": "BLOB", "tag": "BIGINT", "score": "INT", "as_of_day": "INT", "source": "INT"},
        (frozenset({"uid", "tag", "source"}),),
    ),
    # Tags that a grouping of users looks at, the names of groups, and who was in which in the live generation.
    "behaviour_tags": Table({"tag": "BIGINT"}, (frozenset({"tag"}),)),
    "cluster_names": Table({"tag": "BIGINT"}, (frozenset({"tag"}),)),
    "before": Table({"uid": "BLOB", "tag": "BIGINT"}, (frozenset({"uid", "tag"}),)),
    "proven": Table({"source": "INT"}, (frozenset({"source"}),)),
    "clashes": Table({"uid": "BLOB", "one_of": "BIGINT"}, (frozenset({"uid", "one_of"}),)),
    "losers": Table({"uid": "BLOB", "tag": "BIGINT", "source": "INT"}, (frozenset({"uid", "tag", "source"}),)),
}
