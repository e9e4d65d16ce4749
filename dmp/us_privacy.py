"""What the signals of US law say, where they come beside an event, a pixel or a lookup (P-20, P-21).

GPP strings are read on the bid path only. Here a section that is said to apply is no permission, but for the TCF's,
whose string is sent by itself.
"""

from collections.abc import Sequence

_ELSEWHERE = frozenset({"", "-1", "0", "2"})  # none applies, nobody knows, and the TCF of the EU


def refuses(us_privacy: object, gpp_sid: object) -> bool:
    """Whether one of them refuses, or is none. us_privacy: text. gpp_sid: a list, or numbers separated by commas.

    >>> refuses("1YNN", [2]), refuses(None, None), refuses("1YYN", ""), refuses("", "2,7"), refuses(7, None)
    (False, False, True, True, True)
    """
    if us_privacy not in (None, "") and not (isinstance(us_privacy, str) and not us_privacy_opted_out(us_privacy)):
        return True
    listed: Sequence[object] = gpp_sid.split(",") if isinstance(gpp_sid, str) else ()
    if isinstance(gpp_sid, list):
        listed = gpp_sid
    elif gpp_sid is not None and not isinstance(gpp_sid, str):
        return True
    return any(str(section).strip() not in _ELSEWHERE for section in listed)


def us_privacy_opted_out(text: str) -> bool:
    """P-20: whether a US privacy string opts out of sale, or is anything but one.

    Source: IAB "CCPA U.S. Privacy String" v1: version 1, then notice, opt-out of sale and agreement, each Y, N
    or -; `1---` says that the law does not apply, a dash for the opt-out alone says nothing and counts as one.

    >>> [us_privacy_opted_out(text) for text in ("1YNN", "1YYN", "1---", "1Y-N", "2YNN", "")]
    [False, True, False, True, True, True]
    """
    if text == "1---":
        return False
    return not (len(text) == 4 and text[0] == "1" and text[1] in "YN-" and text[2] == "N" and text[3] in "YN-")
