"""From what a TC string says to what we may do: rules P-12 to P-17.

For each purpose, in this order: the publisher's restrictions for our vendor, the basis we declare, then the purpose
bit and the vendor bit of that basis, both of them. All purposes are worked out at once as sets of bits.
Source: IAB Europe TCF Policies and the TC string format, "What are publisher restrictions?" and its table of
restriction types; "Disclosed Vendors" for what changed in v2.3.
"""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from dmp.errors import ConfigError
from dmp.tcf import FEATURE_BITS, PURPOSE_BITS, TcfConsent, purpose_bit, purpose_set

RequireDisclosed = Literal["auto", "always", "never"]

MIN_POLICY_VERSION: Final = 4  # TCF v2.2; older strings are invalid since the end of September 2023
DISCLOSED_FROM_US: Final = 1_772_323_200_000_000  # 2026-03-01T00:00Z: TCF v2.3 strings must disclose vendors
PURPOSES: Final = 11
SPECIAL_FEATURES: Final = 2
_ALL: Final = (1 << PURPOSE_BITS) - 1
_CONSENT_ONLY: Final = purpose_set((1, 3, 4, 5, 6))  # P-15
_P1, _P2, _P3, _P4, _P7, _P9, _P10 = (purpose_bit(purpose) for purpose in (1, 2, 3, 4, 7, 9, 10))
_PRECISE_GEO: Final = 1 << (FEATURE_BITS - 1)


class Declaration(msgspec.Struct, frozen=True, gc=False):
    """The legal bases we declared in the vendor list, as sets of purposes in the order of `tcf.purpose_bit`.

    flexible: purposes whose basis a publisher may change. special_features: opt-ins we ask for. Make it with
    `declare`, which checks it.
    """

    consent: int
    legitimate_interest: int
    flexible: int
    special_features: int


class Permissions(msgspec.Struct, frozen=True, gc=False):
    """What a TC string opens (P-16); every field but `reasons` is a permission.

    purposes: all purposes with a basis; consented: those with consent (bits of `tcf.purpose_bit`).
    use_ids: read our id, look tags up, personalise (purposes 1 and 4 by consent). frequency_cap: count contacts by
    id (1 and 2). build_profile: 3. basic_ads: 2. measure: 7, by id. reach: 9. train: 10, with user features.
    precise_geo: exact position, special feature 1. special_purposes: security and delivery on their own basis.
    reasons: what the string is refused for, and what is only recorded (P-17).
    """

    purposes: int = 0
    consented: int = 0
    use_ids: bool = False
    frequency_cap: bool = False
    build_profile: bool = False
    basic_ads: bool = False
    measure: bool = False
    reach: bool = False
    train: bool = False
    precise_geo: bool = False
    special_purposes: bool = False
    reasons: tuple[str, ...] = ()


def declare(
    consent: Iterable[int],
    legitimate_interest: Iterable[int] = (),
    flexible: Iterable[int] = (),
    special_features: Iterable[int] = (),
) -> Declaration:
    """Our declared bases from purpose numbers 1 to 11 and special features 1 and 2.

    Raises ConfigError naming everything no vendor may declare: a purpose under both bases, purposes 1, 3, 4, 5 or 6
    under legitimate interest or flexible (P-15), a flexible purpose with no basis, a number that does not exist.
    """
    by_consent, by_interest, either, features = map(
        frozenset, (consent, legitimate_interest, flexible, special_features)
    )
    problems = [
        f"{what}: {', '.join(map(str, sorted(wrong)))}"
        for what, wrong in (
            (f"purposes are 1 to {PURPOSES}", (by_consent | by_interest | either) - set(range(1, PURPOSES + 1))),
            (f"special features are 1 to {SPECIAL_FEATURES}", features - set(range(1, SPECIAL_FEATURES + 1))),
            ("purpose declared under both bases", by_consent & by_interest),
            ("consent is the only basis of purpose", (by_interest | either) & {1, 3, 4, 5, 6}),
            ("flexible purpose without a declared basis", either - by_consent - by_interest),
        )
        if wrong
    ]
    if problems:
        raise ConfigError("TCF declaration", problems)
    return Declaration(
        consent=purpose_set(by_consent),
        legitimate_interest=purpose_set(by_interest),
        flexible=purpose_set(either),
        special_features=sum(1 << (FEATURE_BITS - feature) for feature in features),
    )


def permissions(
    consent: TcfConsent | None, declared: Declaration, require_disclosed: RequireDisclosed = "auto"
) -> Permissions:
    """What the string opens to a vendor with these declarations; nothing when it is unusable or invalid (P-12).

    require_disclosed: whether a string must carry the disclosed-vendors segment: `auto` asks it of strings last
    updated on or after 2026-03-01. Depends on nothing else, no clock either, so the answer may be kept.
    """
    if consent is None:
        return _UNUSABLE
    if not consent.is_service_specific:
        return _NOT_SERVICE_SPECIFIC
    if consent.policy_version < MIN_POLICY_VERSION:
        return _OLD_POLICY
    reasons = []
    if consent.disclosed is None:
        if require_disclosed == "always" or (require_disclosed == "auto" and consent.updated_us >= DISCLOSED_FROM_US):
            return _NO_DISCLOSED_SEGMENT
    elif not consent.disclosed:
        reasons.append("tcf:vendor_not_disclosed")
    if consent.purpose_one_treatment:
        reasons.append("tcf:purpose_one_treatment")
    reasons.append(f"tcf:publisher_cc={consent.publisher_cc}")

    by_consent, by_interest = _bases(consent, declared)
    consented = by_consent & consent.purpose_consents if consent.vendor_consent else 0
    interests = by_interest & consent.purpose_legitimate_interests if consent.vendor_legitimate_interest else 0
    shown = consent.disclosed is not False  # P-12: otherwise no legitimate interest, no special purpose
    purposes = consented | interests if shown else consented
    return Permissions(
        purposes=purposes,
        consented=consented,
        use_ids=bool(consented & _P1 and consented & _P4),
        frequency_cap=bool(consented & _P1 and purposes & _P2),
        build_profile=bool(consented & _P3),
        basic_ads=bool(purposes & _P2),
        measure=bool(purposes & _P7),
        reach=bool(purposes & _P9),
        train=bool(purposes & _P10),
        precise_geo=bool(consent.special_feature_opt_ins & declared.special_features & _PRECISE_GEO),
        special_purposes=shown,
        reasons=tuple(reasons),
    )


def _bases(consent: TcfConsent, declared: Declaration) -> tuple[int, int]:
    """(purposes to be based on consent, on legitimate interest) once the publisher's restrictions are applied (P-14).

    A purpose restricted to both bases at once contradicts itself and is not allowed.
    """
    must_consent, must_li = consent.require_consent, consent.require_li
    open_purposes = _ALL & ~consent.not_allowed & ~(must_consent & must_li)
    by_consent = declared.consent & open_purposes
    by_interest = declared.legitimate_interest & open_purposes & ~_CONSENT_ONLY
    to_consent = by_interest & must_consent
    to_interest = by_consent & must_li
    flexible = declared.flexible & ~_CONSENT_ONLY
    return (
        by_consent & ~to_interest | to_consent & flexible,
        by_interest & ~to_consent | to_interest & flexible,
    )


_UNUSABLE: Final = Permissions(reasons=("tcf:unusable",))
_NOT_SERVICE_SPECIFIC: Final = Permissions(reasons=("tcf:not_service_specific",))
_OLD_POLICY: Final = Permissions(reasons=("tcf:old_policy_version",))
_NO_DISCLOSED_SEGMENT: Final = Permissions(reasons=("tcf:no_disclosed_vendors",))
