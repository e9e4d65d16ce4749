"""Impressions as Arrow columns: what training reads when there are more of them than Python objects can hold.

A frame is a sequence of parts, each at most `PART_ROWS` rows in order of time, in memory or a row group of a Parquet
file; only one part need be in memory at a time. Its feature columns hold raw values (text and numbers, not codes), so
that one frame serves every model: `matrix` turns a part into what `models.features` would have filled row by row. The
same functions do both: a frame is made by `features.row`, and codes and rates are looked up once per distinct value.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmp import keys
from dmp.errors import BadEvents
from models import features
from models.dataset import Rows
from models.features import Category, Vocabulary

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

PART_ROWS = 131_072  # 45 MB as a float64 matrix
DAY_US = 86_400_000_000

RATE_NAMES = ("place_rate", "place_rows", "ad_rate", "ad_rows")
"""Columns a frame does not hold: they depend on the day a model's rates were frozen."""
_NUMBERED = (
    "device_type",
    "connection",
    "user_interest",
    "user_last_category",
    "page_topic",
    "search_topic",
    "placement",
)  # categorical features whose values are numbers

ABOUT = pa.schema(
    [
        ("key", pa.string()),
        ("uid", pa.binary()),
        ("time_us", pa.int64()),
        ("shown_us", pa.int64()),
        ("clicked", pa.bool_()),
        ("clicked_us", pa.int64()),
        ("converted_us", pa.int64()),
        ("value_micros", pa.int64()),
        ("weight", pa.float64()),
        ("chance", pa.float64()),
        ("lot", pa.float64()),
    ]
)
"""What every frame has besides the features.

key: a stable text per row. uid: null for contextual bids. time_us: of the bid. shown_us, clicked_us, converted_us: when
the impression was seen, clicked, and when a conversion was attributed to it, 0 for never. value_micros: of that
conversion. weight: 1 less the probability that this was invalid traffic. chance: of winning, as known at the bid, 0
for not known. lot: in [0, 1), decided by the key alone; samples are drawn by it."""

FIELDS: tuple[pa.Field, ...] = tuple(
    pa.field(
        feature.name,
        pa.float64() if feature.kind == "numeric" else pa.int64() if feature.name in _NUMBERED else pa.string(),
    )
    for feature in features.FEATURES
    if feature.name not in RATE_NAMES
)
SCHEMA = pa.schema([*ABOUT, *FIELDS])


class Frame(msgspec.Struct, frozen=True):
    """parts: functions that load one part each, with the columns asked for (None: all). sizes: rows per part.

    timed: False when the source has no usable time.
    """

    parts: tuple[Callable[[Sequence[str] | None], pa.Table], ...]
    sizes: tuple[int, ...]
    timed: bool = True

    def __len__(self) -> int:
        return sum(self.sizes)

    def column(self, name: str) -> Any:
        """One column of all rows, as numpy has it."""
        if not self.parts:
            return np.empty(0)
        return np.concatenate([part([name]).column(0).to_numpy(zero_copy_only=False) for part in self.parts])

    def starts(self) -> list[int]:
        """Position of the first row of every part."""
        return np.concatenate(([0], np.cumsum(self.sizes)[:-1])).astype(int).tolist() if self.sizes else []


def in_memory(table: pa.Table, *, timed: bool = True) -> Frame:
    """A frame of rows that stand in order of time."""
    slices = [table.slice(start, PART_ROWS) for start in range(0, len(table), PART_ROWS)]

    def loader(part: pa.Table) -> Callable[[Sequence[str] | None], pa.Table]:
        return lambda names: part if names is None else part.select(list(names))

    return Frame(tuple(map(loader, slices)), tuple(map(len, slices)), timed)


def on_disk(paths: Sequence[Path], *, timed: bool = True) -> Frame:
    """A frame of Parquet files with `SCHEMA`'s columns, rows in order of time over all files."""
    parts: list[Callable[[Sequence[str] | None], pa.Table]] = []
    sizes: list[int] = []

    def loader(path: Path, group: int) -> Callable[[Sequence[str] | None], pa.Table]:
        def load(names: Sequence[str] | None) -> pa.Table:
            with pq.ParquetFile(path) as file:
                return file.read_row_group(group, columns=None if names is None else list(names))

        return load

    for path in paths:
        try:
            meta = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise BadEvents(f"{path} is no training data: {error}; delete it, it is made again") from None
        for group in range(meta.num_row_groups):
            if meta.row_group(group).num_rows:
                parts.append(loader(path, group))
                sizes.append(meta.row_group(group).num_rows)
    return Frame(tuple(parts), tuple(sizes), timed)


def of_rows(rows: Rows) -> Frame:
    """The frame of rows that are Python objects."""
    return in_memory(table_of(rows), timed=rows.timed)


def lot(key: str) -> float:
    """A number in [0, 1) that is a function of the key.

    >>> lot("b1/1") == lot("b1/1") != lot("b2/1")
    True
    """
    return keys.number(key) / 2**32


_NOTHING_KNOWN = Vocabulary({})
_NUMERIC = tuple(
    i for i, feature in enumerate(features.FEATURES) if feature.kind == "numeric" and feature.name not in RATE_NAMES
)


def table_of(rows: Rows) -> pa.Table:
    """Columns of `SCHEMA`."""
    texts: list[list[Category]] = [[] for _ in features.CATEGORICAL]
    numbers: list[float] = []
    for context, user, ad, time_us in rows.items:
        for column, value in zip(texts, features.categories(context, user, ad), strict=True):
            column.append(value)
        full = features.row(_NOTHING_KNOWN, context, user, ad, time_us)
        numbers += [full[i] for i in _NUMERIC]
    flat = np.array(numbers, dtype=np.float64).reshape(-1, len(_NUMERIC))
    raw: dict[str, Any] = {features.NAMES[i]: column for i, column in zip(features.CATEGORICAL, texts, strict=True)}
    raw |= {features.NAMES[i]: flat[:, n] for n, i in enumerate(_NUMERIC)}
    raw["key"] = rows.keys
    raw["uid"] = rows.uids
    raw["time_us"] = [item[3] for item in rows.items]
    raw["clicked"] = rows.clicks > 0
    raw["shown_us"] = raw["time_us"]
    zeros, ones = np.zeros(len(rows), dtype=np.int64), np.ones(len(rows))
    raw |= dict.fromkeys(("clicked_us", "converted_us", "value_micros"), zeros)
    raw |= {"weight": ones, "chance": np.zeros(len(rows)), "lot": [lot(key) for key in rows.keys]}
    return pa.table({field.name: pa.array(raw[field.name], field.type) for field in SCHEMA})


def matrix(vocabulary: Vocabulary, table: pa.Table) -> Floats:
    """X: float64 (rows, len(FEATURES)), exactly what `features.matrix` gives for the rows the table was made of."""
    X = np.empty((len(table), len(features.FEATURES)))
    codes = dict(zip((features.NAMES[i] for i in features.CATEGORICAL), vocabulary.codes, strict=True))
    for i, feature in enumerate(features.FEATURES):
        if feature.name in RATE_NAMES:
            continue
        column = table[feature.name]
        if feature.kind == "numeric":
            X[:, i] = column.to_numpy()
        else:
            values, where = _distinct(column)
            known = codes[feature.name]
            X[:, i] = np.array([known.get(value, np.nan) for value in values] or [np.nan])[where]
    for names, table_rates, column_names in (
        (("place_rate", "place_rows"), vocabulary.rates.places, ("exchange", "site", "tagid")),
        (("ad_rate", "ad_rows"), vocabulary.rates.ads, ("advertiser", "campaign", "creative")),
    ):
        chains, where = distinct_keys(table, column_names)
        rates = np.array([features.rate_of(table_rates, chain) for chain in chains], dtype=np.float64).reshape(-1, 2)
        for n, name in enumerate(names):
            X[:, features.NAMES.index(name)] = rates[where, n]
    return X


def distinct_keys(table: pa.Table, names: Sequence[str]) -> tuple[list[tuple[str, ...]], Ints]:
    """The distinct combinations of some text columns, and which one each row has."""
    mixed = np.zeros(len(table), dtype=np.int64)
    columns = []
    for name in names:
        values, where = _distinct(table[name])
        mixed = mixed * max(1, len(values)) + where
        columns.append((values, where))
    _, first, which = np.unique(mixed, return_index=True, return_inverse=True)
    chains = list(zip(*([values[code] for code in where[first]] for values, where in columns), strict=True))
    return chains, which.astype(np.int64)


def _distinct(column: pa.ChunkedArray) -> tuple[list[Any], Ints]:
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def fit_vocabulary(frame: Frame, keep: Bools) -> Vocabulary:
    """Codes of the categories among the rows `keep` marks; the same as `features.fit_vocabulary` of those rows."""
    names = [features.NAMES[i] for i in features.CATEGORICAL]
    counts: dict[str, dict[Category, int]] = {name: {} for name in names}
    for start, size, load in zip(frame.starts(), frame.sizes, frame.parts, strict=True):
        mask = keep[start : start + size]
        if not mask.any():
            continue
        part = load(names).filter(pa.array(mask))
        for name in names:
            for line in pc.value_counts(part[name]):
                value = line["values"].as_py()
                counts[name][value] = counts[name].get(value, 0) + line["counts"].as_py()
    return Vocabulary({name: features.known(found) for name, found in counts.items()})


def chunks(frame: Frame, keep: Bools, columns: Sequence[str] | None = None) -> Iterator[tuple[Ints, pa.Table]]:
    """The rows `keep` marks, part by part: their positions in the frame and their columns."""
    for start, size, load in zip(frame.starts(), frame.sizes, frame.parts, strict=True):
        mask = keep[start : start + size]
        if mask.all():
            yield np.arange(start, start + size), load(columns)
        elif mask.any():
            yield start + np.flatnonzero(mask), load(columns).filter(pa.array(mask))
