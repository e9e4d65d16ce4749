"""Signed tokens in notice, pixel and click URLs: all we need to know about a bid, in the URL itself (S-10, S-11).

A bid has two tokens. The *server* token is in the URLs the exchange calls (win, billing, loss), the *browser* token
in those the page loads (impression, click). Only the kind they were made for accepts them: who sees the page must
not be able to settle the price of the impression.

Bytes, version 1, little endian, then URL-safe base64 without padding:

    u8 version, u8 key id, u8 flags, u32 issued (store clock, seconds), u16 hold (s), u64 ceiling (CPM micro-USD), 12
    bytes bid id, [16 bytes sealed uid], [u32 multiplier in thousandths], then exchange, imp id, campaign, creative,
    currency each as u8 length + UTF-8, then 16 bytes keyed BLAKE2b of all before.

The user's pseudonym, when the bid may be joined to a user at all (P-52), is sealed with a pad that is different for
every bid, so that the URLs of two bids cannot be linked by those who see them.
"""

import hashlib
import hmac
import struct
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from binascii import b2a_base64
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dmp.pseudonym import secret_file
from dmp.schema import Uid

VERSION = 1
MAC_BYTES = 16
BID_ID_BYTES = 12
WORKER_BYTES = 6
MAX_TOKEN_CHARS = 2048
SKEW_S = 300  # S-11
BROWSER, HAS_UID, TEST, NO_CONTACT, HAS_MULTIPLIER = 1, 2, 4, 8, 16
ONE_MILLI = 1000  # one impression
_HEAD = struct.Struct(f"<BBBIHQ{BID_ID_BYTES}s")


class Token(msgspec.Struct, frozen=True):
    """What a token says. bid_id: 16 URL-safe characters, of which the first 8 name the worker that made the bid.

    issued_s: unix seconds on the store's clock. hold_s: how long the bid's money stays reserved.
    ceiling_micros: CPM micro-USD we offered, the most we can be charged. currency: of the price in notices. uid: None
    for a bid that may not be joined to a user. browser: for the page's URLs. test: nothing of it may be billed.
    counts_contact: whether the impression may be counted on the user's record, for frequency caps. multiplier_milli:
    thousandths of an impression one showing costs.
    """

    bid_id: str
    issued_s: int
    hold_s: int
    ceiling_micros: int
    exchange: str
    imp_id: str
    campaign: str
    creative: str
    currency: str = "USD"
    uid: Uid | None = None
    browser: bool = False
    test: bool = False
    counts_contact: bool = True
    multiplier_milli: int = ONE_MILLI

    @property
    def worker(self) -> str:
        return self.bid_id[:8]


class Forged(Exception):
    """Not a token of ours: wrong form, unknown key, or a MAC that does not fit."""


def text_field(text: str) -> bytes:
    """A field of a token; what does not fit in 255 bytes is replaced by its hash."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > 255:
        data = b"~" + hashlib.blake2b(data, digest_size=15).hexdigest().encode()
    return bytes((len(data),)) + data


class Signer:
    """Makes and reads tokens. keys: 32 secret bytes each, the first signs, all verify (rotation with overlap)."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a signer needs at least one key")
        self._macs = [(_key_id(key), hashlib.blake2b(key=key, digest_size=MAC_BYTES, person=b"token")) for key in keys]
        self._pads = [hashlib.blake2b(key=key, digest_size=16, person=b"uid") for key in keys]
        self._key_id, self._mac = self._macs[0]

    def pair(
        self,
        bid_id: bytes,
        issued_s: int,
        hold_s: int,
        ceiling_micros: int,
        fields: bytes,
        uid: Uid | None,
        test: bool = False,
        counts_contact: bool = True,
        multiplier_milli: int = ONE_MILLI,
    ) -> tuple[bytes, bytes]:
        """(server token, browser token). bid_id: 12 bytes. fields: the five `text_field`s of a token, joined."""
        flags = (TEST if test else 0) | (0 if counts_contact else NO_CONTACT)
        sealed = b""
        if uid is not None:
            flags |= HAS_UID
            sealed = _seal(self._pads[0], bid_id, uid)
        if multiplier_milli != ONE_MILLI:
            flags |= HAS_MULTIPLIER
            sealed += multiplier_milli.to_bytes(4, "little")
        tail = sealed + fields
        version, key_id = VERSION, self._key_id
        server = _HEAD.pack(version, key_id, flags, issued_s, hold_s, ceiling_micros, bid_id) + tail
        browser = _HEAD.pack(version, key_id, flags | BROWSER, issued_s, hold_s, ceiling_micros, bid_id) + tail
        return self._signed(server), self._signed(browser)

    def _signed(self, body: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(body)
        return b2a_base64(body + mac.digest(), newline=False).translate(_ALPHABET, b"=")  # `url_safe`, without a call

    def read(self, text: str) -> Token:
        """The token that `text` is; raises Forged."""
        if len(text) > MAX_TOKEN_CHARS:
            raise Forged("too long")
        try:
            # Python ignores foreign characters in base64; a token has one spelling only, so it is compared with that.
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (Base64Error, ValueError):
            raise Forged("not base64") from None
        body, given = data[:-MAC_BYTES], data[-MAC_BYTES:]
        if len(body) < _HEAD.size or body[0] != VERSION or url_safe(data) != text.encode():
            raise Forged("not a token")
        for (key_id, keyed), pad in zip(self._macs, self._pads, strict=True):
            if key_id != body[1]:
                continue
            mac = keyed.copy()
            mac.update(body)
            if hmac.compare_digest(mac.digest(), given):
                return _parse(body, pad)
        raise Forged("signature")


def url_safe(data: bytes) -> bytes:
    """Base64 of RFC 4648, section 5, without padding."""
    return b2a_base64(data, newline=False).translate(_ALPHABET, b"=")


_ALPHABET = bytes.maketrans(b"+/", b"-_")


def _parse(body: bytes, pad: "hashlib.blake2b") -> Token:
    """A body whose MAC was right, so its lengths are those we wrote."""
    _, _, flags, issued_s, hold_s, ceiling_micros, bid_id = _HEAD.unpack_from(body)
    at = _HEAD.size
    uid = None
    if flags & HAS_UID:
        uid = _seal(pad, bid_id, body[at : at + 16])
        at += 16
    multiplier_milli = ONE_MILLI
    if flags & HAS_MULTIPLIER:
        multiplier_milli = int.from_bytes(body[at : at + 4], "little")
        at += 4
    texts = []
    for _ in range(5):
        length = body[at]
        texts.append(body[at + 1 : at + 1 + length].decode("utf-8", "surrogatepass"))
        at += 1 + length
    exchange, imp_id, campaign, creative, currency = texts
    return Token(
        bid_id=bid_id_text(bid_id),
        issued_s=issued_s,
        hold_s=hold_s,
        ceiling_micros=ceiling_micros,
        exchange=exchange,
        imp_id=imp_id,
        campaign=campaign,
        creative=creative,
        currency=currency,
        uid=uid,
        browser=bool(flags & BROWSER),
        test=bool(flags & TEST),
        counts_contact=not flags & NO_CONTACT,
        multiplier_milli=multiplier_milli,
    )


def bid_id_text(bid_id: bytes) -> str:
    return url_safe(bid_id).decode()


def _seal(pad: "hashlib.blake2b", bid_id: bytes, uid: Uid) -> bytes:
    """XOR with a pad of the bid's own; applied twice it gives the uid back."""
    mac = pad.copy()
    mac.update(bid_id)
    return (int.from_bytes(mac.digest()) ^ int.from_bytes(uid)).to_bytes(16)


def _key_id(key: bytes) -> int:
    return hashlib.blake2b(key, digest_size=1, person=b"key id").digest()[0]


def load_keys(data_dir: Path) -> list[bytes]:
    """The key in `token.key`, made on first use, and the one before it in `token.key.old` if there is one.

    To rotate: move `token.key` to `token.key.old` and restart; remove the old one after 30 days, with its last token.
    """
    found = [secret_file(data_dir / "token.key")]
    old = data_dir / "token.key.old"
    if old.exists():
        found.append(secret_file(old))
    return found
