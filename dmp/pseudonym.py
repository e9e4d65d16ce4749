"""Keyed pseudonyms: the only form in which a user id exists at rest (P-60..P-63).

A stored id is the first 16 bytes of HMAC-SHA-256(key, id type || 0x00 || normalised id). E-mails and phones
enter as the hex SHA-256 of their normal form whether they came raw or already hashed, so both forms meet.
"""

import hashlib
import ipaddress
import os
import re
import secrets
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Literal

from dmp.errors import ConfigError
from dmp.forgotten import Forgotten
from dmp.schema import IdType, Uid

KEY_BYTES = 32
KEY_FILE, FORMER_KEY_FILE = "pseudonym.key", "pseudonym.former.key"
ENVIRONMENT, FORMER_ENVIRONMENT = "TAGBID_PSEUDONYM_KEY", "TAGBID_PSEUDONYM_FORMER_KEY"
MOST_FORMERS = 100_000  # remembered at a time, some 15 MB
MarkKind = Literal["address", "ip"]
MAX_ID_CHARS = 512
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_CHARS = 36
_ZERO_UUID = "00000000-0000-0000-0000-000000000000"
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PHONE = re.compile(r"\+?[0-9]{6,15}")
_ZEROS = re.compile(r"\+?[0-]+")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # controls, and halves of characters: no id has them
_PLACEHOLDERS = frozenset({"null", "none", "undefined", "unknown", "test", "n/a", "nan"})
_HASHED_PLACEHOLDERS = frozenset(hashlib.sha256(text.encode()).hexdigest() for text in ("", *_PLACEHOLDERS))


class KeyRing:
    """The HMAC key, loaded once. Pre-keyed state makes one pseudonym cost about 2 us.

    forgotten: pseudonyms that are made no more (P-71); one costs a microsecond more where there are any. former: the
    key before this one, while a rotation is on (P-61, `dmp.rotation`). suppress: has it written down that a pseudonym
    under this key is to be made no more, as the former key's already is.
    """

    def __init__(
        self,
        key: bytes,
        forgotten: Container[Uid] = (),
        former: bytes | None = None,
        suppress: Callable[[Uid], object] = lambda uid: None,
    ) -> None:
        self._keyed = Keyed(key)
        self._former_keyed = None if former is None else Keyed(former)
        self._formers: dict[Uid, Uid] = {}
        self._forgotten, self._suppress = forgotten, suppress

    @property
    def rotating(self) -> bool:
        """Whether there is a former key under which users may still be known."""
        return self._former_keyed is not None

    def uid(self, id_type: IdType, raw: str) -> Uid | None:
        """The pseudonym of a raw id, or None when the text cannot be an id of that type (see `normalise`).

        None as well for an id that was forgotten: whoever may not be known again is no user.
        """
        normal = normalise(id_type, raw)
        if normal is None:
            return None
        uid = _digest(self._keyed, id_type, normal)
        if uid in self._forgotten:
            return None
        if self._former_keyed is not None:
            former = _digest(self._former_keyed, id_type, normal)
            if former in self._forgotten:
                self._suppress(uid)
                return None
            if len(self._formers) >= MOST_FORMERS:
                self._formers.clear()
            self._formers[uid] = former
        return uid

    def former_of(self, uid: Uid) -> Uid | None:
        """Under the former key, the pseudonym of an id whose `uid` was made a moment ago; None without a rotation."""
        return self._formers.get(uid)

    def former(self, id_type: IdType, raw: str) -> Uid | None:
        """As `pseudonym`, under the former key; None without a rotation."""
        normal = None if self._former_keyed is None else normalise(id_type, raw)
        return None if normal is None or self._former_keyed is None else _digest(self._former_keyed, id_type, normal)

    def pseudonym(self, id_type: IdType, raw: str) -> Uid | None:
        """As `uid`, also of a forgotten id: for what must be done about the id itself."""
        normal = normalise(id_type, raw)
        return None if normal is None else _digest(self._keyed, id_type, normal)

    def event_id(self, source: str, raw: str) -> str:
        """What stands for an event's id at rest: 32 hex characters. Senders make ids of what they have, users' too."""
        return self._keyed.digest(b"event\0" + source.encode() + b"\0" + raw.encode())[:16].hex()

    def mark(self, kind: MarkKind, raw: str) -> str:
        """What stands for an address: 32 hex characters, the same for its spellings; "" for what is none.

        Marks tell only who shares an address, and are no user ids: another domain under the same key.
        """
        normal = _normal_ip(raw) if kind == "ip" else _normal_address(raw)
        if not normal:
            return ""
        return self._keyed.digest(b"mark." + kind.encode() + b"\0" + normal.encode("utf-8", "replace"))[:16].hex()


class Keyed:
    """HMAC-SHA-256 (RFC 2104) under one key, whose two blocks are hashed once: 0.65 us a text, where copies of a
    `hmac.HMAC` take 1.1 and twice that between the other steps of a bid. Raises ConfigError.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError("pseudonym key", [f"{len(key)} bytes, {KEY_BYTES} are needed"])
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, text: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.digest()


def _digest(keyed: Keyed, id_type: IdType, normal: str) -> Uid:
    return keyed.digest(f"{id_type}\0{normal}".encode())[:16]


def _normal_ip(raw: str) -> str:
    try:
        socket.inet_pton(socket.AF_INET, raw)  # takes the one spelling of such an address, in 0.3 us for 5
    except (OSError, ValueError):
        pass
    else:
        return raw
    try:
        return ipaddress.ip_address(raw.strip()).compressed
    except ValueError:
        return raw.strip().lower()  # truncated by its log ("10.1.2.*"): still one network


def _normal_address(raw: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", raw).casefold()).split())


def key_ring(data_dir: Path | str) -> KeyRing:
    """The key ring of a data directory; ids forgotten there are no users. Raises as `load_key`."""
    forgotten = Forgotten(data_dir)
    former = former_key(Path(data_dir))
    return KeyRing(load_key(Path(data_dir) / KEY_FILE), forgotten, former, lambda uid: forgotten.add([uid]))


def former_key(data_dir: Path) -> bytes | None:
    """The key before the present one, None when no rotation is on. Raises as `load_key`."""
    if os.environ.get(ENVIRONMENT) is not None:
        return None if os.environ.get(FORMER_ENVIRONMENT) is None else load_key(data_dir, FORMER_ENVIRONMENT)
    path = data_dir / FORMER_KEY_FILE
    return secret_file(path) if path.exists() else None


def normalise(id_type: IdType, raw: str) -> str | None:
    """The one spelling of an id, or None for what is no id: blank, all zeros, a placeholder, too long (P-63).

    A phone number keeps its `+`: with and without one are two users, since only the sender knows the country.

    >>> normalise("device", " 6D92078A-8246-4BA4-AE5B-76104861E7DC ")
    '6d92078a-8246-4ba4-ae5b-76104861e7dc'
    >>> normalise("device", "00000000-0000-0000-0000-000000000000") is None
    True
    """
    text = raw.strip()
    lower = text.lower()
    if id_type == "device" and _UUID.fullmatch(lower):  # what nearly all of them are, known by one look
        return None if lower == _ZERO_UUID else lower
    if not text or len(text) > MAX_ID_CHARS or lower in _PLACEHOLDERS:
        return None
    if (text[0] in "+-0" and _ZEROS.fullmatch(text)) or (not text.isprintable() and _UNPRINTABLE.search(text)):
        return None
    if id_type in ("email", "phone"):
        if _SHA256.fullmatch(lower):  # "" and "null" are hashed too, by those who hash a column unread
            return None if lower in _HASHED_PLACEHOLDERS else lower
        plain = lower if id_type == "email" else re.sub(r"[\s().-]", "", text)
        if not (_EMAIL if id_type == "email" else _PHONE).fullmatch(plain) or _ZEROS.fullmatch(plain):
            return None
        return hashlib.sha256(plain.encode()).hexdigest()
    return lower if len(lower) == _UUID_CHARS and _UUID.fullmatch(lower) else text


def load_key(path: Path, environment: str = ENVIRONMENT) -> bytes:
    """The operator's key: from the environment as 64 hex characters, else from `path`, made there on first use.

    The file is written with mode 0600 and refused with any wider mode (P-61, S-41). An empty variable is refused
    as well: a secret that failed to arrive must not become a new key, under which nobody is known.
    """
    from_env = os.environ.get(environment)
    if from_env is None:
        return secret_file(path)
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * KEY_BYTES}}}", from_env.strip()):
        raise ConfigError(environment, [f"is not {2 * KEY_BYTES} hexadecimal characters; unset it to use {path}"])
    return bytes.fromhex(from_env.strip())


def secret_file(path: Path) -> bytes:
    """32 secret bytes kept at `path`, created with mode 0600 when absent; two starters agree on one secret.

    Raises ConfigError when it cannot be made or read, when others can read it, or when it is not 32 bytes.
    """
    try:
        if not path.exists():
            _make_secret(path)
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(str(path), [f"mode is {mode:04o}; others can read this secret: chmod 600 {path}"])
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), [f"this secret cannot be kept there: {error.strerror or error}"]) from None
    if len(secret) != KEY_BYTES:
        raise ConfigError(str(path), [f"{len(secret)} bytes, {KEY_BYTES} are needed; restore it from a backup"])
    return secret


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A name of its own (mode 0600): a starter that died here must not stop the next one with the same pid.
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(descriptor)  # a key lost to a power cut makes every stored id a stranger
        with suppress(FileExistsError):  # another process was first: then its secret is the one
            os.link(draft, path)
    finally:
        Path(draft).unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
