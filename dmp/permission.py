"""What an event may be used for: CONSENT_* bits from what its sender states and from the user's TC string.

The strictest signal wins, and whatever is malformed, or cannot be judged because no vendor id is configured, is no
permission (P-03, P-04, P-13).
"""

from functools import lru_cache

import msgspec

from dmp import tcf
from dmp.config import CollectConfig
from dmp.consent_bits import MAX_LENGTH
from dmp.events import CONSENT_ALL, CONSENT_MEASURE, CONSENT_PROFILE, CONSENT_TRAIN
from dmp.tcf_rules import Declaration, declare, permissions

CACHED_STRINGS = 2_000  # 16 MB of the longest strings


class Basis(msgspec.Struct, frozen=True):
    """Who we are to a TC string. vendor: our id in the Global Vendor List, None when it is not configured."""

    vendor: int | None
    declared: Declaration


class Allowed(msgspec.Struct, frozen=True):
    """consent: CONSENT_* bits. cookie: whether our id may be stored in the browser and read back (purpose 1). lookup:
    whether it may be used to look tags up (purposes 1 and 4).
    """

    consent: int
    cookie: bool
    lookup: bool


NOTHING = Allowed(0, False, False)
EVERYTHING = Allowed(CONSENT_ALL, True, True)


def basis(config: CollectConfig) -> Basis:
    """The declaration of the `[dmp.collect]` table; raises ConfigError where no vendor may declare so."""
    return Basis(config.gvl_id, declare(config.tcf_consent, config.tcf_legitimate_interest, config.tcf_flexible))


def allowed(gdpr: int | None, tc_string: str, us: Basis) -> Allowed:
    """What the user's signals allow. gdpr: 1 applies, 0 does not, None unknown, which counts as applying (P-10).

    A string sent along is obeyed even where GDPR is said not to apply: a restriction never widens anything.
    """
    return EVERYTHING if gdpr == 0 and not tc_string else _said(tc_string, us)


def stated(consent: int | None, gdpr: int | None, tc_string: str, us: Basis) -> int:
    """CONSENT_* bits of an event from an authenticated source. consent: what it states, None when it leaves that out.

    Bits count as stated unless GDPR is said to apply or a string is there: then both must allow. A string alone may
    stand for the bits; without either there is no permission.
    """
    if gdpr == 1 or tc_string:
        return _said(tc_string, us).consent & (CONSENT_ALL if consent is None else consent)
    return consent or 0


def _said(tc_string: str, us: Basis) -> Allowed:
    if us.vendor is None or not tc_string or len(tc_string) > MAX_LENGTH:
        return NOTHING
    return _decoded(tc_string, us.vendor, us.declared)


@lru_cache(CACHED_STRINGS)
def _decoded(tc_string: str, vendor: int, declared: Declaration) -> Allowed:
    said = permissions(tcf.decode(tc_string, vendor), declared)
    bits = CONSENT_PROFILE * said.build_profile | CONSENT_MEASURE * said.measure | CONSENT_TRAIN * said.train
    return Allowed(bits, bool(said.consented & tcf.purpose_bit(1)), said.use_ids)
