import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import keys, preference, realtime
from dmp.schema import DIMENSIONS, NOBODY, Contact, User
from dmp.taxonomy import INTERESTS, tag_id
from models import features as f
from models import pairs
from models.context import NAN, Ad, Context, decode_ad, decode_context, encode_ad, encode_context
from models.features import Vocabulary

HOUR = 500_000
NOW = HOUR * 3_600_000_000 + 12
TRAVEL, SPORTS = tag_id("interest.travel"), tag_id("interest.sports")
AD = Ad(
    "spring", "spring-300", "acme", "IAB20", interest=TRAVEL, target_tags=(TRAVEL, SPORTS), audiences=frozenset({7, 8})
)
CONTEXT = Context(
    exchange="adx", domain="a.example", category="IAB20-3", width=300, height=250, position=1, hour=9, weekday=0
)


def named(context=CONTEXT, user=NOBODY, ad=AD, now_us=NOW, vocabulary=None):
    return dict(zip(f.NAMES, f.row(vocabulary or Vocabulary({}), context, user, ad, now_us), strict=True))


def same(a, b):
    return np.array_equal(np.array(a), np.array(b), equal_nan=True)


def test_each_side_is_filled_by_its_own_function():
    assert len(f.FEATURES) >= 40
    assert f.N_PAIR >= 4
    assert [x.side for x in f.FEATURES] == ["request"] * f.N_REQUEST + ["campaign"] * f.N_CAMPAIGN + ["pair"] * f.N_PAIR
    vocabulary = Vocabulary({})
    assert len(f.request_values(vocabulary, CONTEXT, NOBODY, NOW)) == f.N_REQUEST
    assert len(f.request_values(vocabulary, CONTEXT, None, NOW)) == f.N_REQUEST
    assert len(f.campaign_values(vocabulary, AD)) == f.N_CAMPAIGN
    for user in (NOBODY, None):
        assert len(pairs.pair_values(AD, CONTEXT, user, NOW)) == f.N_PAIR


def test_without_a_user_every_user_feature_is_missing_and_no_other_changes():
    user = User({TRAVEL: 50, tag_id("rfm.recency.2"): 90}, frozenset({7}), (Contact(keys.number("spring"), HOUR, 2),))
    known, none = named(user=user), named(user=None)
    hidden = {f.NAMES[i] for i in f.USER_COLUMNS}
    assert all(math.isnan(none[name]) for name in hidden)
    assert all(same(known[name], none[name]) for name in f.NAMES if name not in hidden)


def test_a_user_nothing_is_known_of_is_not_a_missing_user():
    row = named(user=NOBODY)
    assert (row["user_tags"], row["user_audiences"], row["interest_score"], row["shown_7d"]) == (0, 0, 0, 0)
    assert math.isnan(row["hours_since_shown"])


def test_unknown_context_is_missing():
    row = named(context=Context())
    for name in ("site", "width", "height", "position", "hour", "weekday", "category_match", "device_type"):
        assert math.isnan(row[name]), name
    assert row["floor_micros"] == 0
    assert row["n_imps"] == 1


def test_a_category_the_training_rows_did_not_hold_often_enough_is_missing():
    rows = [(Context(domain="often.example"), None, AD, NOW)] * 5 + [
        (Context(domain="rare.example"), None, AD, NOW)
    ] * 4
    vocabulary = f.fit_vocabulary(rows)
    assert named(Context(domain="often.example"), vocabulary=vocabulary)["site"] == 0.0
    assert math.isnan(named(Context(domain="rare.example"), vocabulary=vocabulary)["site"])
    assert math.isnan(named(Context(domain="never.example"), vocabulary=vocabulary)["site"])


def test_codes_fall_with_frequency_and_survive_json():
    rows = [(Context(domain=d, device_type=4), None, AD, NOW) for d in "aabbbcc" * 5]
    vocabulary = f.fit_vocabulary(rows)
    assert vocabulary.values["site"] == ("b", "a", "c")
    again = Vocabulary(json.loads(json.dumps(vocabulary.jsonable())))
    assert again.values == vocabulary.values
    assert same(f.matrix(again, rows), f.matrix(vocabulary, rows))
    assert named(Context(device_type=4), vocabulary=again)["device_type"] == 0.0


def test_the_strongest_tag_of_a_group_counts():
    user = User({tag_id("demographic.gender.male"): 40, tag_id("demographic.gender.female"): 60,
                 tag_id("demographic.age.25_34"): 70, tag_id("demographic.age.35_44"): 30,
                 tag_id("rfm.recency.5"): 10, SPORTS: 80, TRAVEL: 20})  # fmt: skip
    vocabulary = Vocabulary({"user_interest": [TRAVEL, SPORTS]})
    row = named(user=user, vocabulary=vocabulary)
    assert (row["user_gender"], row["user_age"], row["user_recency"], row["user_interest"]) == (0.0, 1.0, 5.0, 1.0)
    assert math.isnan(row["user_frequency"])
    assert f.top_interest({INTERESTS[3]: 9, INTERESTS[1]: 9}) == INTERESTS[1]


def test_an_ad_meets_a_user_through_interest_targets_and_audiences():
    row = named(user=User({TRAVEL: 30, SPORTS: 50}, frozenset({8, 9})))
    assert (row["interest_score"], row["target_sum"], row["target_max"], row["in_audiences"]) == (30, 80, 50, 1)


@pytest.mark.parametrize(
    ("page", "ad", "match"),
    [("IAB20-3", "IAB20-3", 1), ("IAB20-3", "IAB20", 0.5), ("IAB2", "IAB20", 0), ("IAB1", "IAB2", 0)],
)
def test_page_and_ad_category_match_by_level(page, ad, match):
    assert named(context=Context(category=page), ad=Ad("c", "x", category=ad))["category_match"] == match


def test_contact_windows_count_the_hours_they_touch_of_this_campaign():
    mine, other = keys.number("spring"), keys.number("autumn")
    contacts = tuple(
        Contact(scope, HOUR - age, 1)
        for scope, age in [(mine, 3), (mine, 24), (mine, 25), (mine, 168), (mine, 169), (other, 0)]
    )
    row = named(user=User(contacts=contacts))
    assert (row["shown_24h"], row["shown_7d"], row["hours_since_shown"]) == (2, 4, 3)
    assert row["user_shown_24h"] == 3


scores = st.dictionaries(st.sampled_from(INTERESTS) | st.integers(1, 400), st.integers(0, 100), max_size=20)


@pytest.mark.parametrize(
    ("named_topics", "searched", "match"),
    [((), (), None), ((SPORTS,), (), 1.0), ((SPORTS,), (TRAVEL,), 2.0), ((101,), (), 0.0), ((), (SPORTS,), 2.0)],
)
def test_an_ad_meets_what_the_page_names_and_what_was_searched_for(named_topics, searched, match):
    found = named(context=Context(topics=named_topics, searched=searched), user=None)["topic_match"]
    assert math.isnan(found) if match is None else found == match


@pytest.mark.parametrize(("inside", "fences", "value"), [((5,), {5, 6}, 1.0), ((7,), {5, 6}, 0.0), ((), {5}, 0.0)])
def test_a_place_inside_a_fence_of_the_ad_is_seen(inside, fences, value):
    assert (
        named(context=Context(fences=inside), ad=Ad("c", "x", fences=frozenset(fences)), user=None)["in_fence"] == value
    )
    assert math.isnan(named(context=Context(fences=inside), user=None)["in_fence"])


def test_what_the_page_and_the_placement_say_are_features():
    told = Context(
        content_category="IAB1-5", topics=(TRAVEL, SPORTS), searched=(SPORTS,), viewability=0.7, rewarded=1, placement=3
    )
    codes = {
        "content_category": ["IAB1-5"], "page_topic": [SPORTS, TRAVEL], "search_topic": [TRAVEL, SPORTS],
        "placement": [1, 3],
    }  # fmt: skip
    row = named(context=told, vocabulary=Vocabulary(codes))
    assert [row[name] for name in codes] == [0.0, 1.0, 1.0, 1.0]
    assert (row["viewability"], row["rewarded"]) == (0.7, 1.0)
    nothing = named(context=Context(), vocabulary=Vocabulary(codes))
    assert all(math.isnan(nothing[name]) for name in (*codes, "viewability"))
    assert decode_context(encode_context(told)) == told


def test_contexts_and_ads_of_an_earlier_release_are_read():
    old = msgspec.msgpack.encode(msgspec.msgpack.decode(encode_context(CONTEXT))[:22])
    assert decode_context(old) == CONTEXT
    old_ad = msgspec.msgpack.encode(msgspec.msgpack.decode(encode_ad(AD))[:10])
    assert decode_ad(old_ad) == AD


@given(scores, st.text(max_size=4), st.integers(-1, 7), st.none() | st.integers(0, 30))
def test_a_matrix_row_is_what_the_bidder_computes_side_by_side(tags, domain, position, age):
    context = Context(domain=domain, position=position)
    contacts = () if age is None else (Contact(keys.number("spring"), HOUR - age, 1),)
    user = User(tags, frozenset({7}), contacts)
    vocabulary = Vocabulary({"site": ["a", "b"], "campaign": ["spring"]})
    sides = (
        f.request_values(vocabulary, context, user, NOW)
        + f.campaign_values(vocabulary, AD)
        + pairs.pair_values(AD, context, user, NOW)
    )
    assert same(f.matrix(vocabulary, [(context, user, AD, NOW)])[0], sides)


def test_a_context_survives_the_bid_log_and_older_bytes_still_read():
    assert decode_context(encode_context(CONTEXT)) == CONTEXT
    # Written by version 1: the first three fields, everything after them at its default.
    assert decode_context(b"\x93\xa3adx\xa9a.example\xa0") == Context(exchange="adx", domain="a.example")


def test_an_ad_survives_the_bid_log_and_older_bytes_still_read():
    assert decode_ad(encode_ad(AD)) == AD
    assert decode_ad(b"\x92\xa1c\xa1x") == Ad("c", "x")


def test_the_signature_of_version_three_stands():
    assert f.SIGNATURE == "8b298481f676e47f4a7936c130231982"


RATES = f.Rates(
    places={
        (): (0.01, 9.0),
        ("adx",): (0.02, 8.0),
        ("adx", "a.example"): (0.03, 7.0),
        ("adx", "a.example", "top"): (0.04, 6.0),
    },
    ads={(): (0.01, 9.0), ("acme", "spring", "spring-300"): (0.05, 3.0)},
)


def test_a_rate_is_that_of_the_longest_known_chain_and_counts_only_its_own_impressions():
    row = named(vocabulary=Vocabulary({}, RATES))
    assert (row["place_rate"], row["place_rows"]) == (0.03, 0.0)
    assert (row["ad_rate"], row["ad_rows"]) == (0.05, 3.0)
    placed = named(Context(exchange="adx", domain="a.example", tagid="top"), vocabulary=Vocabulary({}, RATES))
    assert (placed["place_rate"], placed["place_rows"]) == (0.04, 6.0)
    strange = named(Context(exchange="other"), ad=Ad("c", "x"), vocabulary=Vocabulary({}, RATES))
    assert (strange["place_rate"], strange["place_rows"], strange["ad_rate"]) == (0.01, 0.0, 0.01)
    before = named()
    assert math.isnan(before["place_rate"])
    assert before["place_rows"] == 0.0


def test_rates_survive_the_artefact():
    assert f.decode_rates(f.encode_rates(RATES)) == RATES
    assert f.decode_rates(f.encode_rates(f.Rates())) == f.Rates()


def test_placements_without_a_code_are_told_apart_by_a_hash():
    one, other = (named(Context(tagid=name))["place_hash"] for name in ("top", "bottom"))
    assert one != other
    assert {0 <= value < f.PLACE_HASHES for value in (one, other)} == {True}
    assert math.isnan(named(Context())["place_hash"])


def a_moment(**tables):
    """What a user did just now, as the stream would store it."""
    return realtime.decode(realtime.encode(realtime.Parts(**tables)))


def test_what_a_user_did_lately_is_seen_by_depth_gap_and_category():
    minute = 60_000_000
    now = a_moment(
        newest_us=NOW - 6 * minute,
        hours={HOUR: (3, 0, 1, 0, 0), HOUR - 24: (9, 0, 0, 0, 0)},
        recent=[
            realtime.Recent(NOW - 6 * minute, realtime.VIEW, 0),
            realtime.Recent(NOW - 9 * minute, realtime.CART, SPORTS),
            realtime.Recent(NOW - 99 * minute, realtime.VIEW, TRAVEL),
        ],
    )
    row = named(user=User(realtime=now), vocabulary=Vocabulary({"user_last_category": [TRAVEL, SPORTS]}))
    assert (row["user_depth"], row["user_gap_h"], row["user_acts_24h"]) == (2.0, 0.1, 4.0)
    assert row["user_last_category"] == 1.0
    nothing = named(user=NOBODY)
    assert (nothing["user_depth"], nothing["user_acts_24h"], nothing["now_interest"]) == (0, 0, 0)
    assert math.isnan(nothing["user_gap_h"])


def test_an_ad_meets_what_the_user_wants_now():
    # A search just now: weight 3 on each horizon, 9 together, which scores 50.
    sums = tuple(
        3 * math.exp((NOW - realtime.landmark_us(NOW, horizon)) / realtime.TAU_US[horizon]) for horizon in range(3)
    )
    now = a_moment(newest_us=NOW, sums={SPORTS: sums}, carts={TRAVEL: realtime.Basket(NOW, realtime.CART)})
    row = named(user=User(realtime=now))
    assert (row["now_interest"], row["now_target"], row["retargeted"]) == (0.0, 50.0, 1.0)
    other = named(user=User(realtime=now), ad=Ad("s", "s1", interest=SPORTS))
    assert (other["now_interest"], other["now_target"], other["retargeted"]) == (50.0, 0.0, 0.0)


def test_preference_is_the_cosine_of_user_and_ad():
    one, other = np.zeros(DIMENSIONS), np.zeros(DIMENSIONS)
    one[0] = 1
    other[:2] = math.sqrt(0.5)
    user = User(vector=preference.pack(one))
    liked = msgspec.structs.replace(AD, preference=preference.pack(other))
    # Stored as float16: three decimals.
    assert named(user=user, ad=liked)["preference"] == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert math.isnan(named(user=user)["preference"])
    assert math.isnan(named(user=NOBODY, ad=liked)["preference"])


CONTACTS = st.builds(
    Contact,
    scope=st.sampled_from([keys.number("spring"), keys.number("autumn"), 7]),
    hour=st.integers(HOUR - 200, HOUR + 1),
    count=st.integers(1, 5),
)


@given(
    st.lists(CONTACTS, max_size=8),
    st.dictionaries(st.sampled_from([TRAVEL, SPORTS, 1]), st.integers(0, 100)),
    st.sampled_from(["", "IAB20", "IAB20-3", "IAB9"]),
)
def test_the_pair_features_of_each_candidate_are_what_they_say(contacts, tags, category):
    ads = (AD, Ad("autumn", "autumn-300", category="IAB9", interest=SPORTS), Ad("never", "never-300"))
    context = Context(category=category)
    user = User(tags, frozenset({8, 9}), tuple(contacts))

    def rows_of(user: User | None) -> list[list[float]]:
        columns = pairs.pair_columns(pairs.columns_of(ads), [*range(len(ads))], context, user, NOW)
        return [pairs.row_of(columns, i) for i in range(len(ads))]

    rows = rows_of(user)
    matches = {
        "spring": {"": NAN, "IAB20": 1.0, "IAB20-3": 0.5, "IAB9": 0.0},
        "autumn": {"": NAN, "IAB20": 0.0, "IAB20-3": 0.0, "IAB9": 1.0},
        "never": dict.fromkeys(["", "IAB20", "IAB20-3", "IAB9"], NAN),
    }
    for ad, row in zip(ads, rows, strict=True):
        own = [c for c in contacts if c.scope == keys.number(ad.campaign)]
        scores = [tags.get(tag, 0) for tag in ad.target_tags]
        assert same(
            row,
            [
                tags.get(ad.interest, 0),
                sum(scores),
                max(scores, default=0),
                1 if ad is AD else 0,
                sum(c.count for c in own if c.hour >= HOUR - 24),
                sum(c.count for c in own if c.hour >= HOUR - 168),
                HOUR - max(c.hour for c in own) if own else NAN,
                *(0, 0, 0, NAN),
                matches[ad.campaign][category],
                *(NAN, NAN),
            ],
        )
        assert same(row, pairs.pair_values(ad, context, user, NOW))
    assert all(same(row[:11] + row[12:], [NAN] * 13) for row in rows_of(None))


@given(st.dictionaries(st.sampled_from([*INTERESTS[:5], tag_id("rfm.recency.2")]), st.integers(0, 3)))
def test_the_top_interest_is_the_first_of_the_highest_score(tags):
    best = max((tags.get(interest, 0) for interest in INTERESTS), default=0)
    expected = next((interest for interest in INTERESTS if best and tags.get(interest, 0) == best), 0)
    assert f.top_interest(tags) == expected


def test_the_parts_of_a_request_are_all_its_features_once():
    parts = f.PLACE_COLUMNS + f.READER_COLUMNS + f.NOW_COLUMNS
    assert sorted(parts) == list(range(f.N_REQUEST))


WORDS = st.sampled_from(["", "a", "b"])
CONTEXTS = st.builds(
    Context,
    exchange=WORDS, domain=WORDS, bundle=WORDS, category=WORDS, tagid=WORDS, os=WORDS, city=WORDS, language=WORDS,
    width=st.sampled_from([0, 300]), position=st.sampled_from([-1, 1]), device_type=st.sampled_from([0, 4]),
    hour=st.sampled_from([-1, 3]), weekday=st.sampled_from([-1, 3]), floor_micros=st.sampled_from([0, 7]),
    n_imps=st.sampled_from([1, 2]), topics=st.sampled_from([(), (TRAVEL,), (SPORTS, TRAVEL)]),
    searched=st.sampled_from([(), (TRAVEL,)]), viewability=st.sampled_from([-1.0, 0.5]),
    rewarded=st.sampled_from([0, 1]),
    content_category=WORDS, placement=st.sampled_from([0, 1]),
)  # fmt: skip
KNOWN = Vocabulary({f.NAMES[i]: ["a", "b", 4, 1, TRAVEL, SPORTS] for i in f.CATEGORICAL})


@given(CONTEXTS, CONTEXTS)
def test_what_a_placement_and_a_reader_say_depends_on_their_keys_alone(one, other):
    for key, values, columns in (
        (f.place_of, f.place_values, f.PLACE_COLUMNS),
        (f.reader_of, f.reader_values, f.READER_COLUMNS),
    ):
        rows = [f.request_values(KNOWN, context, None, NOW) for context in (one, other)]
        for context, row in zip((one, other), rows, strict=True):
            assert same(values(KNOWN, key(context)), [row[column] for column in columns])
        if key(one) == key(other):
            assert same(*([row[column] for column in columns] for row in rows))
