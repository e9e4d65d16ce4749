"""One privacy decision per request, made before anything else reads the user (P-01).

A decision is a set of permissions. Every signal of a request leaves some of them, and the decision is what all
leave, so a further restrictive signal can only take away (P-03). What cannot be read leaves nothing of a user (P-04).
Signals are read from the 2.6 place and from the 2.5 `ext` place; when they disagree the stricter one counts (P-02).

What comes of it is carried out by `bidder.redact`. What a user told us directly, an opt-out or being a child, is in
the user's own record and is applied once that has been read (`after_lookup`).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from bidder import gpp
from bidder.config import BidderConfig, declaration
from bidder.consent_cache import Cached
from bidder.geo import GDPR_COUNTRIES, country
from bidder.openrtb import Request
from dmp import keys, tcf
from dmp.schema import User
from dmp.tcf_rules import Permissions, permissions
from dmp.us_privacy import us_privacy_opted_out


class PrivacyDecision(msgspec.Struct, frozen=True, gc=False):
    """What may be done with one request; every field but `reasons` is a permission.

    bid: answer at all. use_ids: build a store key from an id. lookup_tags: read the user's record. personalise:
    let it change the bid. build_profile: write this event into a profile. measure: join notices by user id.
    train: keep user features in training rows. frequency_cap: count contacts by user id, so that caps hold.
    sensitive: use tags marked sensitive in the taxonomy. precise_geo: exact latitude and longitude. city: city, and
    finer than country and region. assume_no_opt_out: go on with ids when the user's record, which would tell of an
    opt-out, could not be read. reasons: what took permissions away, and what is only recorded (P-17), for `explain`.
    """

    bid: bool = True
    use_ids: bool = True
    lookup_tags: bool = True
    personalise: bool = True
    build_profile: bool = True
    measure: bool = True
    train: bool = True
    frequency_cap: bool = True
    sensitive: bool = True
    precise_geo: bool = True
    city: bool = True
    assume_no_opt_out: bool = True
    reasons: tuple[str, ...] = ()


PERMISSIONS: Final = PrivacyDecision.__struct_fields__[:-1]
"""The fields that are permissions, in the order of their bits."""

(
    _BID, _USE_IDS, _LOOKUP, _PERSONALISE, _BUILD_PROFILE, _MEASURE, _TRAIN, _CAP, _SENSITIVE, _PRECISE_GEO, _CITY,
    _ASSUME,
) = (1 << i for i in range(len(PERMISSIONS)))  # fmt: skip
_EVERYTHING: Final = (1 << len(PERMISSIONS)) - 1
_CONTEXTUAL: Final = _BID | _CITY  # P-50
_CHILD: Final = _BID  # P-30

_SIGNALS: Final = ("coppa", "lmt", "dnt", "zero_ifa", "gdpr", "us_privacy", "gpc", "china")
_COPPA, _LMT, _DNT, _ZERO_IFA, _GDPR, _US_PRIVACY, _GPC, _CHINA = (1 << i for i in range(len(_SIGNALS)))
_LEFT: Final = (
    _CHILD, _CONTEXTUAL, _CONTEXTUAL, _CONTEXTUAL, _EVERYTHING, _CONTEXTUAL, _CONTEXTUAL, _EVERYTHING & ~_ASSUME,
)  # fmt: skip
"""Permissions each signal leaves; what GDPR leaves is up to the consent strings."""


Key = tuple[int, str | None, str | None, str | None, str | None, tuple[int, ...]]
"""(signals, TC string and that of `ext`, GPP string and that of `ext`, gpp_sid); no user id is in it."""

Left = tuple[int, tuple[str, ...]]
"""(permissions left, reasons)."""


class Policy(msgspec.Struct, frozen=True):
    """What the operator decided, ready to be applied. judged: decisions by exact strings, remembered (P-05)."""

    gdpr_when_unknown: Literal["by_country", "always", "never"]
    china_when: Literal["by_country", "always"]
    dnt_is_lmt: bool
    judged: Cached[Key, PrivacyDecision]


def policy(settings: BidderConfig) -> Policy:
    """The policy of a configuration. Raises ConfigError when the TCF declaration cannot stand."""
    vendor, require, declared = settings.gvl_id, settings.tcf_require_disclosed, declaration(settings)
    without_p2 = _CITY if settings.without_p2 == "no_bid" else _CONTEXTUAL

    def opened(text: str | None) -> Left:
        if vendor is None:  # P-13
            return without_p2, ("tcf:no_gvl_id",)
        if text is None:
            return without_p2, ("tcf:no_string",)
        said = permissions(tcf.decode(text, vendor), declared, require)
        return (_opened(said) if said.basic_ads else without_p2), said.reasons

    return Policy(
        gdpr_when_unknown=settings.gdpr_when_unknown,
        china_when=settings.china_when,
        dnt_is_lmt=settings.dnt_is_lmt,
        judged=Cached(lambda key: _judge(key, opened), settings.consent_cache_entries, settings.consent_cache_bytes),
    )


def decide(request: Request, policy: Policy) -> PrivacyDecision:
    """The permissions that every signal of the request leaves. Malformed signals count as restrictive (P-04)."""
    signals = 0
    gdpr: int | None = None
    gpp_text = gpp_ext = None
    sections: tuple[int, ...] = ()
    regs = request.regs
    if regs is not None:
        gdpr, gpp_text = regs.gdpr, regs.gpp
        if regs.coppa:
            signals |= _COPPA
        if regs.us_privacy and us_privacy_opted_out(regs.us_privacy):
            signals |= _US_PRIVACY
        if regs.gpp_sid:
            sections = tuple(regs.gpp_sid)
        ext = regs.ext
        if ext is not None:
            gdpr, gpp_ext = gdpr or ext.gdpr if ext.gdpr is not None else gdpr, ext.gpp
            if ext.coppa:
                signals |= _COPPA
            if ext.us_privacy and us_privacy_opted_out(ext.us_privacy):
                signals |= _US_PRIVACY
            if ext.gpc is not None and ext.gpc not in (0, "0", ""):
                signals |= _GPC
            if ext.gpp_sid:
                sections = _joined(sections, ext.gpp_sid)
        if gpp.TCF_EU in sections:
            gdpr = 1
    where = ""
    device = request.device
    if device is not None:
        if device.lmt:
            signals |= _LMT
        if device.dnt and policy.dnt_is_lmt:
            signals |= _DNT
        if device.ifa and not device.ifa.strip("0- "):
            signals |= _ZERO_IFA
        if device.geo is not None:
            where = country(device.geo.country)
    if where == "CHN" or policy.china_when == "always":
        signals |= _CHINA
    if gdpr is None:
        unknown = policy.gdpr_when_unknown
        gdpr = (not where or where in GDPR_COUNTRIES) if unknown == "by_country" else unknown == "always"
    consent = consent_ext = None
    if gdpr:
        signals |= _GDPR
        user = request.user
        if user is not None:
            consent, consent_ext = user.consent, user.ext.consent if user.ext is not None else None
    elif not signals and not gpp_text and not gpp_ext and not sections:
        return _PERMITTED
    return policy.judged((signals, consent or None, consent_ext or None, gpp_text or None, gpp_ext or None, sections))


def after_lookup(decision: PrivacyDecision, user: User | None) -> PrivacyDecision:
    """What is left once the user's record was read; user: None when it was not.

    An opt-out a user gave us directly holds everywhere, China's law requires it (P-32). Where it does, a record
    that could not be read may hold one.
    """
    if user is None:
        if decision.use_ids and not decision.assume_no_opt_out:
            return _narrowed(decision, _CONTEXTUAL, "opt_out_unknown")
    elif user.audiences:
        if keys.CHILD in user.audiences:
            return _narrowed(decision, _CHILD, "known_child")
        if keys.OPTED_OUT in user.audiences:
            return _narrowed(decision, _CONTEXTUAL, "opted_out")
    return decision


def _joined(one: tuple[int, ...], other: Sequence[int]) -> tuple[int, ...]:
    """Sections named in either place; "none applies" in one of them only does not count."""
    both = tuple(dict.fromkeys((*one, *other)))
    return both if both == gpp.NONE_APPLIES else tuple(section for section in both if section not in gpp.NONE_APPLIES)


def _judge(key: Key, opened: Callable[[str | None], Left]) -> PrivacyDecision:
    """The decision for one combination of signals and strings. opened: what a TC string leaves, None for no string."""
    signals, consent, consent_ext, gpp_text, gpp_ext, sections = key
    left = _EVERYTHING
    reasons: list[str] = []
    for i, name in enumerate(_SIGNALS):
        if signals >> i & 1:
            left &= _LEFT[i]
            reasons.append(name)
    strings = [consent, consent_ext]
    platforms: list[str] = _distinct(gpp_text, gpp_ext)
    if not platforms and sections not in ((), gpp.NONE_APPLIES):
        platforms = [""]  # sections apply and what they say is missing
    for text in platforms:
        said = gpp.decode(text, sections)
        if said is None:
            left &= _CONTEXTUAL
            reasons.append("gpp:unusable")
            continue
        strings.append(said.tcf)
        for limited, leaves, name in (
            (said.opted_out, _CONTEXTUAL, "gpp:opted_out"),
            (said.known_child, _CONTEXTUAL, "gpp:known_child"),
            (said.sensitive_limited, _EVERYTHING & ~_SENSITIVE, "gpp:sensitive_limited"),
        ):
            if limited:
                left &= leaves
                reasons.append(name)
    if signals & _GDPR:
        consents: list[str | None] = [*_distinct(*strings)] or [None]
        for consent_text in consents:
            leaves, why = opened(consent_text)
            left &= leaves
            reasons += why
    if signals & _CHINA and not left & _USE_IDS:
        left &= (
            _CONTEXTUAL  # nobody is looked up, so an opt-out that would forbid the exact place cannot be known (P-32)
        )
    return _decision(left, tuple(dict.fromkeys(reasons)))


def _distinct(*texts: str | None) -> list[str]:
    return list(dict.fromkeys(filter(None, texts)))


def _opened(said: Permissions) -> int:
    """P-16 as permissions, for a string that opens purpose 2: without purposes 1 and 4 nothing of a user is read."""
    left = _CONTEXTUAL | _PRECISE_GEO * said.precise_geo
    if not said.use_ids:
        return left
    return (
        left
        | _USE_IDS
        | _LOOKUP
        | _PERSONALISE
        | _SENSITIVE
        | _ASSUME
        | _BUILD_PROFILE * said.build_profile
        | _MEASURE * said.measure
        | _TRAIN * said.train
        # Contacts are counted by the id in the notice URLs, which is there for purpose 7 only.
        | _CAP * (said.frequency_cap and said.measure)
    )


def _decision(left: int, reasons: tuple[str, ...]) -> PrivacyDecision:
    taken = {name: False for i, name in enumerate(PERMISSIONS) if not left >> i & 1}
    return replace(PrivacyDecision(reasons=reasons), **taken)


@lru_cache(4096)
def _narrowed(decision: PrivacyDecision, leaves: int, reason: str) -> PrivacyDecision:
    left = sum(1 << i for i, name in enumerate(PERMISSIONS) if getattr(decision, name))
    return _decision(left & leaves, (*decision.reasons, reason))


_PERMITTED: Final = PrivacyDecision()
