"""Decoding GPP strings: against the IAB library's own reading, by hand, and on damaged input."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidder.gpp import GppSignals, decode, split
from bidder.gpp_sections import LAYOUTS, UsSection, decode_us
from dmp import tcf
from dmp.consent_bits import Malformed
from dmp.us_privacy import us_privacy_opted_out
from tests.bidder.consent_strings import WEB_SAFE, header, letters, us

VECTORS = [json.loads(line) for line in (Path(__file__).parents[1] / "cases/consent/gpp.jsonl").open()]
WHOLE = [case["text"] for case in VECTORS if case["want"] is not None and "~" in case["text"]]
TC = "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA"


def signals(section: int, **answers: int) -> GppSignals | None:
    return decode(f"{header(section)}~{us(section, **answers)}", (section,))


def fields(said: UsSection) -> dict:
    """A section in the library's words."""
    named = {
        "SaleOptOut": said.sale,
        "SharingOptOut": said.sharing,
        "TargetedAdvertisingOptOut": said.targeted,
        "SensitiveDataProcessing": list(said.sensitive) or None,
        "KnownChildSensitiveDataConsents": list(said.children) or None,
        "Gpc": said.gpc,
    }
    return {name: value for name, value in named.items() if value is not None}


def wanted_fields(want: dict) -> dict:
    return {name: value for name, value in want.items() if value not in (None, []) and name != "Version"}


@pytest.mark.rule("T-01")
def test_every_whole_string_reads_as_the_iab_library_reads_it():
    for case in VECTORS:
        if case.get("cut"):
            continue
        texts = split(case["text"])
        assert {str(section) for section in texts} == set(case["want"]), case["seed"]
        for section, text in texts.items():
            want = case["want"][str(section)]
            if section <= 6:
                assert text == want["raw"]
            else:
                assert fields(decode_us(section, text)) == wanted_fields(want), (case["seed"], section)


@pytest.mark.rule("T-01")
def test_the_signals_of_every_whole_string_follow_from_the_librarys_fields():
    checked = 0
    for case in VECTORS:
        if case.get("cut"):
            continue
        sections = {int(section): want for section, want in case["want"].items() if section != "5"}
        fields = [want for section, want in sections.items() if section >= 7]
        opted_out = any(
            want["Gpc"]
            or 1 in (want.get("SaleOptOut"), want.get("SharingOptOut"), want.get("TargetedAdvertisingOptOut"))
            for want in fields
        )
        if 6 in sections and sections[6]["raw"] != "1---":
            opted_out |= sections[6]["sale"] != "N"
        assert decode(case["text"], tuple(sections)) == GppSignals(
            sections=tuple(sections),
            tcf=sections[2]["raw"] if 2 in sections else None,
            opted_out=opted_out,
            known_child=any(any(want.get("KnownChildSensitiveDataConsents", [])) for want in fields),
            sensitive_limited=any(1 in want.get("SensitiveDataProcessing", []) for want in fields),
        ), case["seed"]
        checked += 1
    assert checked >= 300


@pytest.mark.rule("T-01")
def test_a_tc_string_inside_gpp_reads_as_the_gpp_library_reads_it():
    checked = 0
    for case in VECTORS:
        for vendor, consent, interest, disclosed in (case["want"] or {}).get("2", {}).get("vendors", []):
            said = tcf.decode(split(case["text"])[2], vendor)
            assert (said.vendor_consent, said.vendor_legitimate_interest, said.disclosed) == (
                consent,
                interest,
                disclosed,
            )
            checked += 1
    assert checked >= 100


@pytest.mark.rule("T-01")
def test_a_truncated_string_is_refused_where_the_library_refuses_it_and_else_reads_the_same_or_not_at_all():
    same = 0
    for case in VECTORS:
        if not case.get("cut"):
            continue
        try:
            texts = split(case["text"])
        except Malformed:
            continue
        if case["want"] is None:
            assert decode(case["text"], tuple(section for section in texts if section != 5)) is None, case["seed"]
            continue
        for section, text in texts.items():
            if section <= 6:
                assert text == case["want"][str(section)]["raw"]
                continue
            try:
                said = decode_us(section, text)
            except Malformed:
                continue
            assert fields(said) == wanted_fields(case["want"][str(section)]), (case["seed"], section)
            same += 1
    assert same > 0


@pytest.mark.rule("T-01")
def test_the_vectors_hold_every_section_both_national_versions_and_truncations():
    wanted = [case["want"] for case in VECTORS if case["want"]]
    for section in (2, 5, 6, *LAYOUTS):
        assert sum(str(section) in want for want in wanted) >= 15, section
    assert {want["7"]["Version"] for want in wanted if "7" in want} == {1, 2}
    assert sum(case.get("cut", False) for case in VECTORS) >= 100


@pytest.mark.rule("P-21")
@pytest.mark.parametrize(
    ("text", "sections"),
    [
        (f"DBABM~{TC}", {2: TC}),
        (f"DBABMA~{TC}", {2: TC}),
        (f"DBACNY~{TC}~1YNN", {2: TC, 6: "1YNN"}),
        (f"DBACNYA~{TC}~1YNN", {2: TC, 6: "1YNN"}),
        (f"DBABjw~{TC}~1YNN", {5: TC, 6: "1YNN"}),
        ("DBAA", {}),
    ],
)
def test_the_specifications_own_headers_are_read(text, sections):
    assert split(text) == sections


def test_only_the_sections_that_apply_are_read():
    text = f"DBACNYA~{TC}~1YYN"
    assert decode(text, (2,)) == GppSignals(sections=(2,), tcf=TC)
    assert decode(text, (6,)) == GppSignals(sections=(6,), opted_out=True)
    assert decode(text, (2, 6)) == GppSignals(sections=(2, 6), tcf=TC, opted_out=True)
    assert decode(text, ()) == GppSignals()
    assert decode(text, (-1,)) == GppSignals()


@pytest.mark.rule("P-04")
@pytest.mark.parametrize(
    ("text", "sid"),
    [
        ("", (7,)),
        ("", ()),
        ("", (-1,)),
        (TC, (2,)),
        ("DBABM", (2,)),
        (f"DBABM~{TC}~{TC}", (2,)),
        ("DBABM~", (2,)),
        (f"DBABM~{TC}", (7,)),
        (f"DBABM~{TC}", (0,)),
        (f"DBABM~{TC}", (2, -1)),
        (f"DBABjw~{TC}~1YNN", (5,)),
        (f"{header(28)}~BAAA", (28,)),
        (f"{header(3)}~DBAA", (3,)),
        (f"DBABM~{'A' * 8200}", (2,)),
        (f"DBABM~{TC}", (2,) * 33),
        (f"{letters(f'{3:06b}{2:06b}{1:012b}' + '0011')}~{TC}", (2,)),
        (f"{letters(f'{2:06b}{1:06b}{1:012b}' + '0011')}~{TC}", (2,)),
        (f"{letters(f'{3:06b}{1:06b}{1:012b}' + '0')}~{TC}", (2,)),
        (f"{letters(f'{3:06b}{1:06b}{1:012b}' + '0' + '0' * 30 + '11')}~{TC}", (2,)),
        (f"{letters(f'{3:06b}{1:06b}{1:012b}' + '111' + '0' * 18 + '11')}~{TC}", (1,)),
        (f"{letters(f'{3:06b}{1:06b}{4095:012b}')}~{TC}", (2,)),
        (f"DBABN~{TC}", (2,)),
        (f"DBAB+~{TC}", (2,)),
        ("DBABMé~" + TC, (2,)),
    ],
)
def test_an_unknown_missing_or_malformed_section_leaves_no_permission(text, sid):
    assert decode(text, sid) is None


@pytest.mark.rule("P-21")
@pytest.mark.parametrize("section", LAYOUTS)
@pytest.mark.parametrize("answer", [0, 1, 2])
def test_every_opt_out_a_section_has_counts_when_it_is_1(section, answer):
    for name in LAYOUTS[section].opt_outs:
        assert signals(section, **{name: answer}) == GppSignals((section,), opted_out=answer == 1)


@pytest.mark.rule("P-21")
@pytest.mark.parametrize("section", [section for section in LAYOUTS if LAYOUTS[section].children])
@pytest.mark.parametrize("answer", [0, 1, 2])
def test_any_known_child_answer_but_not_applicable_counts_consent_or_not(section, answer):
    assert signals(section, children=answer) == GppSignals((section,), known_child=answer != 0)


@pytest.mark.rule("P-21")
@pytest.mark.parametrize("section", [section for section in LAYOUTS if LAYOUTS[section].sensitive])
@pytest.mark.parametrize("answer", [0, 1, 2])
def test_one_refused_category_limits_sensitive_data(section, answer):
    assert signals(section, sensitive=answer) == GppSignals((section,), sensitive_limited=answer == 1)


@pytest.mark.rule("P-21")
@pytest.mark.parametrize("section", [section for section in LAYOUTS if LAYOUTS[section].second == "gpc"])
@pytest.mark.parametrize(("second", "opted_out"), [("YA", True), ("QA", False), ("Y", True)])
def test_global_privacy_control_in_the_section_is_an_opt_out(section, second, opted_out):
    text = f"{header(section)}~{us(section, second=second)}"
    assert decode(text, (section,)) == GppSignals((section,), opted_out=opted_out)


@pytest.mark.rule("P-21")
def test_the_shorter_national_core_of_version_1_is_read_at_both_paddings():
    answers = [0] * 6 + [2, 2, 2] + [0] * 11 + [1] + [0, 2] + [0] * 4
    bits = f"{1:06b}" + "".join(f"{answer:02b}" for answer in answers)
    assert len(bits) == 60
    for text in (letters(bits), letters(bits + "000000")):
        said = decode_us(7, text)
        assert (said.sensitive, said.children) == ((0,) * 11 + (1,), (0, 2))
        assert (said.sale, said.sharing, said.targeted) == (2, 2, 2)


@pytest.mark.rule("P-04")
@pytest.mark.parametrize("section", LAYOUTS)
@pytest.mark.parametrize(
    "change",
    {
        "cut": lambda text: text.split(".")[0][:-3],
        "empty": lambda text: "",
        "version 3": lambda text: "D" + text[1:],
        "version 0": lambda text: "A" + text[1:],
        "header subsection": lambda text: letters("011000") + "AAA." + text,
        "padding bits": lambda text: text.split(".")[0] + "B",
        "empty segment": lambda text: text.split(".")[0] + ".",
        "segment of no known type": lambda text: text.split(".")[0] + ".wA",
        "bits after the control": lambda text: text.split(".")[0] + ".YB",
        "third segment": lambda text: text.split(".")[0] + ".YA.YA",
        "not base64": lambda text: text[:2] + "*" + text[3:],
    }.items(),
    ids=lambda item: item[0] if isinstance(item, tuple) else str(item),
)
def test_a_malformed_us_section_leaves_no_permission(section, change):
    whole = us(section)
    assert decode(f"{header(section)}~{whole}", (section,)) is not None
    assert decode(f"{header(section)}~{change[1](whole)}", (section,)) is None


@pytest.mark.rule("P-04")
@pytest.mark.parametrize("name", ["sale", "targeted", "sensitive", "children", "after"])
def test_the_undefined_answer_3_leaves_no_permission(name):
    assert signals(22, **{name: 3}) is None


@pytest.mark.rule("P-20")
@pytest.mark.parametrize(
    ("text", "opted_out"),
    [
        ("1YNN", False),
        ("1YNY", False),
        ("1NN-", False),
        ("1-N-", False),
        ("1---", False),
        ("1YYN", True),
        ("1-Y-", True),
        ("1Y-N", True),
        ("1--N", True),
        ("1ynn", True),
        ("2YNN", True),
        ("1YN", True),
        ("1YNNN", True),
        ("1XNN", True),
        ("1YNX", True),
        ("", True),
    ],
)
def test_the_us_privacy_string_opts_out_by_its_third_character_or_by_being_malformed(text, opted_out):
    assert us_privacy_opted_out(text) is opted_out
    if text:
        assert decode(f"{header(6)}~{text}", (6,)) == GppSignals((6,), opted_out=opted_out)


def restrictive(said: GppSignals | None) -> tuple[bool, ...]:
    if said is None:
        return (True,) * 4
    return said.tcf is not None, said.opted_out, said.known_child, said.sensitive_limited


ANSWERS = st.fixed_dictionaries(
    dict.fromkeys(("sale", "sharing", "targeted", "sensitive", "children"), st.integers(0, 2))
)


@pytest.mark.rule("P-03")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(LAYOUTS)), ANSWERS, st.data())
def test_turning_any_answer_into_a_refusal_never_opens_anything(section, answers, data):
    name = data.draw(st.sampled_from(sorted(answers)))
    before = restrictive(signals(section, **answers))
    after = restrictive(signals(section, **(answers | {name: 1})))
    assert all(was <= now for was, now in zip(before, after, strict=True))


@pytest.mark.rule("P-03")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from([case for case in VECTORS if not case.get("cut")]), st.data())
def test_one_more_applying_section_never_opens_anything(case, data):
    ids = [int(section) for section in case["want"]]
    some = data.draw(st.lists(st.sampled_from(ids), unique=True)) if ids else []
    more = [*some, data.draw(st.sampled_from([*ids, 0, 1, 4, 28]))]
    before, after = restrictive(decode(case["text"], tuple(some))), restrictive(decode(case["text"], tuple(more)))
    assert all(was <= now for was, now in zip(before, after, strict=True))


@pytest.mark.rule("T-02")
def test_20_000_damaged_strings_are_read_or_refused_and_never_raise():
    rng = random.Random(20_260_301)
    read = 0
    for _ in range(20_000):
        text = list(rng.choice(WHOLE))
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(text) + 1)
            match rng.randrange(4):
                case 0:
                    text[place:] = text[place:][: rng.randint(0, 20)]
                case 1:
                    text[place : place + 1] = rng.choice(WEB_SAFE + "._~=+ é")
                case 2:
                    text.insert(place, rng.choice(WEB_SAFE + ".~"))
                case 3:
                    del text[place : place + rng.randint(1, 5)]
        read += decode("".join(text), tuple(rng.sample((2, 6, *LAYOUTS), rng.randint(0, 2)))) is not None
    assert 0 < read < 20_000  # both ways out were taken


@pytest.mark.rule("P-04")
@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=300), st.text(alphabet=WEB_SAFE + ".~", max_size=300).map("DBAB".__add__)),
    st.lists(st.integers(-5, 40), max_size=5).map(tuple),
)
def test_no_text_at_all_raises(anything, sid):
    said = decode(anything, sid)
    assert said is None or isinstance(said, GppSignals)
