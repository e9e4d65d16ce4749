"""Rows of raw logs that became no event: why, and where they stand; kept until a better mapping takes them.

A quarantined row names its file and number, so that a replay reads it again from the log itself. What is kept of
its content is for a reader's eye only and cannot identify anybody (P-60): ids are pseudonyms, or gone; digits are 9,
letters a, but for short words where labels are expected.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.mapping import FIELDS, keyed_columns
from dmp.mapping import Mapping as ColumnMapping
from dmp.schema import Uid

REASONS: dict[str, str] = {
    "missing_id": "no id column has anything",
    "bad_id": "what stands there is no id of its type: all zeros, a placeholder, malformed",
    "missing_time": "the time is absent",
    "bad_time": "the time is not of the mapping's format",
    "too_old": "before time.earliest",
    "future": "later than the clock of the run",
    "unknown_kind": "the kind is none the mapping knows",
    "unknown_consent": "the consent is none the mapping knows, or is no number of CONSENT_* bits",
    "unknown_gender": "the gender is none of m, f, nothing",
    "bad_number": "the value, the year of birth or a degree is no number, negative, or beyond belief",
    "too_long": "a field or the record is longer than any real one",
    "bad_text": "a field holds control characters or bytes of another encoding",
    "holds_email": "a text, such as the category or a search, holds an e-mail address, which must not be stored",
    "malformed": "no record of the file's format, or of another number of columns",
}
"""Why a row is refused, with what it means; the first that holds is told. Append only."""

SCHEMA = pa.schema(
    [
        ("reason", pa.string()),
        ("file", pa.string()),
        ("fingerprint", pa.string()),
        ("row", pa.int64()),
        ("uid", pa.binary(16)),
        ("raw", pa.string()),
    ]
)
"""file: path of the log at the time. fingerprint: see `dmp.logs.fingerprint`. row: from 0. uid: null where no usable id
was found. raw: JSON of the mapped columns, disguised; "" for a malformed record, whose columns cannot be told."""

_WORD = re.compile(r"[^\W\d_][\w /&.,-]{0,39}")
_LABELS = ("kind", "consent", "category", "gender")


class Row(msgspec.Struct, frozen=True):
    """One quarantined row, fields as in SCHEMA; uid as hex."""

    reason: str
    file: str
    row: int
    uid: str
    raw: str


def disguised(value: Any, label: bool) -> Any:
    """What may be shown of a raw value: its shape, or itself for a short word that is a label.

    >>> disguised("alice@example.com", label=True)
    'aaaaa@aaaaaaa.aaa'
    >>> disguised("2024-13-01", label=False), disguised("add to cart", label=True)
    ('9999-99-99', 'add to cart')
    """
    if value is None:
        return None
    if isinstance(value, list):
        return [disguised(one, label) for one in value[:20]]
    text = str(value)
    if label and _WORD.fullmatch(text) and sum(map(str.isdigit, text)) <= 2:
        return text
    return "".join("9" if c.isdigit() else "a" if c.isalpha() else c for c in text[:60])


def rows_table(
    rows: pa.Table,
    numbers: pa.Array,
    bad: Mapping[int, str],
    uids: Mapping[int, Uid],
    file: str,
    fingerprint: str,
    mapping: ColumnMapping,
) -> pa.Table:
    """The quarantine rows of a chunk: `rows` and `numbers` as read, `bad` {row number: reason}."""
    ids = {entry.column for entry in mapping.id}
    keyed = set(keyed_columns(mapping).values())
    labels = {getattr(mapping, name).column for name in FIELDS if name in _LABELS}
    places = {number: place for place, number in enumerate(numbers.to_pylist()) if number in bad} if bad else {}
    order = sorted(bad)
    found = rows.take(pa.array([places[number] for number in order if number in places], pa.int64())).to_pylist()
    contents = iter(found)
    raw = []
    for number in order:
        if number not in places:
            raw.append("")
            continue
        shown = {}
        for name, value in next(contents).items():
            uid = uids.get(number) if name in ids else None
            shown[name] = _id_shown(value, uid) if name in ids | keyed else disguised(value, name in labels)
        raw.append(msgspec.json.encode(shown).decode())
    n = len(order)
    return pa.table(
        [
            pa.array([bad[number] for number in order], pa.string()),
            pa.array([file] * n, pa.string()),
            pa.array([fingerprint] * n, pa.string()),
            pa.array(order, pa.int64()),
            pa.array([uids.get(number) for number in order], pa.binary(16)),
            pa.array(raw, pa.string()),
        ],
        schema=SCHEMA,
    )


def _id_shown(value: Any, uid: Uid | None) -> str | None:
    if value is None or str(value) == "":
        return None
    return f"user {uid.hex()}" if uid is not None else "[redacted]"


def listed(paths: list[Path]) -> Iterator[Row]:
    """The rows of quarantine files, in order."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(10_000):
                for found in batch.to_pylist():
                    uid = found["uid"].hex() if found["uid"] else ""
                    yield Row(found["reason"], found["file"], found["row"], uid, found["raw"])
