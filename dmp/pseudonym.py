"""Keyed pseudonyms: the only form in which a user id exists at rest (P-60..P-63).

A stored id is the first 16 bytes of HMAC-SHA-256(key, id type || 0x00 || normalised id). E-mails and phones
enter as the hex SHA-256 of their normal form whether they came raw or already hashed, so both forms meet.
"""

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import tempfile
import unicodedata
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Literal

from dmp.errors import ConfigError
from dmp.forgotten import Forgotten
from dmp.schema import IdType, Uid

KEY_BYTES = 32
MarkKind = Literal["address", "ip"]
MAX_ID_CHARS = 512
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PHONE = re.compile(r"\+?[0-9]{6,15}")
_ZEROS = re.compile(r"\+?[0-]+")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # controls, and halves of characters: no id has them
_PLACEHOLDERS = frozenset({"null", "none", "undefined", "unknown", "test", "n/a", "nan"})
_HASHED_PLACEHOLDERS = frozenset(hashlib.sha256(text.encode()).hexdigest() for text in ("", *_PLACEHOLDERS))


class KeyRing:
    """The HMAC key, loaded once. Pre-keyed state makes one pseudonym cost about 2 us.

    forgotten: pseudonyms that are made no more (P-71); one costs a microsecond more where there are any.
    """

    def __init__(self, key: bytes, forgotten: Container[Uid] = ()) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError("pseudonym key", [f"{len(key)} bytes, {KEY_BYTES} are needed"])
        self._mac = hmac.new(key, digestmod=hashlib.sha256)
        self._forgotten = forgotten

    def uid(self, id_type: IdType, raw: str) -> Uid | None:
        """The pseudonym of a raw id, or None when the text cannot be an id of that type (see `normalise`).

        None as well for an id that was forgotten: whoever may not be known again is no user.
        """
        uid = self.pseudonym(id_type, raw)
        return None if uid is None or uid in self._forgotten else uid

    def pseudonym(self, id_type: IdType, raw: str) -> Uid | None:
        """As `uid`, also of a forgotten id: for what must be done about the id itself."""
        normal = normalise(id_type, raw)
        if normal is None:
            return None
        mac = self._mac.copy()
        mac.update(id_type.encode() + b"\0" + normal.encode())
        return mac.digest()[:16]

    def event_id(self, source: str, raw: str) -> str:
        """What stands for an event's id at rest: 32 hex characters. Senders make ids of what they have, users' too."""
        mac = self._mac.copy()
        mac.update(b"event\0" + source.encode() + b"\0" + raw.encode())
        return mac.hexdigest()[:32]

    def mark(self, kind: MarkKind, raw: str) -> str:
        """What stands for an address: 32 hex characters, the same for its spellings; "" for what is none.

        Marks tell only who shares an address, and are no user ids: another domain under the same key.
        """
        normal = _normal_ip(raw) if kind == "ip" else _normal_address(raw)
        if not normal:
            return ""
        mac = self._mac.copy()
        mac.update(b"mark." + kind.encode() + b"\0" + normal.encode("utf-8", "replace"))
        return mac.hexdigest()[:32]


def _normal_ip(raw: str) -> str:
    with suppress(OSError, ValueError):
        socket.inet_pton(socket.AF_INET, raw)  # takes the one spelling of such an address, in 0.3 us for 5
        return raw
    try:
        return ipaddress.ip_address(raw.strip()).compressed
    except ValueError:
        return raw.strip().lower()  # truncated by its log ("10.1.2.*"): still one network


def _normal_address(raw: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", raw).casefold()).split())


def key_ring(data_dir: Path | str) -> KeyRing:
    """The key ring of a data directory; ids forgotten there are no users. Raises as `load_key`."""
    return KeyRing(load_key(Path(data_dir) / "pseudonym.key"), Forgotten(data_dir))


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
    if not text or len(text) > MAX_ID_CHARS or _ZEROS.fullmatch(text) or lower in _PLACEHOLDERS:
        return None
    if _UNPRINTABLE.search(text):
        return None
    if id_type in ("email", "phone"):
        if _SHA256.fullmatch(lower):  # "" and "null" are hashed too, by those who hash a column unread
            return None if lower in _HASHED_PLACEHOLDERS else lower
        plain = lower if id_type == "email" else re.sub(r"[\s().-]", "", text)
        if not (_EMAIL if id_type == "email" else _PHONE).fullmatch(plain) or _ZEROS.fullmatch(plain):
            return None
        return hashlib.sha256(plain.encode()).hexdigest()
    return lower if _UUID.fullmatch(lower) else text


def load_key(path: Path, environment: str = "TAGBID_PSEUDONYM_KEY") -> bytes:
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
