import pytest

from dmp.acts import MAX_QUERY_CHARS, SUBJECTS, keyword_tags, understanding
from dmp.decisions import Decision
from dmp.events import CONSENT_ALL, CONSENT_MEASURE, Cart, Conversion, Crm, Install, Purchase, Search, View
from dmp.realtime import CART, OTHER, PURCHASE, SEARCH, VIEW
from dmp.taxonomy import BY_ID, TAGS, find, tag_id, tag_name
from tests.dmp.factories import act

UNDERSTAND = understanding({})


def understood(kind=View, **fields):
    return UNDERSTAND(act(1, kind, **fields))


@pytest.mark.parametrize(
    ("kind", "fields", "counted", "weight"),
    [
        (View, {}, VIEW, 1.0),
        (View, {"dwell_ms": 30_000}, VIEW, 1.5),
        (View, {"dwell_ms": 120_000}, VIEW, 3.0),
        (View, {"dwell_ms": 10**9}, VIEW, 3.0),
        (View, {"dwell_ms": -5}, VIEW, 1.0),
        (Search, {}, SEARCH, 3.0),
        (Cart, {}, CART, 5.0),
        (Purchase, {"value_micros": 7}, PURCHASE, 8.0),
        (Install, {}, OTHER, 1.0),
        (Conversion, {"value_micros": 7}, OTHER, 1.0),
    ],
)
def test_kinds_weigh_as_they_should(kind, fields, counted, weight):
    found = understood(kind, **fields)
    assert (found.kind, found.weight) == (counted, weight)
    assert found.spent_micros == (7 if kind is Purchase else 0)


@pytest.mark.rule("P-16")
@pytest.mark.parametrize(("consent", "counts"), [(CONSENT_ALL, True), (CONSENT_MEASURE, False), (0, False)])
def test_an_event_without_consent_to_build_profiles_does_nothing(consent, counts):
    assert (understood(consent=consent, category="Travel") is not None) is counts


def test_a_customer_record_tells_nothing_about_now():
    assert understood(Crm) is None


def test_the_tag_above_gets_half():
    name, above = "interest.finance.cards", "interest.finance"
    found = understood(category=name).subject
    assert found.tag == tag_id(name)
    assert found.shares == ((tag_id(name), 1.0), (tag_id(above), 0.5))
    assert understood(category=above).subject.shares == ((tag_id(above), 1.0),), "the root is no interest"


@pytest.mark.parametrize("category", ["", "no such thing", "demographic.gender.male", "channel.email", "rfm.recency.5"])
def test_what_is_no_interest_weighs_on_no_tag(category):
    assert understood(category=category).subject == (0, (), ())


def test_nothing_sensitive_is_inferred():
    for tag in TAGS:
        if tag.sensitive:
            assert understood(category=tag.name).subject.shares == ()
            assert understood(Search, query=f"buy {tag.label_en} {tag.label_zh}").subject.tag != tag.id
    assert not any(BY_ID[tag].sensitive for tag in SUBJECTS)


def test_peoples_decisions_on_labels_hold():
    decided = {
        "zorbing": Decision(1, 0, "eve", "accept", "zorbing", "interest.sports"),
        "travel": Decision(2, 0, "eve", "reject", "travel", ""),
    }
    understand = understanding(decided)
    assert understand(act(1, category="Zorbing")).subject.tag == tag_id("interest.sports")
    assert understand(act(1, category="Travel")).subject.tag == 0


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("cheap travel insurance", ["interest.travel", "interest.finance"]),
        ("CREDIT-CARD for students", ["interest.finance.cards"]),
        ("我想去旅游", ["interest.travel"]),
        ("travel, Travel; travel", ["interest.travel"]),
        ("how do i get there", []),
        ("!!! ??", []),
    ],
)
def test_a_query_names_tags_by_its_longest_words(query, tags):
    assert [tag_name(tag) for tag in keyword_tags(query, lambda label: find(label) or 0)] == tags
    found = understood(Search, query=query).subject
    assert [tag_name(tag) for tag in found.keywords] == tags
    assert found.tag == (tag_id(tags[0]) if tags else 0)


def test_a_category_goes_before_the_words_and_is_not_counted_twice():
    found = understood(Search, query="travel", category="Travel").subject
    assert found == (tag_id("interest.travel"), ((tag_id("interest.travel"), 1.0),), (tag_id("interest.travel"),))


def test_a_query_of_any_length_costs_little():
    assert understood(Search, query="x " * MAX_QUERY_CHARS + "travel").subject.keywords == ()
    assert len(understood(Search, query="travel music sports fashion").subject.keywords) == 3
