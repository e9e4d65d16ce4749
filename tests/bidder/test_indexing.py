"""What is worked out for thousands of campaigns at once is what each campaign's rule says."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.bits import mask_from, mask_of
from bidder.campaigns import Campaign, parse
from bidder.hours import schedule_of
from bidder.indexing import related
from dmp.errors import ConfigError
from dmp.taxonomy import TAGS
from tests.bidder.factories import a_campaign

SCHEDULES = st.fixed_dictionaries(
    {
        "hours": st.lists(st.integers(0, 23), max_size=4, unique=True),
        "weekdays": st.lists(st.integers(0, 6), max_size=3, unique=True),
        "utc_offset_min": st.integers(-48, 56).map(lambda quarters: 15 * quarters),
    }
)


@given(st.lists(st.booleans(), max_size=70))
def test_flags_and_the_bits_that_are_set_are_the_same_set(flags: list[bool]) -> None:
    assert mask_from(np.array(flags, np.bool_)) == mask_of((i for i, on in enumerate(flags) if on), len(flags))


@given(st.lists(SCHEDULES, min_size=1, max_size=12))
def test_an_ad_runs_in_the_hours_of_its_days_on_the_users_clock_or_its_own(wanted: list[dict]) -> None:
    rows = [(a_campaign(targeting=rule), None) for rule in wanted]
    local, by_utc = schedule_of(rows, len(rows))
    assert (len(local), len(by_utc)) == (168, 672)
    for bit, rule in enumerate(wanted):

        def runs(hour: int, rule: dict = rule) -> bool:
            day_fits = not rule["weekdays"] or hour // 24 in rule["weekdays"]
            return day_fits and (not rule["hours"] or hour % 24 in rule["hours"])

        assert [bool(mask >> bit & 1) for mask in local] == [runs(hour) for hour in range(168)]
        minutes = [quarter * 15 + rule["utc_offset_min"] for quarter in range(672)]
        assert [bool(mask >> bit & 1) for mask in by_utc] == [runs(minute // 60 % 168) for minute in minutes]


def test_a_keyword_brings_every_name_of_its_tag() -> None:
    tag = next(tag for tag in TAGS if tag.kind == "score" and tag.aliases and tag.label_zh)
    names = {tag.label_en.lower(), tag.label_zh, tag.aliases[0].lower()}
    for name in names:
        assert names <= set(related([name.upper()]))


@given(st.lists(st.sampled_from(["travel", "Sports", "zq-unheard-of", "旅游", "cars"]), max_size=4))
def test_keywords_bring_what_each_of_them_brings(words: list[str]) -> None:
    assert set(related(words)) == {name for word in words for name in related([word])}
    assert related(["zq-unheard-of"]) == ["zq-unheard-of"]


TABLE = """
[[campaign]]
id = "{name}"
advertiser = "acme"
adomain = "acme.example"
goal = "cpm"
price_micros = {price}
daily_budget_micros = 1000
start = 2030-01-31T00:00:00Z
caps = [{{ limit = 2, window_s = 60 }}]
targeting = {{ countries = ["USA"], radius = [{{ lat = 1, lon = 2.5, km = 3 }}], tags = {{ "interest.travel" = 5 }} }}
creatives = [{{ id = "{name}-1", w = 300, h = 250, html = "x", landing_url = "https://acme.example/" }}]
"""


def test_what_a_wrong_campaign_says_does_not_depend_on_the_right_ones_around_it() -> None:
    good, bad = TABLE.format(name="good", price=5), TABLE.format(name="bad", price=-5)
    with pytest.raises(ConfigError) as alone:
        parse(bad, "f")
    with pytest.raises(ConfigError) as between:
        parse(good + bad + good.replace("good", "other"), "f")
    assert str(alone.value) == str(between.value)
    assert "bad: price_micros" in str(alone.value)


def test_a_campaign_is_read_as_its_fields_say() -> None:
    (read,) = parse(TABLE.format(name="good", price=5), "f").campaigns
    assert read.targeting.radius[0].lat == 1.0
    assert type(read.targeting.radius[0].lat) is float
    assert read.start is not None
    assert read.start.isoformat() == "2030-01-31T00:00:00+00:00"
    assert read.caps[0].limit == 2
    assert msgspec.convert(msgspec.to_builtins(read), Campaign) == read
