"""Consent strings written bit by bit as the specifications say, so that a test shows what its user agreed to."""

from collections.abc import Iterable

from bidder.gpp_sections import LAYOUTS

WEB_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
VENDOR = 19
ALL_PURPOSES = range(1, 12)
MARCH_2026_DS = 17_723_232_000  # 2026-03-01T00:00Z in tenths of seconds


def letters(bits: str) -> str:
    bits += "0" * (-len(bits) % 6)
    return "".join(WEB_SAFE[int(bits[i : i + 6], 2)] for i in range(0, len(bits), 6))


def bits_of(ids: Iterable[int], width: int) -> str:
    wanted = set(ids)
    return "".join("1" if i in wanted else "0" for i in range(1, width + 1))


def vendors(ids: Iterable[int], largest: int = 24) -> str:
    return f"{largest:016b}0" + bits_of(ids, largest)


def tc(
    consent: Iterable[int] = ALL_PURPOSES,
    interest: Iterable[int] = (),
    features: Iterable[int] = (1,),
    vendor_consents: Iterable[int] = (VENDOR,),
    vendor_interests: Iterable[int] = (VENDOR,),
    policy: int = 5,
    specific: bool = True,
    updated_ds: int = MARCH_2026_DS - 1,
    disclosed: Iterable[int] | None = None,
    purpose_one_treatment: bool = False,
    forbidden: Iterable[int] = (),
) -> str:
    """A TC string. disclosed: vendors of that segment, None leaves it out. forbidden: purposes restricted for us."""
    restricted = [f"{purpose:06b}00" + f"{1:012b}0{VENDOR:016b}" for purpose in forbidden]
    core = (
        f"{2:06b}{updated_ds:036b}{updated_ds:036b}{1:012b}{1:012b}{0:06b}{0:012b}{77:012b}{policy:06b}"
        f"{specific:b}0{bits_of(features, 12)}{bits_of(consent, 24)}{bits_of(interest, 24)}"
        f"{purpose_one_treatment:b}{3:06b}{4:06b}"
        f"{vendors(vendor_consents)}{vendors(vendor_interests)}{len(restricted):012b}{''.join(restricted)}"
    )
    return letters(core) + ("" if disclosed is None else "." + letters("001" + vendors(disclosed)))


def fibonacci(number: int) -> str:
    """As the specification's encoding recipe says it."""
    places = [1, 2]
    while places[-1] <= number:
        places.append(places[-1] + places[-2])
    code, started = "", False
    for place in reversed(places):
        if place <= number:
            number -= place
            code, started = "1" + code, True
        elif started:
            code = "0" + code
    return code + "1"


def header(*ids: int) -> str:
    bits = f"{3:06b}{1:06b}{len(ids):012b}"
    for before, section in zip((0, *ids), ids, strict=False):
        bits += "0" + fibonacci(section - before)
    return letters(bits)


def us(section: int, second: str = "", **answers: int) -> str:
    """One section's text with every answer 0 except those named: sale, sharing, targeted, sensitive, children."""
    layout = LAYOUTS[section]
    in_core = 0 if layout.second == "sensitive" else layout.sensitive
    values = [0] * layout.before + [answers.get(name, 0) for name in layout.opt_outs]
    values += [0] * (in_core - 1) + [answers.get("sensitive", 0)] * bool(in_core)
    values += [answers.get("children", 0)] * bool(layout.children) + [0] * max(0, layout.children - 1)
    values += [answers.get("after", 0)] * layout.after
    version = 2 if section == 7 else 1
    text = letters(f"{version:06b}" + "".join(f"{value:02b}" for value in values))
    if second:
        return f"{text}.{second}"
    if layout.second == "sensitive" and "sensitive" in answers:
        return f"{text}.{letters('00' * 7 + format(answers['sensitive'], '02b'))}"
    return text


def gpp(sections: dict[int, str]) -> str:
    """A GPP string of sections by id."""
    ids = sorted(sections)
    return "~".join([header(*ids), *(sections[section] for section in ids)])
