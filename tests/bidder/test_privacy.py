import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bidder import openrtb
from bidder.config import BidderConfig
from bidder.decide import Decision
from bidder.gpp_sections import LAYOUTS
from bidder.offers import Features, Offer
from bidder.privacy import PERMISSIONS, PrivacyDecision, after_lookup, decide, policy
from bidder.reasons import Reason
from bidder.record import bid_record
from dmp import keys
from dmp.pseudonym import KeyRing
from dmp.schema import NOBODY, User
from models.features import FEATURES, N_CAMPAIGN, N_PAIR, N_REQUEST, USER_COLUMNS
from tests.bidder.consent_strings import MARCH_2026_DS, VENDOR, gpp, tc, us
from tests.bidder.factories import a_body, a_call, a_campaign, a_request, a_snapshot, decision, logged_bid

SETTINGS = BidderConfig()


def judged(settings: BidderConfig = SETTINGS, **fields: Any) -> PrivacyDecision:
    return decide(a_request(**fields), policy(settings))


def permitted(found: PrivacyDecision) -> set[str]:
    return {name for name in PERMISSIONS if getattr(found, name)}


def test_a_request_without_restrictive_signals_permits_everything() -> None:
    assert permitted(judged()) == set(PERMISSIONS)


@pytest.mark.rule("P-01")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"regs": {"gdpr": 0, "coppa": 1}}, "coppa"),
        ({"regs": {"gdpr": 1}}, "gdpr"),
        ({"regs": {"gdpr": 1}, "user": {"consent": "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA"}}, "gdpr"),
        ({"regs": {"gdpr": 0, "us_privacy": "1YYN"}}, "us_privacy"),
        ({"regs": {"gdpr": 0, "gpp": "DBAA", "gpp_sid": [7]}}, "gpp:unusable"),
        ({"regs": {"gdpr": 0, "ext": {"gpc": "1"}}}, "gpc"),
        ({"device": {"geo": {"country": "USA"}, "lmt": 1}}, "lmt"),
        ({"device": {"geo": {"country": "USA"}, "dnt": 1}}, "dnt"),
        ({"device": {"geo": {"country": "USA"}, "ifa": "00000000-0000-0000-0000-000000000000"}}, "zero_ifa"),
    ],
)
def test_each_restrictive_signal_makes_the_bid_contextual(fields: dict[str, Any], reason: str) -> None:
    found = judged(**fields)
    assert reason in found.reasons
    assert permitted(found) <= {"bid", "city"}


@pytest.mark.rule("P-02")
@pytest.mark.parametrize(
    ("regs", "applies"),
    [
        ({"gdpr": 1}, True),
        ({"ext": {"gdpr": 1}}, True),
        ({"gdpr": 0, "ext": {"gdpr": 1}}, True),
        ({"gdpr": 1, "ext": {"gdpr": 0}}, True),
        ({"gdpr": 0, "ext": {"gdpr": 0}}, False),
        ({"ext": {"gdpr": 0}}, False),
        ({"gdpr": True}, True),
        ({"gdpr": 2}, True),
    ],
)
def test_gdpr_is_read_in_both_places_and_the_stricter_counts(regs: dict[str, Any], applies: bool) -> None:
    assert ("gdpr" in judged(regs=regs).reasons) is applies


@pytest.mark.rule("P-02")
@pytest.mark.parametrize("place", ["first class", "ext"])
@pytest.mark.parametrize(("name", "value"), [("us_privacy", "1YYN"), ("gpp_sid", [7]), ("gpp", "junk"), ("coppa", 1)])
def test_other_signals_are_read_in_both_places(place: str, name: str, value: Any) -> None:
    own = {name: value} if place == "first class" else {"ext": {name: value}}
    assert not judged(regs={"gdpr": 0} | own).use_ids


@pytest.mark.rule("P-10")
@pytest.mark.parametrize(
    ("policy", "country", "applies"),
    [
        ("by_country", "DEU", True),
        ("by_country", "DE", True),
        ("by_country", "GBR", True),
        ("by_country", "CHE", True),
        ("by_country", "NOR", True),
        ("by_country", "USA", False),
        ("by_country", None, True),
        ("by_country", "??", True),
        ("always", "USA", True),
        ("never", "DEU", False),
    ],
)
def test_without_a_gdpr_flag_the_setting_decides(policy: str, country: str | None, applies: bool) -> None:
    settings = msgspec.convert({"gdpr_when_unknown": policy}, BidderConfig)
    found = judged(settings, regs=None, device={"geo": {"country": country}})
    assert ("gdpr" in found.reasons) is applies


@pytest.mark.rule("P-20")
@pytest.mark.parametrize(
    ("text", "opted_out"),
    [("1YNN", False), ("1NNN", False), ("1YN-", False), ("1---", False), ("1YYN", True), ("1NYY", True)]
    + [(bad, True) for bad in ("2YNN", "1YN", "1YNNN", "1ynn", "yes", "1XNN", "1YNX", "    ")],
)
def test_us_privacy_is_an_opt_out_by_its_third_character_or_by_being_malformed(text: str, opted_out: bool) -> None:
    assert ("us_privacy" in judged(regs={"gdpr": 0, "us_privacy": text}).reasons) is opted_out


@pytest.mark.rule("P-22")
@pytest.mark.parametrize(
    ("value", "opted_out"),
    [("1", True), (1, True), (True, True), ("yes", True), ("0", False), (0, False), (None, False)],
)
def test_global_privacy_control_is_an_opt_out_on_its_own(value: Any, opted_out: bool) -> None:
    assert ("gpc" in judged(regs={"gdpr": 0, "ext": {"gpc": value}}).reasons) is opted_out


@pytest.mark.rule("P-31")
def test_do_not_track_counts_as_limit_ad_tracking_unless_switched_off() -> None:
    fields = {"device": {"geo": {"country": "USA"}, "dnt": 1}}
    assert not judged(**fields).use_ids
    assert judged(msgspec.convert({"dnt_is_lmt": False}, BidderConfig), **fields).use_ids


@pytest.mark.rule("P-04")
def test_a_consent_string_of_any_length_or_content_is_no_permission_and_no_error() -> None:
    for consent in ("", "x", "\u2028", "C" * 20_000):
        assert not judged(regs={"gdpr": 1}, user={"consent": consent}).use_ids
    assert not judged(regs={"gdpr": 0, "gpp": "D" * 20_000, "gpp_sid": [99]}).use_ids


# ---- consent strings

OURS = BidderConfig(gvl_id=VENDOR, tcf_consent=tuple(range(1, 12)), tcf_special_features=(1,))
USER = {"use_ids", "lookup_tags", "personalise", "sensitive", "assume_no_opt_out"}
TCF = {*USER, "bid", "city", "build_profile", "measure", "train", "frequency_cap", "precise_geo"}
CONTEXTUAL = {"bid", "city"}


def in_gdpr(consent: str | None, settings: BidderConfig = OURS, **user: Any) -> PrivacyDecision:
    return judged(settings, regs={"gdpr": 1}, user={"consent": consent} | user)


def test_full_consent_permits_everything() -> None:
    assert permitted(in_gdpr(tc())) == TCF == set(PERMISSIONS)


@pytest.mark.rule("P-16")
@pytest.mark.parametrize(
    ("missing", "left"),
    [
        (1, {"bid", "city", "precise_geo"}),
        (2, CONTEXTUAL),
        (3, TCF - {"build_profile"}),
        (4, {"bid", "city", "precise_geo"}),
        (5, TCF),
        (6, TCF),
        (7, TCF - {"measure", "frequency_cap"}),
        (8, TCF),
        (9, TCF),
        (10, TCF - {"train"}),
        (11, TCF),
    ],
)
def test_what_a_missing_purpose_takes_away(missing: int, left: set[str]) -> None:
    assert permitted(in_gdpr(tc(consent=set(range(1, 12)) - {missing}))) == left


@pytest.mark.rule("P-16")
def test_an_exact_place_needs_the_opt_in_to_special_feature_1() -> None:
    assert permitted(in_gdpr(tc(features=()))) == TCF - {"precise_geo"}


@pytest.mark.rule("P-16")
def test_consent_to_profiling_alone_opens_no_id() -> None:
    assert permitted(in_gdpr(tc(consent=(3,)))) == CONTEXTUAL
    assert permitted(in_gdpr(tc(consent=(2, 3, 4, 7, 10)))) == CONTEXTUAL | {"precise_geo"}


@pytest.mark.rule("P-16")
@pytest.mark.parametrize("consent", [None, "junk", tc(consent=(1, 3, 4))])
def test_without_purpose_2_the_setting_says_whether_to_bid_at_all(consent: str | None) -> None:
    assert permitted(in_gdpr(consent)) == CONTEXTUAL
    silent = replace(OURS, without_p2="no_bid")
    assert not in_gdpr(consent, silent).bid
    assert in_gdpr(tc(), silent).bid
    refused = a_request(regs={"gdpr": 1}, user={"consent": consent})
    kept = {key: value for key, value in msgspec.to_builtins(silent).items() if key.startswith(("tcf", "gvl", "with"))}
    assert decision(refused, **kept).reason is Reason.PRIVACY


@pytest.mark.rule("P-11")
@pytest.mark.parametrize("consent", [None, "", "x", "\u2028", tc()[:30], "C" * 9_000, tc() + ".A", "1YNN"])
def test_gdpr_without_a_usable_string_is_contextual(consent: str | None) -> None:
    assert permitted(in_gdpr(consent)) == CONTEXTUAL


@pytest.mark.rule("P-12")
@pytest.mark.parametrize(
    ("setting", "fields", "usable"),
    [
        ("auto", {"policy": 3}, False),
        ("auto", {"policy": 4}, True),
        ("auto", {"specific": False}, False),
        ("auto", {"updated_ds": MARCH_2026_DS}, False),
        ("auto", {"updated_ds": MARCH_2026_DS, "disclosed": (VENDOR,)}, True),
        ("auto", {"updated_ds": MARCH_2026_DS - 1}, True),
        ("never", {"updated_ds": MARCH_2026_DS}, True),
        ("always", {}, False),
        ("always", {"disclosed": (VENDOR,)}, True),
    ],
)
def test_an_outdated_string_is_no_consent(setting: Any, fields: dict[str, Any], usable: bool) -> None:
    found = in_gdpr(tc(**fields), replace(OURS, tcf_require_disclosed=setting))
    assert permitted(found) == (TCF if usable else CONTEXTUAL)


@pytest.mark.rule("P-13")
def test_without_a_vendor_id_every_gdpr_request_is_contextual() -> None:
    found = in_gdpr(tc(), replace(OURS, gvl_id=None))
    assert permitted(found) == CONTEXTUAL
    assert found.reasons == ("gdpr", "tcf:no_gvl_id")


@pytest.mark.rule("P-14")
@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"vendor_consents": (VENDOR + 1,)}, CONTEXTUAL),
        ({"vendor_consents": ()}, CONTEXTUAL),
        ({"forbidden": (7,)}, TCF - {"measure", "frequency_cap"}),
        ({"forbidden": (4,)}, {"bid", "city", "precise_geo"}),
    ],
)
def test_restrictions_and_vendor_bits_count(fields: dict[str, Any], left: set[str]) -> None:
    assert permitted(in_gdpr(tc(**fields))) == left


@pytest.mark.rule("P-15")
def test_a_legitimate_interest_opens_no_profile() -> None:
    interest = replace(OURS, tcf_consent=(1, 3, 4), tcf_legitimate_interest=(2, 7, 10))
    assert permitted(in_gdpr(tc(consent=(1, 3, 4), interest=(2, 7, 10)), interest)) == TCF
    assert permitted(in_gdpr(tc(consent=(1, 3), interest=range(2, 12)), interest)) <= CONTEXTUAL | {"precise_geo"}


@pytest.mark.rule("P-17")
def test_purpose_one_treatment_and_country_are_recorded_and_widen_nothing() -> None:
    found = in_gdpr(tc(consent=range(2, 12), purpose_one_treatment=True))
    assert {"tcf:purpose_one_treatment", "tcf:publisher_cc=DE"} <= set(found.reasons)
    assert permitted(found) == CONTEXTUAL | {"precise_geo"}


@pytest.mark.rule("P-02")
@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (tc(), None, TCF),
        (None, tc(), TCF),
        ("", tc(), TCF),
        (tc(), tc(), TCF),
        (tc(), tc(consent=range(1, 10)), TCF - {"train"}),
        (tc(consent=range(1, 10)), tc(), TCF - {"train"}),
        (tc(), "junk", CONTEXTUAL),
        ("junk", tc(), CONTEXTUAL),
    ],
)
def test_a_consent_string_is_read_in_both_places_and_the_stricter_counts(
    first: str | None, second: str | None, left: set[str]
) -> None:
    assert permitted(in_gdpr(first, ext={"consent": second})) == left


def test_outside_gdpr_a_consent_string_takes_nothing_away() -> None:
    assert permitted(judged(OURS, user={"consent": tc(consent=())})) == set(PERMISSIONS)


def in_gpp(sections: dict[int, str], applied: list[int] | None = None, **regs: Any) -> PrivacyDecision:
    said = {"gdpr": 0, "gpp": gpp(sections), "gpp_sid": list(sections) if applied is None else applied}
    return judged(OURS, regs=said | regs)


@pytest.mark.rule("P-21")
@pytest.mark.parametrize("section", LAYOUTS)
def test_every_us_section_can_opt_out(section: int) -> None:
    layout = LAYOUTS[section]
    assert permitted(in_gpp({section: us(section)})) == set(PERMISSIONS)
    for answer in layout.opt_outs:
        assert permitted(in_gpp({section: us(section, **{answer: 1})})) == CONTEXTUAL
        assert permitted(in_gpp({section: us(section, **{answer: 2})})) == set(PERMISSIONS)
    if layout.second == "gpc":
        assert permitted(in_gpp({section: us(section, second="YA")})) == CONTEXTUAL
    if layout.children:
        assert permitted(in_gpp({section: us(section, children=2)})) == CONTEXTUAL
    if layout.sensitive:
        assert permitted(in_gpp({section: us(section, sensitive=1)})) == set(PERMISSIONS) - {"sensitive"}


@pytest.mark.rule("P-21")
def test_only_sections_that_apply_are_read_and_an_unknown_one_is_no_permission() -> None:
    opted_out = {6: "1YYN", 7: us(7, sale=1)}
    assert permitted(in_gpp(opted_out | {8: us(8)}, [8])) == set(PERMISSIONS)
    assert permitted(in_gpp(opted_out, [-1])) == set(PERMISSIONS)
    assert permitted(in_gpp({6: "1YNN"})) == set(PERMISSIONS)
    for applied in ([6], [7], [8], [99], [0], [3], [-1, 7], [7] * 40):
        assert permitted(in_gpp(opted_out, applied)) == CONTEXTUAL, applied


@pytest.mark.rule("P-02")
def test_gpp_in_two_places_is_read_strictly() -> None:
    fine, opted_out = {7: us(7)}, {7: us(7, sharing=1)}
    assert permitted(in_gpp(fine, ext={"gpp": gpp(fine), "gpp_sid": [7]})) == set(PERMISSIONS)
    assert permitted(in_gpp(fine, ext={"gpp": gpp(opted_out)})) == CONTEXTUAL
    assert permitted(in_gpp(opted_out, [-1], ext={"gpp_sid": [7]})) == CONTEXTUAL
    assert permitted(in_gpp({7: us(7), 8: us(8, sale=1)}, [7], ext={"gpp_sid": [8]})) == CONTEXTUAL
    assert permitted(judged(OURS, regs={"gdpr": 0, "ext": {"gpp": gpp(fine), "gpp_sid": [7]}})) == set(PERMISSIONS)


@pytest.mark.rule("P-21")
def test_section_2_is_read_by_the_tcf_rules() -> None:
    assert permitted(in_gpp({2: tc()})) == TCF
    assert permitted(in_gpp({2: tc(consent=range(1, 10))}, gdpr=1)) == TCF - {"train"}
    assert permitted(in_gpp({2: "junk"})) == CONTEXTUAL
    assert permitted(in_gpp({2: tc(), 7: us(7, sale=1)})) == CONTEXTUAL
    assert permitted(in_gpp({2: tc(), 7: us(7)}, [7], gdpr=1)) == CONTEXTUAL, "a section that does not apply"
    both = {"regs": {"gpp": gpp({2: tc()}), "gpp_sid": [2]}, "user": {"consent": tc(consent=range(1, 10))}}
    assert permitted(judged(OURS, **both)) == TCF - {"train"}


@pytest.mark.rule("P-05")
def test_a_decision_from_strings_is_made_once() -> None:
    ours = policy(OURS)
    first = decide(a_request(regs={"gdpr": 1}, user={"id": "someone", "consent": tc()}), ours)
    assert decide(a_request(regs={"gdpr": 1}, user={"id": "else", "consent": tc()}), ours) is first
    assert len(ours.judged) == 1
    assert decide(a_request(regs={"gdpr": 1, "coppa": 1}, user={"consent": tc()}), ours) != first


# ---- what the user told us

MARKED = {"opted out": User(audiences=frozenset({keys.OPTED_OUT})), "child": User(audiences=frozenset({keys.CHILD}))}


@pytest.mark.rule("P-32")
def test_an_opt_out_in_the_record_holds_and_a_known_child_is_treated_as_one() -> None:
    found = judged(device={"geo": {"country": "CHN"}})
    assert permitted(after_lookup(found, NOBODY)) == set(PERMISSIONS) - {"assume_no_opt_out"}
    assert permitted(after_lookup(found, MARKED["opted out"])) == CONTEXTUAL
    assert permitted(after_lookup(found, MARKED["child"])) == {"bid"}
    assert after_lookup(found, MARKED["opted out"]).reasons == ("china", "opted_out")
    assert permitted(after_lookup(judged(), MARKED["opted out"])) == CONTEXTUAL, "it holds everywhere"


@pytest.mark.rule("P-32")
@pytest.mark.parametrize("country", ["CHN", "CN", "cn"])
def test_in_china_a_record_that_could_not_be_read_may_hold_an_opt_out(country: str) -> None:
    assert permitted(after_lookup(judged(device={"geo": {"country": country}}), None)) == CONTEXTUAL
    assert after_lookup(judged(), None) == judged()
    assert permitted(after_lookup(judged(replace(SETTINGS, china_when="always")), None)) == CONTEXTUAL


# ---- the intersection

SIGNALS: list[tuple[str, list[Any]]] = [
    ("regs.coppa", [0, 1]),
    ("regs.gdpr", [0, 1]),
    ("regs.ext.gdpr", [0, 1]),
    ("regs.us_privacy", ["1YNN", "1YYN", "junk"]),
    ("regs.ext.us_privacy", ["1YNN", "1YYN"]),
    ("regs.gpp", [gpp({2: tc(), 7: us(7), 8: us(8)}), gpp({7: us(7, sensitive=1)}), "junk"]),
    ("regs.gpp_sid", [[2], [7], [2, 7], [-1]]),
    ("regs.ext.gpp", [gpp({2: tc(consent=range(1, 8)), 7: us(7), 8: us(8)})]),
    ("regs.ext.gpp_sid", [[7], [8], [-1]]),
    ("regs.ext.gpc", ["0", "1"]),
    ("device.lmt", [0, 1]),
    ("device.dnt", [0, 1]),
    ("device.ifa", ["0000-0000", "6d92078a-8246-4ba4-ae5b-76104861e7dc"]),
    ("user.consent", [tc(), tc(consent=range(1, 10)), tc(features=()), tc(consent=(2,)), "C"]),
    ("user.ext.consent", [tc(), tc(forbidden=(7,)), "x" * 9_000]),
]
RESTRICTIVE: list[tuple[str, Any]] = [
    ("regs.coppa", 1),
    ("regs.gdpr", 1),
    ("regs.ext.gdpr", 1),
    ("regs.us_privacy", "1NYN"),
    ("regs.ext.us_privacy", "?"),
    ("regs.ext.gpp", gpp({2: tc(consent=()), 7: us(7, sale=1), 8: us(8, sale=1)})),
    ("regs.ext.gpp", "junk"),
    ("regs.ext.gpp", gpp({7: us(7, second="YA")})),
    ("regs.ext.gpc", "1"),
    ("device.lmt", 1),
    ("device.dnt", True),
    ("device.ifa", "0-0"),
    ("user.consent", tc(consent=())),
    ("user.consent", "x"),
    ("user.ext.consent", tc(consent=())),
]
MORE_SECTIONS = [0, 2, 7, 8, 9, 99]


def put(body: dict[str, Any], path: str, value: Any) -> None:
    *trail, last = path.split(".")
    for step in trail:
        body = body.setdefault(step, {})
    body[last] = value


SETTINGS_OF = st.fixed_dictionaries(
    {
        "gdpr_when_unknown": st.sampled_from(["by_country", "always", "never"]),
        "without_p2": st.sampled_from(["contextual", "no_bid"]),
        "china_when": st.sampled_from(["by_country", "always"]),
    }
)
SAID = st.lists(st.sampled_from(SIGNALS).flatmap(lambda s: st.tuples(st.just(s[0]), st.sampled_from(s[1]))))


def a_signalling_body(signals: list[tuple[str, Any]], country: str | None) -> dict[str, Any]:
    body = a_body(regs={}, device={"geo": {"country": country}}, user={})
    for path, value in signals:
        put(body, path, value)
    return body


@pytest.mark.rule("P-32")
def test_in_china_the_exact_place_is_not_used_of_somebody_who_is_not_looked_up() -> None:
    """Consent under GDPR that opens the exact place and no id: whether the user opted out here is never asked."""
    place_only = {"consent": tc(consent=(2,))}
    elsewhere = {"regs": {"gdpr": 1}, "user": place_only, "device": {"geo": {"country": "DEU"}}}
    assert "precise_geo" in permitted(judged(OURS, **elsewhere))
    assert permitted(judged(OURS, **elsewhere | {"device": {"geo": {"country": "CHN"}}})) == CONTEXTUAL


@pytest.mark.rule("P-03")
@settings(max_examples=600, deadline=None)
@given(SAID, st.sampled_from(RESTRICTIVE), SETTINGS_OF, st.sampled_from(["USA", "DEU", "CHN", None]))
def test_adding_a_restrictive_signal_never_widens_any_permission(
    signals: list[tuple[str, Any]], added: tuple[str, Any], given: dict[str, Any], country: str | None
) -> None:
    ours = policy(replace(OURS, **given))
    body = a_signalling_body(signals, country)
    before = decide(openrtb.decode(msgspec.json.encode(body)), ours)
    put(body, *added)
    after = decide(openrtb.decode(msgspec.json.encode(body)), ours)
    assert permitted(after) <= permitted(before)
    for user in (None, NOBODY, *MARKED.values()):
        assert permitted(after_lookup(after, user)) <= permitted(after)
        assert permitted(after_lookup(after, user)) <= permitted(after_lookup(before, user))


@pytest.mark.rule("P-03")
@settings(max_examples=400, deadline=None)
@given(SAID, st.sampled_from(MORE_SECTIONS), SETTINGS_OF, st.sampled_from(["USA", "DEU", None]))
def test_one_more_applying_section_never_widens_any_permission(
    signals: list[tuple[str, Any]], section: int, given: dict[str, Any], country: str | None
) -> None:
    """But for section 2 where GDPR applies and no consent was told: that string is the consent."""
    ours = policy(replace(OURS, **given))
    body = a_signalling_body(signals, country)
    before = decide(openrtb.decode(msgspec.json.encode(body)), ours)
    assume(section != 2 or "tcf:no_string" not in before.reasons)
    sections = body["regs"].setdefault("gpp_sid", [])
    body["regs"]["gpp_sid"] = [*sections, section] if sections != [-1] else [section]
    after = decide(openrtb.decode(msgspec.json.encode(body)), ours)
    assert permitted(after) <= permitted(before)


@pytest.mark.rule("P-03")
@given(st.sampled_from(SIGNALS[13][1]), st.sampled_from(SIGNALS[14][1]), st.booleans())
def test_a_second_consent_string_never_widens_any_permission(first: str, second: str, in_platform: bool) -> None:
    before = in_gdpr(first)
    user = {"consent": first}
    if in_platform:
        after = judged(OURS, regs={"gdpr": 1, "gpp": gpp({2: second[:4000]}), "gpp_sid": [2]}, user=user)
    else:
        after = in_gdpr(first, ext={"consent": second})
    assert permitted(after) <= permitted(before)


# ---- who obeys


@pytest.mark.rule("P-50")
def test_a_contextual_bid_uses_no_tag_and_no_capped_campaign_bids_unless_it_says_so() -> None:
    request = a_request(regs={"gdpr": 1})
    member = User(tags={}, audiences=frozenset(), contacts=())
    capped = {"caps": [{"limit": 3, "window_s": 3600}]}
    assert decision(request, a_campaign(**capped), user=member).reason is Reason.NO_USER
    assert decision(request, a_campaign(**capped, cap_without_user="bid"), user=member).reason is Reason.BID
    assert (
        decision(request, a_campaign(targeting={"tags": {"interest.travel": 1}}), user=member).reason is Reason.NO_USER
    )
    assert decision(request, a_campaign(), user=member).reason is Reason.BID


@pytest.mark.rule("P-16")
def test_a_capped_campaign_does_not_bid_where_its_contacts_would_not_be_counted() -> None:
    """Without purpose 7 the notices carry no id, and the cap would not hold."""
    declared = {"gvl_id": VENDOR, "tcf_consent": tuple(range(1, 12))}
    request = a_request(regs={"gdpr": 1}, user={"consent": tc(consent=set(range(1, 12)) - {7})})
    capped = {"caps": [{"limit": 3, "window_s": 3600}]}
    assert decision(request, a_campaign(**capped), **declared).reason is Reason.FREQUENCY_CAP
    assert decision(request, a_campaign(**capped, cap_without_user="bid"), **declared).reason is Reason.BID
    assert decision(request, a_campaign(), **declared).reason is Reason.BID
    whole = a_request(regs={"gdpr": 1}, user={"consent": tc()})
    assert decision(whole, a_campaign(**capped), **declared).reason is Reason.BID


@pytest.mark.rule("P-16")
@pytest.mark.parametrize("user", [None, User(tags={1019: 80})])
@pytest.mark.parametrize("train", [True, False])
def test_a_logged_vector_holds_nothing_of_a_user_who_may_not_train(user: User | None, train: bool) -> None:
    seen = Features(([1.0] * N_REQUEST, [], []), [2.0] * N_CAMPAIGN, [3.0] * N_PAIR, 0)
    offer = Offer(0, 0, 1_000_000, 1_000_000, 2_000_000, 0, "USD", 1, "", 0.01, seen)
    request = a_request()
    found = Decision(((offer,),), Reason.BID, (Reason.BID,), (None,))
    call = a_call(request, a_snapshot(a_campaign()), user, PrivacyDecision(train=train))
    logged = logged_bid(bid_record(b"b", call, found, offer, "", KeyRing(bytes(32))))
    blank = [
        column for column, value in enumerate(struct.unpack(f"<{len(FEATURES)}d", logged.vector)) if math.isnan(value)
    ]
    kept = user if train else None
    assert blank == ([] if kept is not None else list(USER_COLUMNS))
    assert logged.user == kept
    assert not any(math.isnan(value) for value in offer.row), "the offer itself is unchanged"
