"""Reading the bits of web-safe base64 consent strings, the alphabet TC strings and GPP sections share.

A segment becomes bytes once; every read is a small window of those bytes, so its cost does not grow with the
string. Positions and widths are in bits, most significant bit first. Reading past the end is `Malformed`: a consent
string that stops early permits nothing (P-04).
"""

import binascii

MAX_LENGTH = 8192  # characters of one TC or GPP string (P-04)
PAST_END = bytes(8)  # lets a window start at the last real bit


class Malformed(Exception):
    """The string breaks its encoding; the decoders' public functions turn it into None."""


_STANDARD = bytearray(b"!" * 256)  # '!' is in no base64 alphabet, so strict decoding refuses it
for _i, _letter in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"):
    _STANDARD[_letter] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[_i]
_TO_STANDARD = bytes(_STANDARD)


def unpack(segment: str) -> tuple[bytes, int]:
    """(bytes with zero bytes after the end, number of real bits: 6 a character). Raises Malformed.

    The length need not be a multiple of four: encoders pad with zero bits to 6, 8 or 24.
    """
    if not segment:
        raise Malformed
    try:
        letters = segment.encode("ascii").translate(_TO_STANDARD)
        return binascii.a2b_base64(letters + b"A" * (-len(letters) % 4), strict_mode=True) + PAST_END, 6 * len(letters)
    except (UnicodeEncodeError, binascii.Error):
        raise Malformed from None


def read(data: bytes, at: int, width: int) -> int:
    """`width` bits from bit `at`; the caller has checked that they exist.

    >>> read(bytes([0b00001011, 0b10000000]), 4, 6)
    46
    """
    last = at + width
    return int.from_bytes(data[at >> 3 : (last + 7) >> 3], "big") >> (-last & 7) & ((1 << width) - 1)


def only_padding(data: bytes, at: int, end: int) -> None:
    """Raise Malformed unless every bit from `at` to `end` is zero, as encoders pad."""
    if at > end or read(data, at, end - at):
        raise Malformed


def in_range(data: bytes, at: int, end: int, wanted: int, largest: int) -> tuple[bool, int]:
    """Whether a Range(Int) holds the id `wanted`, and the position after it.

    Source: TC string format, "Vendor Consent Section / RangeEntry": 12 bits of count; per entry a flag and one or
    two ids of 16 bits. An entry that runs backwards, starts at 0 or passes `largest` is Malformed.
    """
    if at + 12 > end:
        raise Malformed
    count = read(data, at, 12)
    at += 12
    found = False
    integer = int.from_bytes
    for _ in range(count):
        # The longest entry, 33 bits, lies within five bytes wherever it starts.
        byte = at >> 3
        entry = integer(data[byte : byte + 5], "big") >> (7 - (at & 7))
        first = entry >> 16 & 0xFFFF
        if entry & 0x1_0000_0000:
            last = entry & 0xFFFF
            at += 33
        else:
            last = first
            at += 17
        if at > end or not 0 < first <= last <= largest:
            raise Malformed
        if first <= wanted <= last:
            found = True
    return found, at


def in_vector(data: bytes, at: int, end: int, wanted: int) -> tuple[bool, int]:
    """Whether a vendor section (largest id, then bit field or ranges) holds `wanted`, and the position after it."""
    if at + 17 > end:
        raise Malformed
    header = read(data, at, 17)
    at += 17
    largest = header >> 1
    if header & 1:
        return in_range(data, at, end, wanted, largest)
    after = at + largest
    if after > end:
        raise Malformed
    if wanted > largest:
        return False, after
    bit = at + wanted - 1
    return bool(data[bit >> 3] >> (7 - (bit & 7)) & 1), after


def fibonacci(data: bytes, at: int, end: int) -> tuple[int, int]:
    """One Fibonacci-coded integer, at least 1, and the position after it.

    Source: GPP consent string specification, "Fibonacci encoding": place values 1, 2, 3, 5, 8, … from the left,
    closed by a second 1 in a row. Codes over 24 bits are Malformed: section ids need 9, hostile ones get no further.
    """
    value, place, following, before = 0, 1, 2, 0
    for position in range(at, min(end, at + 24)):
        bit = data[position >> 3] >> (7 - (position & 7)) & 1
        if bit and before:
            return value, position + 1
        if bit:
            value += place
        place, following, before = following, place + following, bit
    raise Malformed
