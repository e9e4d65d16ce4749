"""Keyed pseudonyms: the only form in which a user id exists at rest (P-60..P-63).

A stored id is the first 16 bytes of HMAC-SHA-256(key, id type || 0x00 || normalised id). E-mails and phones
enter as the hex SHA-256 of their normal form whether they came raw or already hashed, so both forms meet.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from dmp.errors import ConfigError
from dmp.schema import IdType, Uid

KEY_BYTES = 32
MAX_ID_CHARS = 512
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_ZEROS = re.compile(r"[0-]+")
_PLACEHOLDERS = frozenset({"null", "none", "undefined", "unknown", "test", "n/a", "nan"})


class KeyRing:
    """The HMAC key, loaded once. Pre-keyed state makes one pseudonym cost about 2 us."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError("pseudonym key", [f"{len(key)} bytes, {KEY_BYTES} are needed"])
        self._mac = hmac.new(key, digestmod=hashlib.sha256)

    def uid(self, id_type: IdType, raw: str) -> Uid | None:
        """The pseudonym of a raw id, or None when the text cannot be an id of that type (see `normalise`)."""
        normal = normalise(id_type, raw)
        if normal is None:
            return None
        mac = self._mac.copy()
        mac.update(id_type.encode() + b"\0" + normal.encode("utf-8", "surrogatepass"))
        return mac.digest()[:16]


def normalise(id_type: IdType, raw: str) -> str | None:
    """The one spelling of an id, or None for what is no id: blank, all zeros, a placeholder, too long (P-63).

    >>> normalise("device", " 6D92078A-8246-4BA4-AE5B-76104861E7DC ")
    '6d92078a-8246-4ba4-ae5b-76104861e7dc'
    >>> normalise("device", "00000000-0000-0000-0000-000000000000") is None
    True
    """
    text = raw.strip()
    lower = text.lower()
    if not text or len(text) > MAX_ID_CHARS or _ZEROS.fullmatch(text) or lower in _PLACEHOLDERS:
        return None
    if id_type == "email":
        if _SHA256.fullmatch(lower):
            return lower
        return hashlib.sha256(lower.encode()).hexdigest() if _EMAIL.fullmatch(lower) else None
    if id_type == "phone":
        if _SHA256.fullmatch(lower):
            return lower
        digits = re.sub(r"[\s().-]", "", text)
        return hashlib.sha256(digits.encode()).hexdigest() if re.fullmatch(r"\+?\d{6,15}", digits) else None
    return lower if _UUID.fullmatch(lower) else text


def load_key(path: Path, environment: str = "TAGBID_PSEUDONYM_KEY") -> bytes:
    """The operator's key: from the environment as 64 hex characters, else from `path`, made there on first use.

    The file is written with mode 0600 and refused with any wider mode (P-61, S-41).
    """
    if from_env := os.environ.get(environment):
        try:
            return bytes.fromhex(from_env)
        except ValueError:
            raise ConfigError(environment, ["is not 64 hexadecimal characters"]) from None
    return secret_file(path)


def secret_file(path: Path) -> bytes:
    """32 secret bytes kept at `path`, created with mode 0600 when absent; two starters agree on one secret."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(draft, path)  # fails when another process was first: then its secret is the one
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(str(path), [f"mode is {mode:04o}; others can read this secret: chmod 600 {path}"])
    return path.read_bytes()
