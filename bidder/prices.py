"""Clearing prices as exchanges send them: plain or in Google's encryption, CPM or micros of one impression.

The text replaces a macro in a URL, so it may also be empty, unexpanded, or anything somebody made up: then there is no
price, and nothing is booked (S-13, S-16).
"""

import hashlib
import hmac
import re
from binascii import Error as Base64Error
from decimal import Decimal, InvalidOperation

from msgspec import Struct

from bidder.config import ExchangeConfig, key_bytes

_NUMBER = re.compile(r"[+-]?(\d{1,12}(\.\d{0,18})?|\.\d{1,18})([eE][+-]?\d{1,2})?", re.ASCII)
_ENCRYPTED = re.compile(r"[A-Za-z0-9_+/-]{38}={0,2}", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9_+/-]{2,40}={0,2}", re.ASCII)
IV_BYTES, PRICE_BYTES, SIGNATURE_BYTES = 16, 8, 4
MAX_PRICE_MICROS = 10**15  # a CPM of a billion: above any bid, and small enough for every record it may stand in
STALE_S = 86_400  # as long as a win counts
SKEW_S = 300


class PriceUnusable(Exception):
    """A price that cannot be booked; the message is why."""


class Plain(Struct, frozen=True):
    """price: what stands in the text, times a million. iv_s: unix seconds of an encrypted price's making, else None."""

    micros: int
    iv_s: float | None = None


def price_micros(text: str) -> int:
    """CPM micros of a price macro's value. Raises PriceUnusable on anything but a number >= 0.

    >>> price_micros("1.25"), price_micros("0.000001"), price_micros("1E-3")
    (1250000, 1, 1000)
    """
    if not text:
        raise PriceUnusable("empty")
    if not _NUMBER.fullmatch(text):
        raise PriceUnusable("unexpanded" if text.startswith(("${", "%24%7B")) else "no number")
    try:
        micros = int((Decimal(text) * 1_000_000).to_integral_value())
    except InvalidOperation:  # more digits than decimals are computed with
        raise PriceUnusable("no number") from None
    if micros < 0 or text.startswith("-"):
        raise PriceUnusable("negative")
    return micros


def decrypt(text: str, encryption_key: bytes, integrity_key: bytes) -> Plain:
    """Google's scheme (S-14): 28 bytes IV, price XOR pad, signature. Raises PriceUnusable when it is not sound.

    The price is an integer; Google makes it micros of one impression (`ExchangeConfig.price_unit`).

    >>> e = key_bytes("sIxwz7yw62yrfoLGt12lIHKuYrK/S5kLuApI2BQe7Ac=")
    >>> i = key_bytes("v3fsVcMBMMHYzRhi7SpM0sdqwzvAxM6KPTu9OtVod5I=")
    >>> decrypt("OG46wAAMCggBI0VniavN7-mNy0VTKPbB3o5CMQ==", e, i)
    Plain(micros=1200000, iv_s=946748096.789)
    """
    if not _ENCRYPTED.fullmatch(text):
        if not text:
            raise PriceUnusable("empty")
        raise PriceUnusable("unexpanded" if text.startswith(("${", "%24%7B", "%%")) else "not encrypted")
    try:
        data = key_bytes(text)
    except (Base64Error, ValueError):
        raise PriceUnusable("not encrypted") from None
    iv, sealed, signature = data[:IV_BYTES], data[IV_BYTES:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    pad = hmac.digest(encryption_key, iv, hashlib.sha1)[:PRICE_BYTES]
    price = bytes(a ^ b for a, b in zip(sealed, pad, strict=True))
    if not hmac.compare_digest(hmac.digest(integrity_key, price + iv, hashlib.sha1)[:SIGNATURE_BYTES], signature):
        raise PriceUnusable("undecryptable")
    seconds, micros = int.from_bytes(iv[:4]), int.from_bytes(iv[4:8])
    return Plain(int.from_bytes(price), seconds + micros / 1e6)


def iv_of(text: str) -> bytes:
    """The initialisation vector of a price that could be decrypted: no two prices have the same."""
    return key_bytes(text)[:IV_BYTES]


def _unwrapped(text: str) -> str:
    """What `${AUCTION_PRICE:B64}` is replaced by, as text; empty and unexpanded macros stay what they are."""
    if not text or not _BASE64.fullmatch(text):
        return text if not _NUMBER.fullmatch(text) else "plain"  # a bare number is not what was agreed
    try:
        return key_bytes(text).decode("ascii")
    except (Base64Error, ValueError):
        return "not base64"


def reported_micros(text: str, exchange: ExchangeConfig, now_s: float) -> int:
    """The CPM micros an exchange reports, by its own settings. Raises PriceUnusable."""
    if exchange.price_encoding == "google":
        keys = key_bytes(exchange.price_encryption_key), key_bytes(exchange.price_integrity_key)
        found = decrypt(text, *keys)
        if found.iv_s is not None and not -SKEW_S <= now_s - found.iv_s <= STALE_S:
            raise PriceUnusable("stale")
        number = found.micros
    else:
        number = price_micros(_unwrapped(text) if exchange.price_encoding == "base64" else text)
        if exchange.price_unit != "cpm":  # the number itself counts micros
            number //= 1_000_000
    found_micros = number * 1000 if exchange.price_unit == "micros_cpi" else number
    if found_micros > MAX_PRICE_MICROS:
        raise PriceUnusable("above ceiling")
    return found_micros
