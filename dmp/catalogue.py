"""The catalogue: advertisers, their API keys, their audiences and where each of those is in its life.

SQLite through SQLAlchemy Core (another database by URL runs the same statements). What an advertiser may see is
asked for with the advertiser's id, so that another tenant's object does not exist for it (S-21); the worker's side
(`claim` to `expire`) sees all tenants and holds a lease on the one audience it works on.
Keys are 32 random bytes, shown once and kept as SHA-256: with that much entropy a slow hash adds nothing (S-20).
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from dmp import keys
from dmp.audiences import Audience, audience_id, check_name
from dmp.errors import CorruptRecord, DmpError

VERSION = 1
KEY_PREFIX = "tb_"
SHOWN_CHARS = 9  # of a key, in lists and for revoking: the prefix and 36 of 256 bits
USE_RESOLUTION_US = 60_000_000  # last use is noted at most once a minute: reads stay reads

_tables = sql.MetaData()
_meta = sql.Table("catalogue", _tables, sql.Column("version", sql.Integer, nullable=False))
_advertisers = sql.Table(
    "advertisers",
    _tables,
    sql.Column("id", sql.String(64), primary_key=True),
    sql.Column("created_us", sql.BigInteger, nullable=False),
)
_keys = sql.Table(
    "api_keys",
    _tables,
    sql.Column("sha256", sql.LargeBinary(32), primary_key=True),
    sql.Column("advertiser", sql.String(64), sql.ForeignKey("advertisers.id"), nullable=False),
    sql.Column("shown", sql.String(16), nullable=False),
    sql.Column("scopes", sql.String(200), nullable=False),
    sql.Column("created_us", sql.BigInteger, nullable=False),
    sql.Column("expires_us", sql.BigInteger, nullable=False),
    sql.Column("used_us", sql.BigInteger, nullable=False),
    sql.Column("revoked_us", sql.BigInteger, nullable=False),
)
_audiences = sql.Table(
    "audiences",
    _tables,
    sql.Column("id", sql.String(129), primary_key=True),
    sql.Column("advertiser", sql.String(64), sql.ForeignKey("advertisers.id"), nullable=False, index=True),
    sql.Column("name", sql.String(64), nullable=False),
    sql.Column("number", sql.BigInteger, nullable=False, unique=True),
    sql.Column("state", sql.String(16), nullable=False, index=True),
    sql.Column("message", sql.Text, nullable=False, default=""),
    sql.Column("rows", sql.BigInteger, nullable=False),
    sql.Column("invalid", sql.BigInteger, nullable=False),
    sql.Column("distinct", sql.BigInteger, nullable=False),
    sql.Column("matched", sql.BigInteger, nullable=False),
    sql.Column("members", sql.BigInteger, nullable=False, default=0),
    sql.Column("share_pct", sql.Float, nullable=False),
    sql.Column("include_seed", sql.Boolean, nullable=False),
    sql.Column("seed_file", sql.Text, nullable=False),
    sql.Column("members_file", sql.Text, nullable=False, default=""),
    sql.Column("report", sql.JSON, nullable=False, default=dict),
    sql.Column("attempts", sql.Integer, nullable=False, default=0),
    sql.Column("created_us", sql.BigInteger, nullable=False),
    sql.Column("changed_us", sql.BigInteger, nullable=False),
    sql.Column("expires_us", sql.BigInteger, nullable=False, default=0),
    sql.Column("lease", sql.String(32), nullable=False, default=""),
    sql.Column("lease_until_us", sql.BigInteger, nullable=False, default=0),
)
_FIELDS = [_audiences.c[name] for name in Audience.__struct_fields__]
_REUSABLE = ("expired", "refused")


class AlreadyThere(DmpError):
    """The name is taken; nothing was changed."""


class UnknownAdvertiser(DmpError):
    """No advertiser of that id was added."""

    def __init__(self, advertiser: str) -> None:
        super().__init__(f"unknown advertiser {advertiser!r}; add it with: tagbid dmp advertisers add {advertiser}")


class LeaseLost(DmpError):
    """Another worker took the audience over after the lease ran out; this one must stop writing."""

    def __init__(self, audience: str) -> None:
        super().__init__(f"the lease on audience {audience} ran out and another worker has it; nothing was changed")


class Principal(msgspec.Struct, frozen=True):
    """Who a key speaks for and what it may do."""

    advertiser: str
    scopes: frozenset[str]


class Upload(msgspec.Struct, frozen=True):
    """What one imported seed file held. rows: data lines; invalid: of them no usable id; distinct: different ids;
    matched: of those known users. seed_file: their uids, a `dmp.audiences.write_uids` file under the data directory.
    """

    rows: int
    invalid: int
    distinct: int
    matched: int
    seed_file: str


class Catalogue:
    """An open catalogue; safe to use from threads. Close it when done."""

    def __init__(self, url: str) -> None:
        self._engine = sql.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sql.event.listen(self._engine, "connect", _sqlite_settings)
        _tables.create_all(self._engine)
        with self._engine.begin() as db:
            found = db.scalar(sql.select(_meta.c.version))
            if found is None:
                db.execute(sql.insert(_meta).values(version=VERSION))
            elif found != VERSION:
                raise CorruptRecord(f"catalogue of version {found}, this release reads {VERSION}")

    def close(self) -> None:
        self._engine.dispose()

    # Advertisers and keys

    def add_advertiser(self, advertiser: str, now_us: int) -> None:
        """Raises BadName, AlreadyThere."""
        try:
            with self._engine.begin() as db:
                db.execute(sql.insert(_advertisers).values(id=check_name(advertiser), created_us=now_us))
        except IntegrityError:
            raise AlreadyThere(
                f"advertiser {advertiser!r} exists; for another key use: tagbid dmp advertisers key"
            ) from None

    def issue_key(self, advertiser: str, now_us: int, scopes: tuple[str, ...] = ("seeds",), expires_us: int = 0) -> str:
        """A new key, in the only place its text ever is. expires_us: 0 = until revoked. Raises UnknownAdvertiser."""
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        row = {
            "sha256": _digest(key),
            "advertiser": advertiser,
            "shown": key[:SHOWN_CHARS],
            "scopes": " ".join(scopes),
            "created_us": now_us,
            "expires_us": expires_us,
            "used_us": 0,
            "revoked_us": 0,
        }
        try:
            with self._engine.begin() as db:
                db.execute(sql.insert(_keys).values(row))
        except IntegrityError:
            raise UnknownAdvertiser(advertiser) from None
        return key

    def revoke_keys(self, advertiser: str, shown: str, now_us: int) -> int:
        """Revoke the advertiser's keys that begin with `shown`; from the next request on. Returns how many."""
        statement = (
            sql.update(_keys)
            .where(_keys.c.advertiser == advertiser, _keys.c.shown == shown[:SHOWN_CHARS], _keys.c.revoked_us == 0)
            .values(revoked_us=now_us)
        )
        with self._engine.begin() as db:
            return db.execute(statement).rowcount

    def principal(self, key: str, now_us: int) -> Principal | None:
        """Who a key speaks for; None for an unknown, expired or revoked one. No cache: revoking works at once."""
        row_of = _keys.c.sha256 == _digest(key)
        with self._engine.connect() as db:
            row = db.execute(sql.select(_keys).where(row_of)).mappings().first()
        if row is None or row["revoked_us"] or (row["expires_us"] and row["expires_us"] <= now_us):
            return None
        if now_us - row["used_us"] > USE_RESOLUTION_US:
            with self._engine.begin() as db:
                db.execute(sql.update(_keys).where(row_of).values(used_us=now_us))
        return Principal(row["advertiser"], frozenset(row["scopes"].split()))

    # What an advertiser sees of its own

    def audiences(self, advertiser: str) -> list[Audience]:
        statement = sql.select(*_FIELDS).where(_audiences.c.advertiser == advertiser).order_by(_audiences.c.name)
        with self._engine.connect() as db:
            return [_audience(row) for row in db.execute(statement).mappings()]

    def all_audiences(self) -> list[Audience]:
        """Of every tenant: for the operator only."""
        with self._engine.connect() as db:
            return [_audience(row) for row in db.execute(sql.select(*_FIELDS).order_by(_audiences.c.id)).mappings()]

    def audience(self, advertiser: str, name: str) -> Audience | None:
        statement = sql.select(*_FIELDS).where(_audiences.c.advertiser == advertiser, _audiences.c.name == name)
        with self._engine.connect() as db:
            row = db.execute(statement).mappings().first()
        return None if row is None else _audience(row)

    def add_audience(
        self, advertiser: str, name: str, upload: Upload, share_pct: float, include_seed: bool, now_us: int
    ) -> Audience:
        """A pending audience. Raises BadName, UnknownAdvertiser, AlreadyThere (an expired or refused name is free)."""
        return self._add(
            advertiser,
            name,
            {
                **msgspec.structs.asdict(upload),
                "state": "pending",
                "share_pct": share_pct,
                "include_seed": include_seed,
                "created_us": now_us,
                "changed_us": now_us,
            },
        )

    def add_chosen(
        self,
        advertiser: str,
        name: str,
        members_file: str,
        members: int,
        report: Mapping[str, Any],
        expires_us: int,
        worker: str,
        now_us: int,
        lease_us: int,
    ) -> Audience:
        """An audience whose members are known and being stored by `worker`; whoever takes it over stores them again.

        Raises as `add_audience`.
        """
        row = {
            **msgspec.structs.asdict(Upload(rows=0, invalid=0, distinct=0, matched=members, seed_file="")),
            "state": "expanding",
            "share_pct": 0.0,
            "include_seed": True,
            "members_file": members_file,
            "expires_us": expires_us,
            "report": dict(report),
            "lease": worker,
            "lease_until_us": now_us + lease_us,
            "attempts": 1,
            "created_us": now_us,
            "changed_us": now_us,
        }
        return self._add(advertiser, name, row)

    def _add(self, advertiser: str, name: str, row: dict[str, Any]) -> Audience:
        row |= {
            "id": audience_id(advertiser, name),
            "advertiser": advertiser,
            "name": name,
            "number": keys.number(audience_id(advertiser, name)),
        }
        free = sql.delete(_audiences).where(_audiences.c.id == row["id"], _audiences.c.state.in_(_REUSABLE))
        try:
            with self._engine.begin() as db:
                if db.scalar(sql.select(_advertisers.c.id).where(_advertisers.c.id == advertiser)) is None:
                    raise UnknownAdvertiser(advertiser)
                db.execute(free)
                db.execute(sql.insert(_audiences).values(row))
        except IntegrityError:
            # The same name, or by a chance of one in 2^32 another name with the same number.
            raise AlreadyThere(f"audience {row['id']} exists; choose another name") from None
        found = self.audience(advertiser, name)
        assert found is not None  # noqa: S101 - inserted above, and only its owner's upload replaces it
        return found

    # What the worker does

    def claim(self, worker: str, now_us: int, lease_us: int) -> Audience | None:
        """Take the oldest pending audience, or one whose worker's lease ran out; None when there is no work."""
        open_now = _open(now_us)
        oldest = sql.select(_audiences.c.id).where(open_now).order_by(_audiences.c.changed_us, _audiences.c.id).limit(1)
        statement = (
            sql.update(_audiences)
            .where(_audiences.c.id == oldest.scalar_subquery(), open_now)
            .values(
                state="expanding",
                lease=worker,
                lease_until_us=now_us + lease_us,
                attempts=_audiences.c.attempts + 1,
                changed_us=now_us,
            )
            .returning(*_FIELDS)
        )
        with self._engine.begin() as db:
            row = db.execute(statement).mappings().first()
        return None if row is None else _audience(row)

    def waiting(self, now_us: int) -> bool:
        """Whether `claim` would find work; takes nothing."""
        with self._engine.connect() as db:
            return db.scalar(sql.select(_audiences.c.id).where(_open(now_us)).limit(1)) is not None

    def renew(self, audience: str, worker: str, now_us: int, lease_us: int) -> None:
        """Raises LeaseLost, as do all that follow."""
        self._change(audience, worker, {"lease_until_us": now_us + lease_us})

    def plan(
        self, audience: str, worker: str, members_file: str, expires_us: int, report: Mapping[str, Any], now_us: int
    ) -> None:
        """Write down who the members will be, before the first of them is stored."""
        decided = {"members_file": members_file, "expires_us": expires_us, "report": dict(report)}
        self._change(audience, worker, {**decided, "changed_us": now_us})

    def make_live(self, audience: str, worker: str, members: int, now_us: int) -> None:
        self._change(audience, worker, {"state": "live", "members": members, "lease": "", "changed_us": now_us})

    def refuse(self, audience: str, worker: str, message: str, now_us: int) -> None:
        self._change(audience, worker, {"state": "refused", "message": message, "lease": "", "changed_us": now_us})

    def expire(self, now_us: int) -> list[Audience]:
        """Mark live audiences past their end as expired and return them; their memberships have ended by themselves."""
        statement = (
            sql.update(_audiences)
            .where(_audiences.c.state == "live", _audiences.c.expires_us > 0, _audiences.c.expires_us <= now_us)
            .values(state="expired", changed_us=now_us)
            .returning(*_FIELDS)
        )
        with self._engine.begin() as db:
            return [_audience(row) for row in db.execute(statement).mappings()]

    def files(self) -> frozenset[str]:
        """Every file an audience that is not over refers to, relative to the data directory."""
        statement = sql.select(_audiences.c.seed_file, _audiences.c.members_file).where(
            _audiences.c.state.not_in(_REUSABLE)
        )
        with self._engine.connect() as db:
            return frozenset(name for row in db.execute(statement) for name in row if name)

    def _change(self, audience: str, worker: str, values: Mapping[str, Any]) -> None:
        statement = (
            sql.update(_audiences)
            .where(_audiences.c.id == audience, _audiences.c.state == "expanding", _audiences.c.lease == worker)
            .values(**values)
        )
        with self._engine.begin() as db:
            if db.execute(statement).rowcount != 1:
                raise LeaseLost(audience)


def open_catalogue(data_dir: Path) -> Catalogue:
    """The catalogue of a data directory: `catalogue.sqlite`, mode 0600 in a 0700 directory (S-41)."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data_dir / "catalogue.sqlite"
    with (data_dir / "catalogue.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two first starters one makes the tables
        with suppress(FileExistsError):  # an existing one is not opened: closing it would drop SQLite's own locks
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        return Catalogue(f"sqlite:///{path}")


def _sqlite_settings(connection: Any, _record: object) -> None:
    """WAL: the server reads while the worker writes. Writers wait for each other rather than fail."""
    for setting in ("journal_mode=WAL", "busy_timeout=5000", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {setting}")


def _open(now_us: int) -> sql.ColumnElement[bool]:
    """Audiences a worker may take."""
    left = sql.and_(_audiences.c.state == "expanding", _audiences.c.lease_until_us <= now_us)
    return sql.or_(_audiences.c.state == "pending", left)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _audience(row: sql.RowMapping) -> Audience:
    return Audience(**dict(row))
