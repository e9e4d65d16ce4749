"""Holds SQL to the subset that DuckDB and Spark answer alike, on sqlglot's syntax tree with types.

What the engines do differently, and the rule that keeps it out:

    statement   one query, of constructs known to mean the same on both; nothing else parses or passes
    time        no dates, timestamps, intervals or clocks: time is int64 microseconds, "now" comes from `params`
    order       each ORDER BY term says ASC or DESC and NULLS FIRST or LAST (defaults differ), and is no DOUBLE
                (the last bit of EXP or LN may differ)
    total       a window in which the place of ties matters is ordered by something unique
    division    only by NULLIF(x, 0) or a literal that is not 0 (Spark raises, DuckDB gives NULL); never `//`
    literal     a number with a point is DECIMAL on both, each with its own scale rules: write 0.5e0, a DOUBLE
    cast        nothing is cast unsaid between text and numbers; said, only to INT, BIGINT, DOUBLE or VARCHAR; to whole
                numbers only from whole ones or FLOOR, CEIL, ROUND (a bare cast rounds here and cuts there); from text
                to numbers never, and no DOUBLE to text
    sum         only whole numbers are added up: the sum of floats depends on the order of adding
    equality    no DOUBLE is compared with = or <>, nor grouped by
    join        each join says its kind, with ON, or CROSS JOIN to a table of one row
    name        every column is one of the tables it is read from
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify


class Table(NamedTuple):
    """A table that queries may read. keys: sets of columns that are unique in it; an empty set: it has one row."""

    columns: Mapping[str, str]
    keys: tuple[frozenset[str], ...] = ()


class _SmallNulls(DuckDB):
    NULL_ORDERING = "nulls_are_small"


class _LargeNulls(DuckDB):
    NULL_ORDERING = "nulls_are_large"


_ALLOWED = (
    exp.Select, exp.From, exp.Join, exp.CTE, exp.With, exp.Subquery, exp.Union, exp.Table, exp.TableAlias, exp.Column,
    exp.Identifier, exp.Alias, exp.Star, exp.Where, exp.Group, exp.Having, exp.Order, exp.Ordered, exp.Limit,
    exp.Distinct, exp.Window, exp.WindowSpec, exp.Paren, exp.Literal, exp.Null, exp.Boolean, exp.And, exp.Or, exp.Not,
    exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Between, exp.In, exp.Is, exp.Add, exp.Sub, exp.Mul, exp.Div,
    exp.Mod, exp.Neg, exp.Case, exp.If, exp.Coalesce, exp.Nullif, exp.Greatest, exp.Least, exp.Abs, exp.Exp, exp.Ln,
    exp.Floor, exp.Ceil, exp.Round, exp.Cast, exp.DataType, exp.Concat, exp.Lower, exp.Upper, exp.ByteLength,
    exp.Count, exp.Sum, exp.Min, exp.Max, exp.RowNumber, exp.Rank, exp.DenseRank, exp.Ntile, exp.Lag, exp.Lead,
)  # fmt: skip
_FUNCTIONS = ("octet_length",)  # known to both, if not to sqlglot
_TIES_MATTER = (exp.RowNumber, exp.Ntile, exp.Lag, exp.Lead)
_CASTS = (exp.DataType.Type.INT, exp.DataType.Type.BIGINT, exp.DataType.Type.DOUBLE, exp.DataType.Type.TEXT)
_TIME_WORDS = ("timestamp", "date", "time", "interval", "now", "epoch", "extract", "year", "month", "day", "hour")
_WHOLE = exp.DataType.INTEGER_TYPES
_TEXT = exp.DataType.TEXT_TYPES

Keys = list[frozenset[str]]


def to_spark(query: str) -> str:
    """A portable query as Spark says it; raises sqlglot's errors for what Spark cannot say."""
    return sqlglot.transpile(query, read="duckdb", write="spark", unsupported_level=ErrorLevel.RAISE)[0]


def as_understood(query: str) -> str:
    """A portable query written out from the tree that was checked: no other reading of a stranger's text can run."""
    return sqlglot.transpile(query, read="duckdb", write="duckdb", comments=False)[0]


def problems(query: str, tables: Mapping[str, Table]) -> list[str]:
    """What keeps a query from meaning the same everywhere, each as "rule: what"; empty when nothing does."""
    try:
        return _problems(query, tables)
    except RecursionError:
        return ["statement: it is nested too deeply"]


def _problems(query: str, tables: Mapping[str, Table]) -> list[str]:
    try:
        parsed = [tree for tree in sqlglot.parse(query, read="duckdb") if tree is not None]
    except SqlglotError as error:
        return [f"statement: {str(error).splitlines()[0]}"]
    if len(parsed) != 1 or not isinstance(parsed[0], exp.Select | exp.Union):
        return ["statement: one query is needed, SELECT or WITH ... SELECT"]
    tree = parsed[0]
    found = [*_constructs(tree), *_nulls(query), *_joins(tree), *_literals(tree)]
    if any(problem.startswith(("statement", "time")) for problem in found):
        return found
    known = {*tables, *(cte.alias for cte in tree.find_all(exp.CTE))}
    found += [f"name: there is no table {table.name}" for table in tree.find_all(exp.Table) if table.name not in known]
    try:
        schema: dict[str, object] = {name: dict(table.columns) for name, table in tables.items()}
        typed = annotate_types(
            qualify(tree, schema=schema, dialect="duckdb", quote_identifiers=False),
            schema=schema,
            dialect="duckdb",
        )
    except SqlglotError as error:
        return [*found, f"name: {str(error).splitlines()[0]}"]
    found += [
        *_types(typed),
        *_windows(typed, {name: _keys(table) for name, table in tables.items()}),
    ]
    try:
        to_spark(query)
    except SqlglotError as error:
        found.append(f"statement: {error}")
    return list(dict.fromkeys(found))


def _keys(table: Table) -> Keys:
    """Rows of a table without a key are alike or differ in a column: ordered by all that can be, ties are alike."""
    return list(table.keys) or [frozenset(name for name, kind in table.columns.items() if kind != "DOUBLE")]


def _constructs(tree: exp.Expr) -> Iterator[str]:
    for node in tree.walk():
        kind = type(node).__name__
        if isinstance(node, exp.DataType):
            if node.is_type(*exp.DataType.TEMPORAL_TYPES, exp.DataType.Type.INTERVAL):
                yield f"time: {node.sql()}; count int64 microseconds instead"
        elif not isinstance(node, _ALLOWED):
            word = (node.name if isinstance(node, exp.Anonymous) else kind).lower()
            if word in _FUNCTIONS:
                continue
            rule = "time" if any(part in word for part in _TIME_WORDS) else "statement"
            yield f"{rule}: {node.sql()[:60]} ({kind}) is outside the portable subset"
        elif isinstance(node, exp.With) and node.args.get("recursive"):
            yield f"statement: {node.sql()[:60]} is recursive"
        elif isinstance(node, exp.Subquery) and not isinstance(node.parent, exp.From | exp.Join):
            yield f"statement: {node.sql()[:60]} is a query outside FROM and JOIN"
        elif isinstance(node, exp.Limit) and node.parent is not None and node.parent.args.get("order") is None:
            yield "statement: LIMIT without ORDER BY"


def _nulls(query: str) -> Iterator[str]:
    """Terms whose reading depends on a dialect's default: its place of nulls, or its direction."""
    small, large = (sqlglot.parse_one(query, read=dialect) for dialect in (_SmallNulls, _LargeNulls))
    for one, other in zip(small.find_all(exp.Ordered), large.find_all(exp.Ordered), strict=True):
        if one.args.get("desc") is None:
            yield f"order: {one.this.sql()} says neither ASC nor DESC"
        if one.args.get("nulls_first") != other.args.get("nulls_first"):
            yield f"order: {one.this.sql()} says neither NULLS FIRST nor NULLS LAST"


def _joins(tree: exp.Expr) -> Iterator[str]:
    for join in tree.find_all(exp.Join):
        cross = join.kind == "CROSS"
        if not (cross or join.kind == "INNER" or join.side == "LEFT"):
            yield f"join: {join.sql()[:60]} must say INNER JOIN, LEFT JOIN or CROSS JOIN"
        elif not cross and join.args.get("on") is None:
            yield f"join: {join.sql()[:60]} has no ON"


def _literals(tree: exp.Expr) -> Iterator[str]:
    for literal in tree.find_all(exp.Literal):
        if literal.is_number and "." in literal.name and "e" not in literal.name.lower():
            yield f"literal: {literal.name} is a DECIMAL; write {literal.name}e0"


def _types(tree: exp.Expr) -> Iterator[str]:
    for node in tree.walk():
        if isinstance(node, exp.Div | exp.Mod):
            guard = node.right.unnest()
            literal = guard.this if isinstance(guard, exp.Neg) else guard
            by_null = isinstance(guard, exp.Nullif) and _number(guard.expression) == 0
            if not by_null and not _number(literal):
                yield f"division: {node.sql()[:60]} must divide by NULLIF(..., 0) or by a literal that is not 0"
        elif isinstance(node, exp.Cast):
            yield from _cast(node)
        elif isinstance(node, exp.Sum) and not node.this.is_type(*_WHOLE):
            yield f"sum: {node.sql()[:60]} adds what is not whole; CAST(ROUND(...) AS BIGINT) first"
        elif isinstance(node, exp.Concat) and not all(part.is_type(*_TEXT) for part in node.expressions):
            yield f"cast: {node.sql()[:60]} joins what is no text; CAST(... AS VARCHAR) first"
        elif isinstance(node, exp.Predicate) and isinstance(node, exp.Binary) and _mixed(node.left, node.right):
            yield f"cast: {node.sql()[:60]} compares text with a number"
        elif isinstance(node, exp.EQ | exp.NEQ) and any(_fuzzy(side) for side in (node.left, node.right)):
            yield f"equality: {node.sql()[:60]} compares a DOUBLE"
        elif isinstance(node, exp.Group) and any(_fuzzy(term) for term in node.expressions):
            yield f"equality: {node.sql()[:60]} groups by a DOUBLE"
        elif isinstance(node, exp.Ordered) and _fuzzy(node.this):
            yield f"order: {node.this.sql()[:60]} is a DOUBLE; order by a whole number made of it"


def _number(node: exp.Expr) -> float | None:
    return float(node.name) if isinstance(node, exp.Literal) and node.is_number else None


def _fuzzy(node: exp.Expr) -> bool:
    return node.is_type(*exp.DataType.FLOAT_TYPES, exp.DataType.Type.DECIMAL)


def _mixed(left: exp.Expr, right: exp.Expr) -> bool:
    return any(
        one.is_type(*_TEXT) and other.is_type(*exp.DataType.NUMERIC_TYPES)
        for one, other in ((left, right), (right, left))
    )


def _cast(node: exp.Cast) -> Iterator[str]:
    if type(node) is not exp.Cast or node.to.this not in _CASTS:
        yield f"cast: {node.sql()[:60]} must be a CAST to INT, BIGINT, DOUBLE or VARCHAR"
        return
    given = node.this.unnest()
    if node.to.this is exp.DataType.Type.TEXT:
        allowed = given.is_type(*_WHOLE, *_TEXT)
    elif given.is_type(*_TEXT):
        allowed = False
    elif node.to.this is exp.DataType.Type.DOUBLE:
        allowed = True
    else:
        allowed = given.is_type(*_WHOLE) or (isinstance(given, exp.Floor | exp.Ceil | exp.Round) and _to_whole(given))
    if not allowed:
        yield f"cast: {node.sql()[:60]} is read differently; FLOOR, CEIL or ROUND it first, and never cast text"


def _to_whole(node: exp.Expr) -> bool:
    return node.args.get("decimals") is None


def _windows(tree: exp.Query, known: Mapping[str, Keys]) -> Iterator[str]:
    """Offences against `total`: inner queries first, whose unique columns the outer ones rely on."""
    # Rows of a table without a key are alike or differ in some column: ordered by all of them, ties are alike.
    yield from _select_windows(tree, dict(known))[1]


def _select_windows(tree: exp.Query, known: dict[str, Keys]) -> tuple[Keys, list[str]]:
    """(unique column sets of a query's result, offences in it). known: those of the tables it may read."""
    found: list[str] = []
    known = dict(known)
    for cte in tree.ctes:
        known[cte.alias], inner = _select_windows(cte.this, known)
        found += inner
    if isinstance(tree, exp.Union):
        for side in (tree.left, tree.right):
            found += _select_windows(side, known)[1]
        every = frozenset(tree.left.named_selects)
        return ([every] if tree.args.get("distinct") else []), found
    if isinstance(tree, exp.Subquery):
        keys, inner = _select_windows(tree.this, known)
        return keys, found + inner
    if not isinstance(tree, exp.Select):
        return [], found
    keys, inner = _row_keys(tree, known)
    found += inner
    for window in tree.find_all(exp.Window):
        if window.parent_select is tree:
            found += _window(window, keys)
    return _told(tree, keys), found


def _row_keys(select: exp.Select, known: dict[str, Keys]) -> tuple[Keys, list[str]]:
    """Unique sets of "table.column" of the rows that a SELECT's expressions see, and offences in its subqueries."""
    found: list[str] = []

    def of(source: exp.Expr) -> Keys:
        keys = known.get(source.name, [])
        if isinstance(source, exp.Subquery):
            keys, inner = _select_windows(source.this, known)
            found.extend(inner)
        return [frozenset(f"{source.alias_or_name}.{column}" for column in key) for key in keys]

    start = select.args.get("from_")
    keys = of(start.this) if start is not None else [frozenset()]
    for join in select.args.get("joins") or []:
        joined = of(join.this)
        on = join.args.get("on")
        equal = {f"{c.table}.{c.name}" for eq in (on.find_all(exp.EQ) if on is not None else ()) for c in _sides(eq)}
        if join.kind == "CROSS" and frozenset() not in joined:
            found.append(f"join: CROSS JOIN {join.this.sql()[:40]}, which may have more than one row")
        if not any(key <= equal for key in joined):  # else a row finds at most one partner
            keys = [one | other for one in keys for other in joined]
    group = select.args.get("group")
    if group is not None:
        columns = [f"{c.table}.{c.name}" for c in group.expressions if isinstance(c, exp.Column)]
        keys = [frozenset(columns)] if len(columns) == len(group.expressions) else []
    elif any(
        node.parent_select is select and not node.find_ancestor(exp.Window) for node in select.find_all(exp.AggFunc)
    ):
        keys = [frozenset()]  # one row
    return keys, found


def _sides(equality: exp.EQ) -> list[exp.Column]:
    return [side for side in (equality.left, equality.right) if isinstance(side, exp.Column)]


def _told(select: exp.Select, keys: Keys) -> Keys:
    """Keys in the names that a SELECT gives its columns."""
    plain = ((e.unalias(), e.alias_or_name) for e in select.selects)
    names = {f"{column.table}.{column.name}": name for column, name in plain if isinstance(column, exp.Column)}
    kept = [frozenset(names[column] for column in key) for key in keys if key <= set(names)]
    return [frozenset(select.named_selects), *kept] if select.args.get("distinct") else kept


def _window(window: exp.Window, keys: Keys) -> Iterator[str]:
    order = window.args.get("order")
    terms = [term.this for term in order.expressions] if order is not None else []
    columns = {
        f"{c.table}.{c.name}" for c in [*terms, *window.args.get("partition_by", [])] if isinstance(c, exp.Column)
    }
    function = window.this
    spec = window.args.get("spec")
    by_rows = spec is not None and spec.args.get("kind") == "ROWS"  # a RANGE takes all ties or none
    if not isinstance(function, _TIES_MATTER) and not by_rows:
        return
    if isinstance(function, exp.Lag | exp.Lead):
        read = {f"{c.table}.{c.name}" for c in function.this.find_all(exp.Column)}
        if order is not None and read <= columns:  # the places of ties hold the same
            return
    if not any(key <= columns for key in keys):
        yield f"total: {window.sql()[:80]} is not ordered by anything unique"
