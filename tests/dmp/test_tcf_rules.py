"""Rules P-12 to P-17: what a TC string opens, purpose by purpose."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dmp.errors import ConfigError
from dmp.tcf import TcfConsent, decode, purpose_bit
from dmp.tcf_rules import DISCLOSED_FROM_US, Declaration, Permissions, declare, permissions

VECTORS = [json.loads(line) for line in (Path(__file__).parents[1] / "cases/consent/tcf.jsonl").open()]
ALL = (1 << 24) - 1
OURS = declare(
    consent=(1, 3, 4, 5, 6), legitimate_interest=(2, 7, 8, 9, 10, 11), flexible=(2, 7), special_features=(1,)
)
BY_CONSENT = declare(consent=range(1, 12), flexible=(2, 7), special_features=(1,))
PERMISSION_FIELDS = [name for name in Permissions.__struct_fields__ if name not in ("purposes", "consented", "reasons")]


def a_consent(**changes) -> TcfConsent:
    """Everything agreed to, nothing restricted, valid in every respect; the changes are what a test is about."""
    everything = TcfConsent(
        created_us=DISCLOSED_FROM_US - 1,
        updated_us=DISCLOSED_FROM_US - 1,
        cmp_id=2,
        cmp_version=1,
        consent_screen=0,
        consent_language="EN",
        vendor_list_version=77,
        policy_version=4,
        is_service_specific=True,
        use_non_standard_texts=False,
        special_feature_opt_ins=0xFFF,
        purpose_consents=ALL,
        purpose_legitimate_interests=ALL,
        purpose_one_treatment=False,
        publisher_cc="DE",
        vendor_consent=True,
        vendor_legitimate_interest=True,
        not_allowed=0,
        require_consent=0,
        require_li=0,
        disclosed=None,
        allowed=None,
        publisher=None,
    )
    return replace(everything, **changes)


def opened(answer: Permissions) -> set[str]:
    return {name for name in PERMISSION_FIELDS if getattr(answer, name)}


def purposes(answer: Permissions) -> set[int]:
    return {purpose for purpose in range(1, 25) if answer.purposes & purpose_bit(purpose)}


def test_full_consent_opens_everything():
    assert opened(permissions(a_consent(), OURS)) == set(PERMISSION_FIELDS)


@pytest.mark.rule("P-11")
def test_an_unusable_string_opens_nothing():
    assert permissions(None, OURS) == Permissions(reasons=("tcf:unusable",))


@pytest.mark.rule("P-12")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_service_specific": False}, "tcf:not_service_specific"),
        ({"policy_version": 3}, "tcf:old_policy_version"),
        ({"policy_version": 0}, "tcf:old_policy_version"),
        ({"updated_us": DISCLOSED_FROM_US}, "tcf:no_disclosed_vendors"),
    ],
)
def test_an_invalid_string_opens_nothing_and_says_why(change, reason):
    assert permissions(a_consent(**change), OURS) == Permissions(reasons=(reason,))


@pytest.mark.rule("P-12")
@pytest.mark.parametrize("policy", [4, 5, 63])
def test_newer_policies_are_valid(policy):
    assert permissions(a_consent(policy_version=policy), OURS).use_ids


@pytest.mark.rule("P-12")
@pytest.mark.parametrize(
    ("setting", "updated_us", "disclosed", "usable"),
    [
        ("auto", DISCLOSED_FROM_US - 1, None, True),
        ("auto", DISCLOSED_FROM_US, None, False),
        ("auto", DISCLOSED_FROM_US, True, True),
        ("always", DISCLOSED_FROM_US - 1, None, False),
        ("always", DISCLOSED_FROM_US - 1, True, True),
        ("never", DISCLOSED_FROM_US, None, True),
    ],
)
def test_strings_from_march_2026_on_must_disclose_vendors(setting, updated_us, disclosed, usable):
    answer = permissions(a_consent(updated_us=updated_us, disclosed=disclosed), OURS, setting)
    assert answer.use_ids is usable
    assert answer.basic_ads is usable


@pytest.mark.rule("P-12")
def test_a_vendor_that_was_not_disclosed_has_no_legitimate_interest_and_no_special_purpose():
    answer = permissions(a_consent(disclosed=False), OURS)
    assert purposes(answer) == {1, 3, 4, 5, 6}
    assert not answer.special_purposes
    assert "tcf:vendor_not_disclosed" in answer.reasons


@pytest.mark.rule("P-14")
@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"vendor_consent": False}, {2, 7, 8, 9, 10, 11}),
        ({"vendor_legitimate_interest": False}, {1, 3, 4, 5, 6}),
        ({"purpose_consents": ALL & ~purpose_bit(4)}, {1, 2, 3, 5, 6, 7, 8, 9, 10, 11}),
        ({"purpose_legitimate_interests": 0}, {1, 3, 4, 5, 6}),
        ({"vendor_consent": False, "vendor_legitimate_interest": False}, set()),
        ({"purpose_consents": 0, "purpose_legitimate_interests": 0}, set()),
    ],
)
def test_a_purpose_needs_its_bit_and_the_vendor_bit_of_its_basis(change, left):
    assert purposes(permissions(a_consent(**change), OURS)) == left


CONSENT, INTEREST = {"consent": (2,)}, {"legitimate_interest": (2,)}
FLEXIBLE = {"flexible": (2,)}


@pytest.mark.rule("P-14")
@pytest.mark.parametrize(
    ("declared", "restriction", "consent_given", "interest_given", "allowed"),
    [
        (CONSENT, None, True, False, True),
        (CONSENT, None, False, True, False),
        (INTEREST, None, False, True, True),
        (INTEREST, None, True, False, False),
        (CONSENT, "not_allowed", True, True, False),
        (INTEREST, "not_allowed", True, True, False),
        (CONSENT | FLEXIBLE, "not_allowed", True, True, False),
        (CONSENT, "require_consent", True, False, True),
        (INTEREST, "require_consent", True, True, False),
        (INTEREST | FLEXIBLE, "require_consent", True, False, True),
        (INTEREST | FLEXIBLE, "require_consent", False, True, False),
        (INTEREST, "require_li", False, True, True),
        (CONSENT, "require_li", True, True, False),
        (CONSENT | FLEXIBLE, "require_li", False, True, True),
        (CONSENT | FLEXIBLE, "require_li", True, False, False),
        (FLEXIBLE | CONSENT, None, False, True, False),
        ({}, None, True, True, False),
        ({}, "require_consent", True, True, False),
        ({}, "require_li", True, True, False),
    ],
)
def test_restriction_then_declared_basis_then_both_bits(declared, restriction, consent_given, interest_given, allowed):
    said = a_consent(
        vendor_consent=consent_given,
        vendor_legitimate_interest=interest_given,
        **({restriction: purpose_bit(2)} if restriction else {}),
    )
    ours = declare(**({"consent": ()} | declared))
    assert permissions(said, ours).basic_ads is allowed


@pytest.mark.rule("P-14")
def test_a_purpose_restricted_to_both_bases_is_not_allowed():
    said = a_consent(require_consent=purpose_bit(2), require_li=purpose_bit(2))
    assert not permissions(said, OURS).basic_ads


@pytest.mark.rule("P-15")
@pytest.mark.parametrize("purpose", [1, 3, 4, 5, 6])
def test_consent_is_the_only_basis_of_purposes_1_3_4_5_and_6(purpose):
    bit = purpose_bit(purpose)
    carelessly = Declaration(consent=0, legitimate_interest=bit, flexible=bit, special_features=0)
    assert permissions(a_consent(), carelessly).purposes == 0
    assert permissions(a_consent(require_consent=bit), carelessly).purposes == 0
    flexibly = Declaration(consent=bit, legitimate_interest=0, flexible=bit, special_features=0)
    assert permissions(a_consent(require_li=bit), flexibly).purposes == 0
    assert permissions(a_consent(purpose_consents=0), flexibly).purposes == 0


@pytest.mark.rule("P-16")
@pytest.mark.parametrize(
    ("missing", "closed"),
    [
        (1, {"use_ids", "frequency_cap"}),
        (2, {"basic_ads", "frequency_cap"}),
        (3, {"build_profile"}),
        (4, {"use_ids"}),
        (5, set()),
        (7, {"measure"}),
        (9, {"reach"}),
        (10, {"train"}),
    ],
)
def test_each_purpose_opens_its_own_doors(missing, closed):
    answer = permissions(a_consent(purpose_consents=ALL & ~purpose_bit(missing)), BY_CONSENT)
    assert opened(answer) == set(PERMISSION_FIELDS) - closed


@pytest.mark.rule("P-16")
def test_precise_position_needs_the_opt_in_and_our_declaration():
    assert not permissions(a_consent(special_feature_opt_ins=0x7FF), OURS).precise_geo
    assert permissions(a_consent(special_feature_opt_ins=0x800), OURS).precise_geo
    assert not permissions(a_consent(), declare(consent=(1, 2))).precise_geo


@pytest.mark.rule("P-17")
@pytest.mark.parametrize("change", [{"purpose_consents": 0}, {}])
def test_purpose_one_treatment_and_country_are_recorded_and_widen_nothing(change):
    plain = permissions(a_consent(**change), OURS)
    treated = permissions(a_consent(purpose_one_treatment=True, publisher_cc="LU", **change), OURS)
    assert replace(treated, reasons=()) == replace(plain, reasons=())
    assert treated.reasons == ("tcf:purpose_one_treatment", "tcf:publisher_cc=LU")


@pytest.mark.rule("P-15")
@pytest.mark.parametrize(
    ("declaration", "complaint"),
    [
        ({"consent": (0, 12)}, "purposes are 1 to 11: 0, 12"),
        ({"consent": (), "special_features": (3,)}, "special features are 1 to 2: 3"),
        ({"consent": (2,), "legitimate_interest": (2,)}, "under both bases: 2"),
        ({"consent": (), "legitimate_interest": (1, 4)}, "only basis of purpose: 1, 4"),
        ({"consent": (3,), "flexible": (3,)}, "only basis of purpose: 3"),
        ({"consent": (1,), "flexible": (2,)}, "without a declared basis: 2"),
    ],
)
def test_what_no_vendor_may_declare_is_refused(declaration, complaint):
    with pytest.raises(ConfigError, match=complaint):
        declare(**declaration)


def one_purpose(said: TcfConsent, ours: Declaration, purpose: int) -> bool:
    """P-14 read out for a single purpose: what the sets of bits must come to."""
    bit = purpose_bit(purpose)
    consent_only = purpose in (1, 3, 4, 5, 6)
    flexible = bool(ours.flexible & bit) and not consent_only
    if said.not_allowed & bit or (said.require_consent & bit and said.require_li & bit):
        return False
    if ours.consent & bit:
        basis = "consent"
    elif ours.legitimate_interest & bit and not consent_only:
        basis = "interest"
    else:
        return False
    required = "consent" if said.require_consent & bit else "interest" if said.require_li & bit else basis
    if required != basis and not flexible:
        return False
    if required == "consent":
        return bool(said.purpose_consents & bit and said.vendor_consent)
    return bool(
        said.purpose_legitimate_interests & bit and said.vendor_legitimate_interest and said.disclosed is not False
    )


def test_the_sets_agree_with_the_rule_read_out_purpose_by_purpose_on_every_vector():
    checked = 0
    for case in VECTORS:
        for vendor, *_ in case["want"]["vendors"] if case["want"] else []:
            said = replace(decode(case["text"], vendor), policy_version=4, is_service_specific=True)
            for ours in (OURS, BY_CONSENT):
                expected = {purpose for purpose in range(1, 25) if one_purpose(said, ours, purpose)}
                assert purposes(permissions(said, ours, "never")) == expected, (case["seed"], vendor)
                checked += 1
    assert checked > 4000


BITS = st.integers(0, ALL)


@st.composite
def consents(draw):
    names = ["purpose_consents", "purpose_legitimate_interests", "not_allowed", "require_consent", "require_li"]
    return a_consent(
        special_feature_opt_ins=draw(st.integers(0, 0xFFF)),
        vendor_consent=draw(st.booleans()),
        vendor_legitimate_interest=draw(st.booleans()),
        disclosed=draw(st.sampled_from([None, False, True])),
        **{name: draw(BITS) for name in names},
    )


DECLARED = st.builds(
    Declaration, consent=BITS, legitimate_interest=BITS, flexible=BITS, special_features=st.just(0x800)
)


def assert_no_wider(narrow: Permissions, wide: Permissions) -> None:
    assert opened(narrow) <= opened(wide)
    assert not narrow.purposes & ~wide.purposes
    assert not narrow.consented & ~wide.consented


@pytest.mark.rule("P-03")
@settings(max_examples=300, deadline=None)
@given(consents(), DECLARED, BITS, st.booleans(), st.booleans(), st.booleans(), BITS)
def test_taking_any_permission_bit_away_never_opens_anything(said, ours, kept, vendor, vendor_li, shown, forbidden):
    less = replace(
        said,
        purpose_consents=said.purpose_consents & kept,
        purpose_legitimate_interests=said.purpose_legitimate_interests & kept,
        special_feature_opt_ins=said.special_feature_opt_ins & kept,
        vendor_consent=said.vendor_consent and vendor,
        vendor_legitimate_interest=said.vendor_legitimate_interest and vendor_li,
        disclosed=said.disclosed and shown,
        not_allowed=said.not_allowed | forbidden,
    )
    assert_no_wider(permissions(less, ours), permissions(said, ours))


WEB_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Special features, purpose consents, purpose interests; then the bits of vendors 1 to 20 in two bit fields.
PERMISSION_BITS = [*range(140, 200), *range(230, 250), *range(267, 287)]


@pytest.mark.rule("P-03")
@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20), st.sets(st.sampled_from(PERMISSION_BITS)), st.sampled_from(PERMISSION_BITS))
def test_clearing_one_permission_bit_of_the_string_never_opens_anything(vendor, cleared, one_more):
    def answer(off: set[int]) -> Permissions:
        bits = list(f"{2:06b}" + "0" * 126 + f"{4:06b}" + "10" + "1" * 60 + "0" * 13)
        bits += f"{20:016b}0" + "1" * 20 + f"{20:016b}0" + "1" * 20 + "0" * 12
        bits += "0" * (-len(bits) % 6)
        for place in off:
            assert bits[place] == "1"
            bits[place] = "0"
        text = "".join(WEB_SAFE[int("".join(bits[i : i + 6]), 2)] for i in range(0, len(bits), 6))
        return permissions(decode(text, vendor), OURS)

    assert answer(set()).use_ids
    assert_no_wider(answer(cleared | {one_more}), answer(cleared))
