"""A chunk of a raw log -> typed events and rejected rows, by one SQL statement made from the mapping.

Raw ids are turned into pseudonyms before anything else sees the rows: the SQL engine gets pseudonyms only, and may
not spill to disk (P-60).
"""

from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dmp import events
from dmp.events import BEHAVIOUR
from dmp.logs import Chunk
from dmp.mapping import EPOCH_UNITS, KEYED, TEXTS, Field, IdColumn, Mapping, TimeColumn, keyed_columns, value_columns
from dmp.pseudonym import KeyRing, MarkKind
from dmp.schema import ID_TYPES, Uid

MAX_TEXT_CHARS = 512  # of an event id, category or site
MAX_VALUE_MICROS = 10**15  # a billion of the currency: a unit mistaken, not a purchase
FUTURE_SKEW_US = 300_000_000  # clocks of different machines agree to five minutes
OLDEST_BIRTH_YEAR = 1900
PIECE_ROWS = 16_384  # 1.75 us a row on two cores, 3.4 on one
CACHED_IDS = 1 << 19  # about 100 MB

EVENT_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("kind", pa.string()),
        ("uid", pa.binary(16)),
        ("time_us", pa.int64()),
        ("consent", pa.int32()),
        ("source", pa.string()),
        ("category", pa.string()),
        ("site", pa.string()),
        ("value_micros", pa.int64()),
        ("gender", pa.string()),
        ("birth_year", pa.int32()),
        ("content", pa.uint64()),
    ]
)
"""Columns of an event file: those `dmp.offline` reads, the site, and half the MD5 of all else, which tells copies. A
file has more where its log has them (`EXTRA_COLUMNS`)."""

EXTRA_COLUMNS: dict[str, pa.DataType] = {
    **dict.fromkeys((*TEXTS, *KEYED), pa.string()),
    "lat": pa.float64(),
    "lon": pa.float64(),
    "due_us": pa.int64(),
    "ids": pa.binary(),
    "other": pa.binary(),
}

_PLAIN_DOMAIN = "^[a-z]+://([^/@:?#]+)(?::[0-9]+)?(?:[/?#]|$)"
_DOMAIN = "^(?:[a-z][a-z0-9+.-]*:)?(?://)?(?:[^/@?#]*@)?([^/:?#]+)"


class Shaped(NamedTuple):
    """events: EVENT_SCHEMA. bad: {row number: reason} of rows no event of which is in `events`. uids: {row number:
    pseudonym} of bad rows whose id is usable.
    """

    events: pa.Table
    bad: dict[int, str]
    uids: dict[int, Uid]


class Shaper:
    """The prepared statement, the key and the pseudonyms made so far; one for a run."""

    def __init__(self, mapping: Mapping, ring: KeyRing) -> None:
        self._mapping = mapping
        self._ring = ring
        self._known: dict[tuple[str, str], Uid | None] = {}
        self._marks: dict[tuple[str, str], str] = {}
        self._db = duckdb.connect()
        for setting in ("temp_directory = ''", f"TimeZone = {_quoted(mapping.time.zone)}", "memory_limit = '2GB'"):
            self._db.execute(f"SET {setting}").fetchall()
        self._statements: dict[tuple[tuple[pa.DataType, ...], tuple[str, ...]], str] = {}

    def shape(self, chunk: Chunk, now_us: int) -> Shaped:
        """now_us: what is later than this, but for clock skew, is from the future."""
        return self.judge(chunk, self.pseudonymous(chunk), now_us)

    def pseudonymous(self, chunk: Chunk) -> pa.Table:
        """The chunk with pseudonyms for ids: the half of the work that is Python's."""
        if not len(chunk.rows):
            return pa.table({})
        uids, state, ids = self._pseudonyms(chunk.rows)
        values = {f"c{n}": _column(chunk.rows, name) for n, name in enumerate(value_columns(self._mapping))}
        keyed = {kind: name for kind, name in keyed_columns(self._mapping).items() if name in chunk.rows.column_names}
        marks: dict[str, pa.Array] = {kind: self._marked(chunk.rows, kind, name) for kind, name in keyed.items()}
        several = {} if ids is None else {"ids": ids}
        if (other := self._mapping.other) is not None:
            several["other"] = self._of_column(chunk.rows, other)[0].cast(pa.binary()).fill_null(b"")
        rows = pa.table({"row": chunk.numbers, "uid": uids, "id_state": state, **values, **marks, **several})
        if self._mapping.explode:
            place = value_columns(self._mapping).index(self._mapping.explode)
            rows = _exploded(rows, f"c{place}", self._mapping.explode_separator)
        return rows

    def judge(self, chunk: Chunk, rows: pa.Table, now_us: int) -> Shaped:
        """What `shape` says of a chunk made `pseudonymous`: the half that is the engine's, outside Python's lock."""
        if not len(rows):
            return Shaped(EVENT_SCHEMA.empty_table(), dict(chunk.malformed), {})
        # The engine gives whole batches to its threads: of one batch a chunk, one core would do all the work.
        self._db.register("incoming", pa.Table.from_batches(rows.combine_chunks().to_batches(PIECE_ROWS), rows.schema))
        types = tuple(rows[f"c{n}"].type for n in range(len(value_columns(self._mapping))))
        marks = tuple(name for name in (*KEYED, "ids", "other") if name in rows.column_names)
        if (types, marks) not in self._statements:
            self._statements[types, marks] = _statement(self._mapping, types, marks)
        made: pa.Table = self._db.sql(self._statements[types, marks], params={"now_us": now_us}).to_arrow_table()
        self._db.unregister("incoming")
        wrong = made.filter(pc.is_valid(made["reason"]))
        bad: dict[int, str] = {}
        found: dict[int, Uid] = {}
        for number, reason, uid in zip(*(wrong[c].to_pylist() for c in ("row", "reason", "uid")), strict=True):
            bad.setdefault(number, reason)
            if uid is not None:
                found[number] = uid
        if bad:  # a row is in or out as a whole, also when it is several events
            made = made.filter(pc.invert(pc.is_in(made["row"], pa.array(list(bad), pa.int64()))))
        extra = [pa.field(name, kind) for name, kind in EXTRA_COLUMNS.items() if name in made.column_names]
        schema = pa.schema([*EVENT_SCHEMA, *extra])
        return Shaped(made.select(schema.names).cast(schema), bad | chunk.malformed, found)

    def _marked(self, rows: pa.Table, kind: MarkKind, name: str) -> pa.Array:
        """Keyed marks of a column, "" where nothing stands."""
        coded = pc.dictionary_encode(pc.cast(_plain(rows[name]), pa.string())).combine_chunks()
        coded = coded if isinstance(coded, pa.DictionaryArray) else coded.chunk(0)
        made = []
        for raw in coded.dictionary.to_pylist():
            if (kind, raw) not in self._marks:
                if len(self._marks) >= CACHED_IDS:
                    self._marks.clear()
                self._marks[kind, raw] = self._ring.mark(kind, raw)
            made.append(self._marks[kind, raw])
        return pc.fill_null(pa.array(made, pa.string()).take(coded.indices), "")

    def _pseudonyms(self, rows: pa.Table) -> tuple[pa.Array, npt.NDArray[np.int8], pa.Array | None]:
        """(uids, 0 usable, 1 missing, 2 no id, ids) of rows: the first usable of the id columns, and all usable ones.

        ids: as `dmp.events.pack_ids` packs them; None for a mapping with one id column.
        """
        packed: list[pa.Array] = []
        uids = pa.nulls(len(rows), pa.binary(16))
        state = np.ones(len(rows), np.int8)
        for entry in self._mapping.id:
            here, blank = self._of_column(rows, entry)
            state = np.where(here.is_valid(), 0, np.where(state == 0, 0, np.where(blank, state, 2))).astype(np.int8)
            uids = pc.coalesce(uids, here)
            kind = pa.scalar(bytes((ID_TYPES.index(entry.type),)), pa.binary())
            typed = pc.binary_join_element_wise(kind, here.cast(pa.binary()), b"")
            packed.append(typed.fill_null(b""))
        if len(packed) == 1:
            return uids, state, None
        ids = pc.binary_join_element_wise(*packed, b"")
        return uids, state, pc.if_else(pc.greater(pc.binary_length(ids), 17), ids, b"")

    def _of_column(self, rows: pa.Table, entry: IdColumn) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
        """(pseudonyms of a column of ids, null for what is none; where nothing stands)."""
        coded = pc.dictionary_encode(pc.cast(_column(rows, entry.column), pa.string())).combine_chunks()
        coded = coded if isinstance(coded, pa.DictionaryArray) else coded.chunk(0)
        made: list[Uid | None] = []
        for raw in coded.dictionary.to_pylist():
            key = (entry.type, raw)
            if key not in self._known:
                if len(self._known) >= CACHED_IDS:
                    self._known.clear()
                self._known[key] = self._ring.uid(entry.type, raw)
            made.append(self._known[key])
        blank = np.array([raw.strip() == "" for raw in coded.dictionary.to_pylist()] + [True])
        codes = coded.indices.fill_null(len(made)).to_numpy(zero_copy_only=False)
        return pa.array([*made, None], pa.binary(16)).take(pa.array(codes)), blank[codes]


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """A column made plain; an optional one that the log lacks is all null, of Arrow's null type."""
    return _plain(rows[name]) if name in rows.column_names else pa.chunked_array([pa.nulls(len(rows))])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without dictionaries; bytes as text, what is no text as absent."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        texts = [None if raw is None else raw.decode("utf-8", "replace") for raw in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return column


def _exploded(rows: pa.Table, name: str, separator: str) -> pa.Table:
    """One row per element of a list column; a row without elements stays, with null there."""
    lists = rows[name].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
        lists = lists.cast(pa.string())
        lists = (
            pc.split_pattern(lists, separator)
            if separator
            else pa.ListArray.from_arrays(pa.array(range(len(lists) + 1), pa.int32()), lists)
        )
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    empty = lengths == 0
    parents = np.repeat(np.arange(len(lists)), np.maximum(lengths, 1))
    elements = pc.list_flatten(lists)
    hole = empty[parents]
    index = np.cumsum(~hole) - 1
    flat = elements.take(pa.array(index, pa.int64(), mask=hole))
    return rows.drop_columns([name]).take(pa.array(parents)).append_column(name, flat)


def _statement(mapping: Mapping, types: Sequence[pa.DataType], marks: Sequence[str]) -> str:
    """The SQL that types, judges and hashes the rows of `incoming`; parameter: now_us.

    types: of its value columns. marks: its columns of keyed marks, packed ids and other persons.
    """
    place = {name: f"c{n}" for n, name in enumerate(value_columns(mapping))}
    numeric = {name for name, kind in zip(place, types, strict=True) if _is_number(kind)}

    def text(name: str) -> str:
        return f"NULLIF(TRIM(CAST({place[name]} AS VARCHAR)), '')"

    def said(field: Field, keep: bool, absent: str) -> str:
        """A field's SQL. keep: a text not in `values` stands for itself. absent: SQL for a text that is not there."""
        if field.value is not None:
            return _quoted(field.value)
        raw = text(field.column)
        if field.take == "domain":
            # Most are plain URLs, for which the short pattern is twice as fast.
            plain = f"NULLIF(REGEXP_EXTRACT(LOWER({raw}), {_quoted(_PLAIN_DOMAIN)}, 1), '')"
            raw = f"COALESCE({plain}, NULLIF(REGEXP_EXTRACT(LOWER({raw}), {_quoted(_DOMAIN)}, 1), ''))"
        other = _quoted(field.default) if field.default is not None else raw if keep or not field.values else "NULL"
        cases = "".join(f" WHEN {_quoted(key)} THEN {_quoted(value)}" for key, value in field.values.items())
        known = f"CASE {raw}{cases} ELSE {other} END" if cases else f"COALESCE({raw}, {other})"
        return f"COALESCE(CAST({known} AS VARCHAR), {absent})"

    def there(name: str) -> str:
        return f"{place[name]} IS NOT NULL" if name in numeric else f"{text(name)} IS NOT NULL"

    def times(name: str, unit: int) -> str:
        """A number times a whole unit, as micros or microseconds; NULL for what is none or too large."""
        column = place[name] if name in numeric else text(name)
        return f"TRY(CAST(ROUND(TRY_CAST({column} AS DECIMAL(28, 9)) * CAST({unit} AS DECIMAL(10, 0))) AS BIGINT))"

    at = mapping.time.column

    def moment(column: TimeColumn) -> str:
        name, epoch = column.column, EPOCH_UNITS.get(column.format)
        if epoch and pa.types.is_integer(types[list(place).index(name)]):
            return f"TRY(CAST(CAST({place[name]} AS HUGEINT) * {epoch} AS BIGINT))"
        if epoch:
            return times(name, epoch)
        if column.format == "iso":  # the session's zone is the mapping's
            return f"EPOCH_US(TRY_CAST({text(name)} AS TIMESTAMPTZ))"
        return f"EPOCH_US(CAST(TRY_STRPTIME({text(name)}, {_quoted(column.format)}) AS TIMESTAMPTZ))"

    def has(column: str) -> bool:
        return not pa.types.is_null(types[list(place).index(column)])

    extra: dict[str, str] = {}
    texts = []
    for name in TEXTS:
        field: Field = getattr(mapping, name)
        if field.value or (field.column and has(field.column)):
            extra[name] = said(field, True, "''")
            texts.append(name)
    extra |= dict.fromkeys(marks, "")
    degrees_there = ""
    if mapping.place is not None and has(mapping.place.lat) and has(mapping.place.lon):
        for name, column in (("lat", mapping.place.lat), ("lon", mapping.place.lon)):
            extra[name] = f"ROUND(TRY_CAST({text(column)} AS DOUBLE), {mapping.place.decimals})"
            degrees_there += f", {there(column)} AS {name}_there"
    if mapping.due is not None and has(mapping.due.column):
        extra["due_us"] = f"CASE WHEN {there(mapping.due.column)} THEN {moment(mapping.due)} ELSE 0 END"
    amount = times(mapping.value.column, mapping.value.micros_per_unit) if mapping.value else "NULL"
    amount_there = there(mapping.value.column) if mapping.value else "FALSE"
    element = f"COALESCE('#' || {text(mapping.explode)}, '')" if mapping.explode else "''"
    kinds = ", ".join(_quoted(kind) for kind in sorted(BEHAVIOUR))
    selected = degrees_there + "".join(f", {sql or name} AS {name}" for name, sql in extra.items())
    long = "".join(f" OR LENGTH({name}) > {MAX_TEXT_CHARS}" for name in texts)
    joined = "".join(f" || ' ' || {name}" for name in texts)
    faults = "WHEN due_us IS NULL OR due_us < 0 THEN 'bad_time'\n" if "due_us" in extra else ""
    if degrees_there:
        for name, most in (("lat", 90), ("lon", 180)):
            faults += f"WHEN {name}_there AND {name} IS NULL OR ABS({name}) > {most} THEN 'bad_number'\n"
    named = "".join(f" {name}," for name in extra)
    # What is empty adds nothing, so that contents of logs without such columns stay as they always were.
    told = "".join(
        f", {_quoted(name + '=')} || NULLIF(CAST({name} AS VARCHAR), {_quoted('0' if name == 'due_us' else '')})"
        for name in extra
        if name != "ids"  # an event told again with another id is the same event
    )
    return f"""
    WITH typed AS (
        SELECT
            row, uid, id_state, {there(at)} AS time_there, {moment(mapping.time)} AS time_us,
            {said(mapping.kind, False, "NULL")} AS kind,
            {said(mapping.consent, False, "NULL")} AS consent_text,
            {said(mapping.event_id, True, "''")} AS given_id, {element} AS element,
            {said(mapping.category, True, "''")} AS category,
            {said(mapping.site, True, "''")} AS site,
            LOWER({said(mapping.gender, True, "''")}) AS gender,
            {said(mapping.birth_year, True, "'0'")} AS birth_text,
            {amount_there} AS amount_there, CAST({amount} AS BIGINT) AS amount{selected}
        FROM incoming
    ),
    judged AS (
        SELECT
            *, TRY_CAST(consent_text AS INTEGER) AS consent, TRY_CAST(birth_text AS INTEGER) AS birth_year,
            COALESCE(amount, 0) AS value_micros
        FROM typed
    ),
    kept AS (
        SELECT
            *,
            CASE
                WHEN id_state = 1 THEN 'missing_id'
                WHEN id_state = 2 THEN 'bad_id'
                WHEN NOT time_there THEN 'missing_time'
                WHEN time_us IS NULL THEN 'bad_time'
                WHEN time_us < EPOCH_US(CAST({_quoted(mapping.time.earliest)} AS TIMESTAMPTZ)) THEN 'too_old'
                WHEN time_us > $now_us + {FUTURE_SKEW_US} THEN 'future'
                WHEN kind IS NULL OR kind NOT IN ({kinds}) THEN 'unknown_kind'
                WHEN consent IS NULL OR consent NOT BETWEEN 0 AND {events.CONSENT_ALL} THEN 'unknown_consent'
                WHEN LENGTH(given_id) > {MAX_TEXT_CHARS} OR LENGTH(category) > {MAX_TEXT_CHARS}
                    OR LENGTH(site) > {MAX_TEXT_CHARS} OR LENGTH(element) > {MAX_TEXT_CHARS}{long} THEN 'too_long'
                WHEN REGEXP_MATCHES(given_id || category || site || element{joined}, '[\\x00-\\x1f\\x7f\\x{{fffd}}]')
                    THEN 'bad_text'
                WHEN REGEXP_MATCHES(category || ' ' || site{joined}, '[^\\s@]@[^\\s@]+\\.') THEN 'holds_email'
                WHEN amount_there AND amount IS NULL THEN 'bad_number'
                WHEN value_micros NOT BETWEEN 0 AND {MAX_VALUE_MICROS} THEN 'bad_number'
                WHEN gender NOT IN ('m', 'f', '') THEN 'unknown_gender'
                WHEN birth_year IS NULL OR birth_year <> 0 AND birth_year NOT BETWEEN {OLDEST_BIRTH_YEAR} AND 2200
                    THEN 'bad_number'
                {faults}
            END AS reason,
            {_quoted(mapping.source)} AS source,
            -- Control characters are refused above, so that one of them can hold the fields apart.
            CONCAT_WS(CHR(31), {_quoted(mapping.source)}, given_id, element, kind, HEX(uid), time_us, consent, category,
                      site, value_micros, gender, birth_year{told}) AS content_text
        FROM judged
    )
    SELECT
        row, reason, uid,
        CASE WHEN given_id = '' THEN MD5(content_text) ELSE given_id || element END AS event_id,
        kind, time_us, consent, source, category, site, value_micros, gender, birth_year,{named}
        MD5_NUMBER_LOWER(content_text) AS content
    FROM kept
    """  # noqa: S608 - column names are ours, texts of the mapping are quoted


def _quoted(value: str | int) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
