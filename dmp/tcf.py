"""What a TC string says about one vendor: us.

Layout: IAB Tech Lab, "Transparency and Consent String with Global Vendor & CMP List Formats" v2, "TC String Format":
"The Core String", "Disclosed Vendors", "Allowed Vendors", "Publisher Purposes Transparency and Consent". Decoding
answers for one vendor only: a bit field costs one look, ranges are walked without keeping anybody else's ids.

Sets of purposes and special features are integers in the order of the string: purpose p of 24 is bit 24 - p
(`purpose_bit`), special feature f of 12 is bit 12 - f. Whether the string permits anything is `tcf_rules`.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from dmp.consent_bits import MAX_LENGTH, Malformed, in_range, in_vector, only_padding, read, unpack

VERSION: Final = 2
PURPOSE_BITS: Final = 24
FEATURE_BITS: Final = 12
MAX_VENDOR: Final = 0xFFFF
_CORE_BITS: Final = 213  # up to the vendor consents
_DECISECOND_US: Final = 100_000
_DISCLOSED, _ALLOWED, _PUBLISHER = 1, 2, 3  # segment types, the first three bits of every segment but the core


class PublisherTc(msgspec.Struct, frozen=True, gc=False):
    """The publisher's own purposes; custom purpose c of `custom` is bit custom - c."""

    consents: int
    legitimate_interests: int
    custom: int
    custom_consents: int
    custom_legitimate_interests: int


class TcfConsent(msgspec.Struct, frozen=True, gc=False):
    """A TC string as far as it concerns one vendor.

    created_us, updated_us: µs UTC. consent_language, publisher_cc: two letters. not_allowed, require_consent,
    require_li: purposes the publisher restricts for our vendor, by restriction type 0, 1, 2 (type 3, reserved, is
    read as 0). vendor_*: our vendor's bits. disclosed, allowed: whether that segment names our vendor, None
    without the segment. publisher: None without the segment.
    """

    created_us: int
    updated_us: int
    cmp_id: int
    cmp_version: int
    consent_screen: int
    consent_language: str
    vendor_list_version: int
    policy_version: int
    is_service_specific: bool
    use_non_standard_texts: bool
    special_feature_opt_ins: int
    purpose_consents: int
    purpose_legitimate_interests: int
    purpose_one_treatment: bool
    publisher_cc: str
    vendor_consent: bool
    vendor_legitimate_interest: bool
    not_allowed: int
    require_consent: int
    require_li: int
    disclosed: bool | None
    allowed: bool | None
    publisher: PublisherTc | None


def purpose_bit(purpose: int) -> int:
    """The bit of one purpose, 1 to 24, in every set of purposes here.

    >>> purpose_bit(1) == 1 << 23, purpose_bit(24)
    (True, 1)
    """
    return 1 << (PURPOSE_BITS - purpose)


def purpose_set(purposes: Iterable[int]) -> int:
    return sum({purpose_bit(purpose) for purpose in purposes})


def decode(text: str, vendor: int) -> TcfConsent | None:
    """The string read for `vendor`, 1 to 65,535; None when it is unusable (P-04), never an exception.

    Unusable: longer than 8 KiB, not web-safe base64, not version 2, cut short, a segment unknown or sent twice,
    ranges out of order, anything but zero bits after the last field.
    """
    if len(text) > MAX_LENGTH or not 0 < vendor <= MAX_VENDOR:
        return None
    try:
        core, *others = text.split(".")
        return _core(core, vendor, _segments(others, vendor))
    except Malformed:
        return None


def _segments(texts: list[str], vendor: int) -> tuple[bool | None, bool | None, PublisherTc | None]:
    """(disclosed, allowed, publisher); the segments may come in any order, each once."""
    disclosed = allowed = publisher = None
    for text in texts:
        data, end = unpack(text)
        kind = data[0] >> 5
        if kind == _DISCLOSED and disclosed is None:
            disclosed, at = in_vector(data, 3, end, vendor)
        elif kind == _ALLOWED and allowed is None:
            allowed, at = in_vector(data, 3, end, vendor)
        elif kind == _PUBLISHER and publisher is None:
            publisher, at = _publisher(data, end)
        else:
            raise Malformed
        only_padding(data, at, end)
    return disclosed, allowed, publisher


def _publisher(data: bytes, end: int) -> tuple[PublisherTc, int]:
    custom = read(data, 51, 6)
    after = 57 + 2 * custom
    if after > end:
        raise Malformed
    own, own_li = read(data, 57, custom), read(data, 57 + custom, custom)
    return PublisherTc(read(data, 3, PURPOSE_BITS), read(data, 27, PURPOSE_BITS), custom, own, own_li), after


def _core(text: str, vendor: int, segments: tuple[bool | None, bool | None, PublisherTc | None]) -> TcfConsent:
    data, end = unpack(text)
    if data[0] >> 2 != VERSION or end < _CORE_BITS:
        raise Malformed
    head = int.from_bytes(data[:27], "big") >> 3  # the 213 bits, with the last field lowest
    consent, at = in_vector(data, _CORE_BITS, end, vendor)
    interest, at = in_vector(data, at, end, vendor)
    restrictions, at = _restrictions(data, at, end, vendor)
    only_padding(data, at, end)
    return TcfConsent(
        created_us=(head >> 171 & 0xF_FFFF_FFFF) * _DECISECOND_US,
        updated_us=(head >> 135 & 0xF_FFFF_FFFF) * _DECISECOND_US,
        cmp_id=head >> 123 & 0xFFF,
        cmp_version=head >> 111 & 0xFFF,
        consent_screen=head >> 105 & 0x3F,
        consent_language=_letters(head >> 93),
        vendor_list_version=head >> 81 & 0xFFF,
        policy_version=head >> 75 & 0x3F,
        is_service_specific=bool(head >> 74 & 1),
        use_non_standard_texts=bool(head >> 73 & 1),
        special_feature_opt_ins=head >> 61 & 0xFFF,
        purpose_consents=head >> 37 & 0xFF_FFFF,
        purpose_legitimate_interests=head >> 13 & 0xFF_FFFF,
        purpose_one_treatment=bool(head >> 12 & 1),
        publisher_cc=_letters(head),
        vendor_consent=consent,
        vendor_legitimate_interest=interest,
        not_allowed=restrictions[0] | restrictions[3],
        require_consent=restrictions[1],
        require_li=restrictions[2],
        disclosed=segments[0],
        allowed=segments[1],
        publisher=segments[2],
    )


def _letters(bits: int) -> str:
    """Two letters of six bits, A = 0; the language and country fields are never acted on, so no value is refused."""
    return chr(65 + (bits >> 6 & 0x3F)) + chr(65 + (bits & 0x3F))


def _restrictions(data: bytes, at: int, end: int, vendor: int) -> tuple[list[int], int]:
    """Purposes restricted for `vendor` by restriction type, and the position after the publisher restrictions."""
    if at + 12 > end:
        raise Malformed
    count = read(data, at, 12)
    at += 12
    purposes = [0, 0, 0, 0]
    for _ in range(count):
        if at + 8 > end:
            raise Malformed
        head = read(data, at, 8)
        ours, at = in_range(data, at + 8, end, vendor, MAX_VENDOR)
        purpose = head >> 2
        if ours and 0 < purpose <= PURPOSE_BITS:
            purposes[head & 3] |= purpose_bit(purpose)
    return purposes, at
