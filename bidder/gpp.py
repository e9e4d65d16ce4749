"""What a GPP string says through the sections the request names as applying (`gpp_sid`).

Layout: IAB Tech Lab, "Global Privacy Platform String", "Header Encoding" and "Section Encoding": a header of type 3,
version 1 and a Fibonacci range of section ids, then the sections in that order, joined by `~`. Only sections in
`gpp_sid` are read (P-21); one that is unknown, missing or malformed makes the whole answer None (P-04).
"""

from typing import Final

import msgspec

from bidder.gpp_sections import LAYOUTS, decode_us
from dmp.consent_bits import MAX_LENGTH, Malformed, fibonacci, only_padding, read, unpack
from dmp.us_privacy import us_privacy_opted_out

TCF_EU: Final = 2
US_PRIVACY: Final = 6
NONE_APPLIES: Final = (-1,)  # "CMP API Specification", applicableSections: no section applies here
_HEADER_TYPE, _VERSION = 3, 1
_HEADER_BITS: Final = 24  # type, version, number of ranges
_MAX_APPLIED: Final = 32  # more than all sections there are


class GppSignals(msgspec.Struct, frozen=True, gc=False):
    """What the applying sections say together; the strictest of them counts.

    tcf: the TC string of section 2, to be read by the TCF rules, None when that section does not apply.
    opted_out: of sale, sharing or targeted advertising, by Global Privacy Control, or by the US privacy string.
    known_child: a section knows of a child. sensitive_limited: a section limits some sensitive data. Any of the
    first two means contextual; with the third, segments marked sensitive are not used.
    """

    sections: tuple[int, ...] = ()
    tcf: str | None = None
    opted_out: bool = False
    known_child: bool = False
    sensitive_limited: bool = False


def decode(gpp: str, gpp_sid: tuple[int, ...]) -> GppSignals | None:
    """The string's signals from the sections in `gpp_sid`; None means no permission (P-04), never an exception.

    `(-1,)` and `()` apply no section, and the string must still be whole. 0, "not known yet", is no section.
    """
    if len(gpp) > MAX_LENGTH or len(gpp_sid) > _MAX_APPLIED:
        return None
    try:
        texts = split(gpp)
        if gpp_sid == NONE_APPLIES:
            return GppSignals()
        tcf = None
        opted_out = known_child = sensitive_limited = False
        for section in gpp_sid:
            if section not in texts:
                return None
            text = texts[section]
            if section == TCF_EU:
                tcf = text
            elif section == US_PRIVACY:
                opted_out |= us_privacy_opted_out(text)
            elif section in LAYOUTS:
                said = decode_us(section, text)
                opted_out |= said.opted_out
                known_child |= said.known_child
                sensitive_limited |= said.sensitive_limited
            else:
                return None
    except Malformed:
        return None
    return GppSignals(gpp_sid, tcf, opted_out, known_child, sensitive_limited)


def split(gpp: str) -> dict[int, str]:
    """The text of every section by its id. Raises Malformed, also when header and sections differ in number."""
    header, *texts = gpp.split("~")
    data, end = unpack(header)
    if end < _HEADER_BITS or data[0] >> 2 != _HEADER_TYPE or read(data, 6, 6) != _VERSION:
        raise Malformed
    ranges, at = read(data, 12, 12), _HEADER_BITS
    ids: list[int] = []
    for _ in range(ranges):
        if at >= end:
            raise Malformed
        group = read(data, at, 1)
        offset, at = fibonacci(data, at + 1, end)
        first = (ids[-1] if ids else 0) + offset
        more = 0
        if group:
            more, at = fibonacci(data, at, end)
        # Before the range is written out: it can say 70,000 ids in a few bits.
        if len(ids) + 1 + more > len(texts):
            raise Malformed
        ids.extend(range(first, first + 1 + more))
    only_padding(data, at, end)
    if len(ids) != len(texts) or "" in texts:
        raise Malformed
    return dict(zip(ids, texts, strict=True))
