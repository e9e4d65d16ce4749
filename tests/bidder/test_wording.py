"""What a page says of itself: words for the rules of campaigns, standard tags for the models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import wording
from bidder.openrtb_media import Video, placement_of
from bidder.view import context, view
from bidder.wording import keywords, searched, topics, topics_of
from dmp.taxonomy import TAGS, tag_id
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request, a_snapshot, decision

TRAVEL, SPORTS = tag_id("interest.travel"), tag_id("interest.sports")


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ({"site": {"keywords": "Travel, hotels"}}, (TRAVEL,)),
        ({"site": {"page": "https://news.example/sports/2?x=travel"}}, (SPORTS, TRAVEL)),
        ({"site": {"content": {"title": "Sports of the week", "keywords": "travel", "series": "sports"}}}, None),
        ({"site": {"keywords": "旅游"}}, (TRAVEL,)),
        ({"site": {"kwarray": ["TRAVEL"]}}, (TRAVEL,)),
        ({"site": None, "app": {"keywords": "travel"}}, (TRAVEL,)),
        ({"site": None, "dooh": {"keywords": "travel"}}, (TRAVEL,)),
        ({"site": {"search": "travel"}}, ()),
        ({"site": {"domain": "travel.example"}}, ()),
        ({"site": None}, ()),
    ],
)
def test_a_page_names_topics_by_its_keywords_its_content_and_its_address(page, found):
    got = topics(a_request(**page))
    assert set(got) == ({SPORTS, TRAVEL} if found is None else set(found))


def test_what_is_named_more_often_comes_first():
    often = topics_of(["sports", "football", "travel"])
    assert often.index(SPORTS) < often.index(TRAVEL)
    assert topics_of([]) == ()


def test_search_terms_name_their_own_topics():
    request = a_request(site={"search": "cheap Travel", "keywords": "sports"})
    assert searched(request) == (TRAVEL,)
    assert topics(request) == (SPORTS,)
    assert {"travel", "cheap travel", "sports"} <= keywords(request)


@pytest.mark.rule("P-21")
def test_what_is_sensitive_is_no_topic_of_a_page():
    sensitive = [tag for tag in TAGS if tag.sensitive]
    assert sensitive
    assert not [tag for tag in sensitive if tag.id in topics_of([tag.label_en.lower(), tag.label_zh])]


@given(st.lists(st.text(max_size=30), max_size=20))
def test_no_words_break_it(words):
    assert len(topics_of(words)) <= len(words)


def test_long_pages_are_read_and_not_remembered():
    long = a_request(site={"keywords": "travel," + "x" * 5_000})
    assert topics(long) == topics(long) == (TRAVEL,)
    assert "travel" in keywords(long)
    before = wording._remembered_words.cache_info().currsize
    keywords(a_request(site={"keywords": "ski," + "y" * 5_000}))
    assert wording._remembered_words.cache_info().currsize == before


def test_models_see_what_the_page_says_and_where_the_device_is():
    shop = {"lat": 48.14, "lon": 11.58, "km": 3}
    near = a_campaign(id="near", targeting={"radius": [shop], "countries": ["USA"]})
    request = a_request(
        imp={"metric": [{"type": "viewability", "value": 0.8}, {"type": "viewability", "value": 0.6}], "rwdd": 1},
        site={"keywords": "travel", "search": "sports", "content": {"cat": ["IAB1-5"]}},
        device={"geo": {"country": "USA", "lat": 48.141, "lon": 11.581}},
    )
    (seen,) = decision(request, near).contexts
    assert seen is not None
    assert (seen.topics, seen.searched, seen.content_category) == ((TRAVEL,), (SPORTS,), "IAB1-5")
    assert (seen.viewability, seen.rewarded) == (0.6, 1)
    assert seen.fences == tuple(a_snapshot(near).ads[0].fences)
    far = a_request(device={"geo": {"country": "USA", "lat": 40.0, "lon": -74.0}})
    (seen,) = decision(far, near).contexts
    assert seen is not None
    assert (seen.fences, seen.topics, seen.viewability) == ((), (), -1.0)


@pytest.mark.parametrize("value", [75, -1, None, 1.01])
def test_a_viewability_that_is_no_share_is_unknown(value):
    request = a_request(imp={"metric": [{"type": "viewability", "value": value}]})
    assert context(view(request, None, NOW_US, EXCHANGE, "x"), request.imp[0], 0).viewability == -1.0


@pytest.mark.parametrize(
    ("told", "place"),
    [({"plcmt": 2}, 2), ({"placement": 3}, 4), ({"placement": 5}, 3), ({"plcmt": 1, "placement": 5}, 1), ({}, 0)],
)
def test_the_placement_of_a_video_is_read_in_either_numbering(told, place):
    assert placement_of(Video(**told)) == place


def test_many_empty_words_are_not_remembered():
    request = a_request(site={"kwarray": [""] * 50_000})
    before = wording._remembered_words.cache_info().currsize, wording._remembered_topics.cache_info().currsize
    assert (wording.keywords(request), wording.topics(request)) == (frozenset(), ())
    assert (wording._remembered_words.cache_info().currsize, wording._remembered_topics.cache_info().currsize) == before
