"""Decoding TC strings: against the IAB library's own reading, by hand, and on damaged input."""

import json
import random
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp.tcf import PublisherTc, TcfConsent, decode, purpose_set

VECTORS = [json.loads(line) for line in (Path(__file__).parents[1] / "cases/consent/tcf.jsonl").open()]
WHOLE = [case["text"] for case in VECTORS if case["want"] is not None]
WEB_SAFE = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
HEAD = f"{2:06b}" + "0" * 207  # version 2 and every field up to the vendor sections zero
NOBODY = f"{0:016b}0"


def text(*segments: str) -> str:
    """Web-safe base64 of bit strings, each padded with zeros to 24 bits."""
    return ".".join(
        "".join(WEB_SAFE[int(bits[i : i + 6], 2)] for i in range(0, len(bits), 6))
        for bits in (bits + "0" * (-len(bits) % 24) for bits in segments)
    )


def core(consents: str = NOBODY, interests: str = NOBODY, restrictions: str = f"{0:012b}") -> str:
    return HEAD + consents + interests + restrictions


def ranges(*entries: tuple[int, int], largest: int = 1000) -> str:
    return f"{largest:016b}1" + entries_of(*entries)


def entries_of(*entries: tuple[int, int]) -> str:
    each = (f"0{first:016b}" if first == last else f"1{first:016b}{last:016b}" for first, last in entries)
    return f"{len(entries):012b}" + "".join(each)


def as_bits(ids: list[int], width: int) -> int:
    return sum(1 << (width - each) for each in ids)


def expected(want: dict, vendor: list) -> TcfConsent:
    _, consent, interest, disclosed, allowed, restrictions = vendor
    by_type = [purpose_set(purpose for purpose, kind in restrictions if kind == wanted) for wanted in range(3)]
    publisher = None
    if want["publisher"] is not None:
        consents, interests, custom, own, own_li = want["publisher"]
        publisher = PublisherTc(
            as_bits(consents, 24), as_bits(interests, 24), custom, as_bits(own, custom), as_bits(own_li, custom)
        )
    return TcfConsent(
        created_us=want["created_ms"] * 1000,
        updated_us=want["updated_ms"] * 1000,
        cmp_id=want["cmp"][0],
        cmp_version=want["cmp"][1],
        consent_screen=want["cmp"][2],
        consent_language=want["language"],
        vendor_list_version=want["list"],
        policy_version=want["policy"],
        is_service_specific=want["specific"],
        use_non_standard_texts=want["texts"],
        special_feature_opt_ins=as_bits(want["features"], 12),
        purpose_consents=as_bits(want["consent"], 24),
        purpose_legitimate_interests=as_bits(want["li"], 24),
        purpose_one_treatment=want["p1t"],
        publisher_cc=want["cc"],
        vendor_consent=consent,
        vendor_legitimate_interest=interest,
        not_allowed=by_type[0],
        require_consent=by_type[1],
        require_li=by_type[2],
        disclosed=disclosed,
        allowed=allowed,
        publisher=publisher,
    )


@pytest.mark.rule("T-01")
def test_every_string_reads_as_the_iab_library_reads_it():
    for case in VECTORS:
        if case["want"] is None:
            assert decode(case["text"], 1) is None, case["seed"]
            continue
        for vendor in case["want"]["vendors"]:
            assert decode(case["text"], vendor[0]) == expected(case["want"], vendor), (case["seed"], vendor[0])


@pytest.mark.rule("T-01")
def test_the_vectors_hold_restrictions_both_encodings_all_segments_and_truncations():
    wanted = [case["want"] for case in VECTORS if case["want"]]
    assert len(VECTORS) >= 400
    assert sum(any(vendor[5] for vendor in want["vendors"]) for want in wanted) >= 50
    assert {kind for want in wanted for vendor in want["vendors"] for _, kind in vendor[5]} == {0, 1, 2}
    for place in (3, 4):
        assert {want["vendors"][0][place] is None for want in wanted} == {True, False}
    assert {want["publisher"] is None for want in wanted} == {True, False}
    assert sum(case.get("cut", False) for case in VECTORS) >= 100


def test_a_single_entry_a_range_and_a_bit_field_name_the_same_vendors():
    listed = {
        "ranges": ranges((3, 3), (7, 9), largest=10),
        "bit field": f"{10:016b}0" + "0010001110",
    }
    for consents in listed.values():
        got = [vendor for vendor in range(1, 15) if decode(text(core(consents)), vendor).vendor_consent]
        assert got == [3, 7, 8, 9]


def test_the_vendor_after_the_last_of_a_bit_field_does_not_get_the_next_fields_bit():
    bits = core(f"{3:016b}0" + "111", ranges((9, 9), largest=65535))
    assert [decode(text(bits), vendor).vendor_consent for vendor in (3, 4, 5)] == [True, False, False]


def test_restrictions_are_read_for_our_vendor_only_and_the_reserved_type_forbids():
    two = f"{3:012b}{2:06b}{1:02b}" + entries_of((5, 6)) + f"{7:06b}{2:02b}" + entries_of((6, 6))
    bits = core(restrictions=two + f"{9:06b}{3:02b}" + entries_of((6, 8)))
    five, six, nine = (decode(text(bits), vendor) for vendor in (5, 6, 9))
    assert (five.not_allowed, five.require_consent, five.require_li) == (0, purpose_set([2]), 0)
    assert (six.not_allowed, six.require_consent, six.require_li) == tuple(purpose_set([p]) for p in (9, 2, 7))
    assert (nine.not_allowed, nine.require_consent, nine.require_li) == (0, 0, 0)


@pytest.mark.parametrize("purpose", [0, 25, 63])
def test_a_restriction_of_a_purpose_outside_the_24_changes_nothing(purpose):
    bits = core(restrictions=f"{1:012b}{purpose:06b}{0:02b}" + entries_of((5, 5)))
    assert decode(text(bits), 5).not_allowed == 0


DISCLOSED_5 = f"{1:03b}{5:016b}0" + "00001"


@pytest.mark.rule("P-04")
@pytest.mark.parametrize(
    "unusable",
    {
        "empty": "",
        "only a dot": ".",
        "empty last segment": text(core()) + ".",
        "empty core": "." + text(core()),
        "not base64": "C!" + text(core())[2:],
        "standard alphabet": "C+" + text(core())[2:],
        "padded": text(core()) + "=",
        "space": text(core()) + " ",
        "newline": text(core()) + "\n",
        "not ascii": text(core()) + "é",
        "lone surrogate": text(core()) + "\ud800",
        "too long": text(core(restrictions="0" * 12 + "0" * 8192 * 6)),
        "version 1": "B" + text(core())[1:],
        "version 3": "D" + text(core())[1:],
        "core cut before vendors": text(core())[:30],
        "core cut in vendors": text(core())[:37],
        "bit field cut": text(HEAD + f"{500:016b}0" + "1" * 20),
        "range cut": text(HEAD + f"{500:016b}1" + f"{2:012b}" + f"0{1:016b}"),
        "range runs backwards": text(core(ranges((9, 8)))),
        "range starts at 0": text(core(ranges((0, 8)))),
        "single vendor 0": text(core(ranges((0, 0)))),
        "range passes the largest id": text(core(ranges((8, 11), largest=10))),
        "bits in the padding": text(core() + "1"),
        "segment type 0": text(core(), "000" + "0" * 30),
        "segment type 4": text(core(), "100" + "0" * 30),
        "segment twice": text(core(), DISCLOSED_5, DISCLOSED_5),
        "disclosed first": text(DISCLOSED_5, core()),
        "publisher cut": text(core(), f"{3:03b}" + "0" * 48 + f"{60:06b}"),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_malformed_string_is_unusable(unusable):
    assert decode(unusable[1], 5) is None


@pytest.mark.parametrize("vendor", [-1, 0, 65536])
def test_a_vendor_id_that_cannot_exist_finds_nothing_usable(vendor):
    assert decode(text(core()), vendor) is None


@pytest.mark.parametrize("more", [0, 1, 4, 8])
def test_zero_padding_of_any_length_is_accepted(more):
    assert decode(text(core()) + "A" * more, 5) is not None


def damaged(rng: random.Random, original: str) -> str:
    letters = list(original)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(letters) + 1)
        match rng.randrange(5):
            case 0:
                letters[place:] = letters[place:][: rng.randint(0, 40)]
            case 1:
                letters[place : place + 1] = rng.choice(WEB_SAFE + "._~=+ é")
            case 2:
                letters.insert(place, rng.choice(WEB_SAFE + "."))
            case 3:
                del letters[place : place + rng.randint(1, 9)]
            case 4:
                letters[place:place] = rng.choice(WHOLE)[: rng.randint(0, 60)]
    return "".join(letters)


@pytest.mark.rule("T-02")
def test_20_000_damaged_strings_are_read_or_refused_and_never_raise():
    rng = random.Random(20_240_301)
    read = sum(
        decode(damaged(rng, rng.choice(WHOLE)), rng.choice([1, 5, 755, 65535])) is not None for _ in range(20_000)
    )
    assert 0 < read < 20_000  # both ways out were taken


@pytest.mark.rule("P-04")
@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=400), st.text(alphabet=WEB_SAFE + ".", max_size=400).map("C".__add__)))
def test_no_text_at_all_raises(anything):
    decoded = decode(anything, 5)
    assert decoded is None or isinstance(decoded, TcfConsent)


@pytest.mark.rule("P-04")
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_a_string_cut_anywhere_reads_the_same_or_not_at_all(whole, data):
    """Only padding and whole segments may go missing; what the core says can then not have changed."""
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    shorter, longer = decode(cut, 5), decode(whole, 5)
    if shorter is not None:
        assert shorter.purpose_consents == longer.purpose_consents
        assert shorter.vendor_consent == longer.vendor_consent
        assert shorter.require_consent == longer.require_consent
        assert shorter.disclosed in (longer.disclosed, None)
