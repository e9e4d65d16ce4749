"""The US sections of a GPP string: what each says of opt-outs, children, sensitivity.

Layouts: IAB Tech Lab Global Privacy Platform, "Sections": the US National and the per-state Privacy Technical
Specifications, tables "Core Segment" and "GPC Sub-section", as the Tech Lab's own library encodes them. A core is a
version of six bits and then two-bit answers: 0 not applicable, 1 opted out or no consent, 2 not opted out or
consent; 3 is not defined. All cores share one order: notices, opt-outs, sensitive data, known children, the rest.
"""

from typing import Final

import msgspec

from dmp.consent_bits import Malformed, only_padding, read, unpack

_VERSION_BITS: Final = 6
_OPTED_OUT: Final = 1
_UNDEFINED: Final = 3
_GPC_SEGMENT: Final = 1


class Layout(msgspec.Struct, frozen=True, gc=False):
    """One section's core as counts of two-bit answers, in order, and its second segment.

    before: notices, and the agreement fields where they come first. opt_outs: sale, then sharing and targeted
    advertising where the law knows them. sensitive, children: answers per category. after: everything else.
    second: "gpc", "sensitive" (the sensitive answers in a segment of their own) or "" for none.
    """

    name: str
    before: int
    opt_outs: tuple[str, ...]
    sensitive: int
    children: int
    after: int
    second: str = "gpc"


class UsSection(msgspec.Struct, frozen=True, gc=False):
    """The answers of one section; an opt-out the law does not know is None, gpc is None without its segment.

    sensitive, children: one answer per category, () where the section has none.
    """

    sale: int | None
    sharing: int | None
    targeted: int | None
    sensitive: tuple[int, ...]
    children: tuple[int, ...]
    gpc: bool | None

    @property
    def opted_out(self) -> bool:
        """Out of sale, sharing or targeted advertising, by choice or by Global Privacy Control (P-21)."""
        return bool(self.gpc) or _OPTED_OUT in (self.sale, self.sharing, self.targeted)

    @property
    def known_child(self) -> bool:
        """Any answer but "not applicable": somebody knows that this is a child, consent or not (P-21)."""
        return any(self.children)

    @property
    def sensitive_limited(self) -> bool:
        """Use of at least one category of sensitive data is refused; which one is not told apart."""
        return _OPTED_OUT in self.sensitive


_STATE: Final = ("sale", "targeted")

LAYOUTS: Final = {
    7: Layout("usnat", 6, ("sale", "sharing", "targeted"), 16, 3, 4),
    8: Layout("usca", 3, ("sale", "sharing"), 9, 2, 4),
    9: Layout("usva", 3, _STATE, 8, 1, 3, second=""),
    10: Layout("usco", 3, _STATE, 7, 1, 3),
    11: Layout("usut", 4, _STATE, 8, 1, 3, second=""),
    12: Layout("usct", 3, _STATE, 8, 3, 3),
    13: Layout("usfl", 3, _STATE, 8, 3, 4, second=""),
    14: Layout("usmt", 3, _STATE, 8, 3, 4),
    15: Layout("usor", 3, _STATE, 11, 3, 4),
    16: Layout("ustx", 3, _STATE, 8, 1, 4),
    17: Layout("usde", 3, _STATE, 9, 5, 4),
    18: Layout("usia", 4, _STATE, 8, 1, 3),
    19: Layout("usne", 3, _STATE, 8, 1, 4),
    20: Layout("usnh", 3, _STATE, 8, 3, 4),
    21: Layout("usnj", 3, _STATE, 10, 5, 4),
    22: Layout("ustn", 3, _STATE, 8, 1, 4),
    23: Layout("usmn", 3, _STATE, 8, 1, 4),
    24: Layout("usmd", 5, _STATE, 0, 0, 1),
    25: Layout("usin", 5, _STATE, 8, 1, 1, second="sensitive"),
    26: Layout("usky", 5, _STATE, 8, 1, 1, second="sensitive"),
    27: Layout("usri", 5, _STATE, 8, 1, 1, second="sensitive"),
}
"""By section id ("Section Information")."""

_NATIONAL: Final = 7
_NATIONAL_V1: Final = Layout("usnat", 6, ("sale", "sharing", "targeted"), 12, 2, 4)
_NATIONAL_V1_BITS: Final = (60, 66)  # as padded to 6, and to 8 and then 6


def decode_us(section: int, text: str) -> UsSection:
    """One US section, id 7 to 27. Raises Malformed for another id, version, length or answer than the tables know.

    The national section grew in version 2, and encoders sent the longer core under version 1 before that, so a
    version 1 core is read as the short one by its length.
    """
    layout = LAYOUTS.get(section)
    if layout is None:
        raise Malformed
    core, *others = text.split(".")
    data, end = unpack(core)
    version = data[0] >> 2
    if section == _NATIONAL:
        if version == 1 and end in _NATIONAL_V1_BITS:
            layout = _NATIONAL_V1
        elif version not in (1, 2):
            raise Malformed
    elif version != 1:
        raise Malformed
    in_core = 0 if layout.second == "sensitive" else layout.sensitive
    count = layout.before + len(layout.opt_outs) + in_core + layout.children + layout.after
    answers = _answers(data, _VERSION_BITS, end, count)
    at = layout.before + len(layout.opt_outs)
    choices = dict(zip(layout.opt_outs, answers[layout.before : at], strict=True))
    sensitive, children = answers[at : at + in_core], answers[at + in_core : at + in_core + layout.children]
    gpc = None
    if others:
        if len(others) > 1 or not layout.second:
            raise Malformed
        data, end = unpack(others[0])
        if layout.second == "gpc":
            if data[0] >> 6 != _GPC_SEGMENT:
                raise Malformed
            gpc = bool(data[0] >> 5 & 1)
            only_padding(data, 3, end)
        else:
            sensitive = _answers(data, 0, end, layout.sensitive)
    return UsSection(
        sale=choices.get("sale"),
        sharing=choices.get("sharing"),
        targeted=choices.get("targeted"),
        sensitive=sensitive,
        children=children,
        gpc=gpc,
    )


def _answers(data: bytes, at: int, end: int, count: int) -> tuple[int, ...]:
    """The next `count` two-bit answers, with nothing but padding after them."""
    last = at + 2 * count
    if last > end:
        raise Malformed
    only_padding(data, last, end)
    bits = read(data, at, 2 * count)
    answers = tuple([bits >> shift & 3 for shift in range(2 * count - 2, -2, -2)])
    if _UNDEFINED in answers:
        raise Malformed
    return answers
