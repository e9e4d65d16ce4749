import random
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dmp import codec, detect, keys, realtime, rules, store, trends
from dmp.acts import understanding
from dmp.detect import Memory, kept_of, matched, remembered, triggers, watcher
from dmp.draft import Draft
from dmp.errors import ConfigError
from dmp.events import CONSENT_ALL, Behaviour, Cart, Purchase, Search, View
from dmp.realtime import MAX_RECENT, Parts, parts
from dmp.rules import Rules
from dmp.schema import Tag
from dmp.stream import Entry, Processor
from dmp.taxonomy import tag_id
from dmp.trends import Hot
from tests.dmp.factories import user

MIN = 60_000_000
# A Monday, 14:00 UTC, so far ahead that nothing in the store has expired.
NOON = int(datetime(2037, 9, 21, 14, tzinfo=ZoneInfo("UTC")).timestamp()) * 1_000_000
TRAVEL, INTENT = tag_id("interest.travel"), tag_id("intent.travel")
UNDERSTAND = understanding({})


def one_rule(when: str, lasts: str = "1 h", effect: str = 'raise = "intent.travel"', zone: str = "UTC") -> Rules:
    return rules.parse(
        f'zone = "{zone}"\n[[rule]]\nname = "r"\nwhen = """{when}"""\nfor = "{lasts}"\n{effect}\n', "test"
    )


def an_event(kind: Any, minute: float, category: str = "travel", **fields: Any) -> Any:
    said = {"event_id": f"{kind.__name__}{minute}{category}", **fields}
    return kind(uid=user(1), time_us=NOON + round(minute * MIN), consent=CONSENT_ALL, category=category, **said)


def after(*happened: Behaviour, rule: Rules, hot: Sequence[Hot] = (), at_once: int = 1) -> Parts:
    """The record when these have come in this order, `at_once` a turn, each turn judged as it came."""
    data, kept = None, kept_of(rule)
    for start in range(0, len(happened), at_once):
        draft = Draft(None if data is None else realtime.decode(data))
        moments = draft.moments
        for event in happened[start : start + at_once]:
            act = UNDERSTAND(event)
            assert act is not None
            draft.add(act)
            moments += matched(event, act, kept, hot)
        moments = remembered(moments, kept)
        tags, _ = triggers(rule, Memory(moments, draft.recent, kept), dict)
        draft.judge(moments, tags)
        data = draft.finish(bytes(8))
    assert data is not None
    return parts(realtime.decode(data))


def told(rule: Rules, record: Parts, **profile: int) -> int | None:
    """Minutes after NOON at which INTENT ends; None when it is not raised."""
    scores = {tag_id(f"interest.{name}"): n for name, n in profile.items()}
    tags, _ = triggers(rule, Memory(record.moments, record.recent, kept_of(rule)), lambda: scores)
    return (tags[INTENT] * 1_000_000 - NOON) // MIN if tags.get(INTENT) else None


def raised(rule: Rules, *happened: Behaviour, **profile: int) -> int | None:
    return told(rule, after(*happened, rule=rule), **profile)


TWICE = one_rule("searched interest.travel twice within 10 min and no purchase within 1 d")


@pytest.mark.parametrize(
    ("happened", "until"),
    [
        ([an_event(Search, 0)], None),
        ([an_event(Search, 0), an_event(Search, 9)], 9 + 60),
        ([an_event(Search, 0), an_event(Search, 10)], None),  # the window is 10 min: (0, 10]
        ([an_event(Search, 0), an_event(Search, 9, "fashion")], None),
        ([an_event(View, 0), an_event(Search, 9)], None),
        ([an_event(Search, 0), an_event(Purchase, 3), an_event(Search, 9)], None),
        ([an_event(Search, 0), an_event(Search, 9), an_event(Purchase, 20)], 9 + 60),
        ([an_event(Search, 0), an_event(Search, 5), an_event(Search, 14)], 14 + 60),
    ],
)
def test_searched_twice_and_bought_nothing(happened: list[Behaviour], until: int | None) -> None:
    assert raised(TWICE, *happened) == until


@pytest.mark.parametrize(
    ("when", "minute", "holds"),
    [
        ("weekday", 0, True),
        ("weekend", 0, False),
        ("mon 14-15h", 59.9, True),
        ("mon 14-15h", 60, False),
        ("tue", 0, False),
        ("22-24h", 8 * 60, True),
        ("weekday 22-24h and interest.beauty >= 50", 8 * 60, True),
        ("weekday 22-24h and interest.beauty >= 50", 0, False),
        ("interest.beauty > 60", 0, False),
        ("interest.beauty <= 60 and interest.pets < 1", 0, True),
        ("not (weekend or interest.beauty < 60)", 0, True),
    ],
)
def test_moments_and_scores(when: str, minute: float, holds: bool) -> None:
    assert (raised(one_rule(when), an_event(View, minute), beauty=60) is not None) is holds


def test_hours_are_of_the_rules_zone() -> None:
    shanghai = one_rule("mon 22-23h", zone="Asia/Shanghai")  # 14:00 UTC is 22:00 there
    assert raised(shanghai, an_event(View, 0)) is not None


def test_no_order_of_arrival_changes_what_is_raised() -> None:
    """A purchase that comes late withdraws what was raised too early, and a late search raises."""
    happened = [an_event(Search, 0), an_event(Purchase, 3), an_event(Search, 9)]
    assert INTENT in after(happened[0], happened[2], rule=TWICE).raised
    for order in ([0, 2, 1], [2, 0, 1], [1, 2, 0]):
        assert after(*(happened[i] for i in order), rule=TWICE).raised == {}


KINDS = st.sampled_from([View, Search, Cart, Purchase])
PLACES = st.sampled_from(["", "", "US-CA", "DE-BE"])
LONG = st.lists(st.tuples(KINDS, st.integers(0, 600), st.sampled_from(["travel", "fashion"]), PLACES), max_size=120)
RULES = [
    "acted interest.travel 3 times within 10 min and no purchase within 5 min or carted twice",
    "viewed interest.travel 12 times within 2 h and not carted within 1 h",
    "in region 'US-CA' and searched within 1 h or no act interest.fashion within 3 h",
    "no purchase within 1 d and viewed 3 times within 20 min",
]


def all_of(happened: list[tuple[Any, int, str, str]]) -> list[Behaviour]:
    return [
        an_event(kind, n, about, region=place, event_id=f"{i}") for i, (kind, n, about, place) in enumerate(happened)
    ]


@settings(deadline=None, max_examples=60)
@given(LONG.filter(bool), st.sampled_from(RULES), st.integers(1, 30), st.randoms())
def test_no_order_of_arrival_matters_however_many_events_there_are(
    happened: list[tuple[Any, int, str, str]], when: str, at_once: int, rng: random.Random
) -> None:
    rule, events = one_rule(when, lasts="12 h"), all_of(happened)
    expected = after(*events, rule=rule, at_once=len(events))
    rng.shuffle(events)
    found = after(*events, rule=rule, at_once=at_once)
    assert (found.raised, found.moments) == (expected.raised, expected.moments)
    assert len(realtime.encode(found)) <= realtime.MAX_BYTES


def by_definition(happened: list[tuple[Any, int, str, str]], holds_at: Any) -> int | None:
    """The last minute of an event at which a condition on all events up to then holds."""
    return max((minute for _, minute, _, _ in happened if holds_at(minute)), default=None)


@settings(deadline=None)
@given(st.lists(st.tuples(KINDS, st.integers(0, 90), st.sampled_from(["travel", "fashion"]), PLACES), max_size=8))
def test_while_nothing_is_forgotten_a_rule_says_what_all_events_say(happened: list[tuple[Any, int, str, str]]) -> None:
    def count(at: int, window: int, *kinds: Any) -> int:
        return sum(kind in kinds and about == "travel" and at - window < n <= at for kind, n, about, _ in happened)

    when = "viewed interest.travel twice within 30 min and no purchase interest.travel within 20 min"
    expected = by_definition(happened, lambda at: count(at, 30, View) >= 2 and not count(at, 20, Purchase))
    found = raised(one_rule(when, lasts="1 d"), *all_of(happened)) if happened else None
    assert found == (None if expected is None else expected + 24 * 60)


def test_what_is_forgotten_is_unknown_and_raises_nothing() -> None:
    """The eight latest purchases are remembered: whether there was one before them, nobody knows."""
    rule = one_rule("viewed and no purchase within 1 h", lasts="7 d")
    bought = [an_event(Purchase, 120 + n) for n in range(9)]
    assert raised(rule, an_event(View, 0), *bought[:7]) == 7 * 24 * 60
    assert raised(rule, an_event(View, 0), *bought) is None
    busy = one_rule("viewed 8 times within 10 h", lasts="7 d")
    assert raised(busy, *(an_event(View, n) for n in range(100))) == 99 + 7 * 24 * 60, "enough of it is known"


def test_rules_that_are_gone_leave_nothing_behind() -> None:
    record = after(an_event(Search, 0), an_event(Search, 1), rule=TWICE)
    assert len(record.moments) == 2
    assert remembered(record.moments, kept_of(one_rule("carted"))) == []


def test_what_was_raised_holds_for_its_time_however_much_happens_after() -> None:
    rule = one_rule("searched interest.travel twice within 10 min", lasts="7 d")
    busy = [an_event(View, 30 + minute, "fashion") for minute in range(3 * MAX_RECENT)]
    record = after(an_event(Search, 0), an_event(Search, 1), *busy, rule=rule)
    assert record.raised == {INTENT: (NOON + MIN) // 1_000_000 + 7 * 86_400}


def written(client: redis.Redis, watch: Any, *happened: Behaviour) -> Parts:
    """The stored record once a processor has applied these."""
    from dmp import events

    processor = Processor(client, UNDERSTAND, 3_600, watch)
    for n, event in enumerate(happened):
        entry = Entry(b"%d-0" % n, event.time_us // 1_000, [events.encode(event)])
        processor.apply([entry], event.time_us // 1_000_000)
        processor.apply([entry], event.time_us // 1_000_000, again=True)
    data: Any = client.get(keys.realtime(user(1)))
    return parts(realtime.decode(data))


def test_the_stream_raises_tags(client: redis.Redis) -> None:
    record = written(client, watcher(TWICE, client), an_event(Search, 0), an_event(Search, 9))
    assert record.raised == {INTENT: (NOON + 69 * MIN) // 1_000_000}


def test_the_stream_puts_users_into_audiences_for_the_stated_time(client: redis.Redis) -> None:
    rule = one_rule("carted", lasts="30 d", effect='audience = "acme/carts"')
    written(client, watcher(rule, client), an_event(Cart, 0))
    held: Any = client.get(keys.audiences(user(1)))
    assert codec.decode_audiences(held) == [(keys.number("acme/carts"), NOON // 1_000_000 + 30 * 86_400)]


def test_a_purchase_that_comes_late_takes_the_user_out_of_the_audience(client: redis.Redis) -> None:
    rule = one_rule("carted and no purchase within 1 d", lasts="30 d", effect='audience = "acme/carts"')
    watch = watcher(rule, client)
    written(client, watch, an_event(Cart, 0))
    written(client, watch, an_event(Purchase, -5))
    held: Any = client.get(keys.audiences(user(1)))
    assert codec.decode_audiences(held) == []


def test_a_region_is_remembered_for_a_day(client: redis.Redis) -> None:
    rule = one_rule("in region 'US-CA' and carted")
    watch = watcher(rule, client)
    record = written(client, watch, an_event(View, 0, region="US-CA"), an_event(Cart, 5))
    ends_s = (NOON + 65 * MIN) // 1_000_000
    assert record.raised == {INTENT: ends_s}
    assert written(client, watch, an_event(Cart, 26 * 60)).raised == {}


def test_the_long_term_score_is_the_live_generations(client: redis.Redis) -> None:
    client.set(keys.GENERATION, 2)
    client.set(keys.profile(user(1), 0), codec.encode_profile(2, [Tag(tag_id("interest.beauty"), 60, 20_000, 1)]))
    assert store.read_users(client, [user(1)], 1)[0].tags
    assert INTENT in written(client, watcher(one_rule("interest.beauty >= 60"), client), an_event(View, 0)).raised


def test_a_hot_topic_is_a_condition_while_it_is_hot(client: redis.Redis) -> None:
    trends.publish(client, [trends.Hot("travel", TRAVEL, 9.0, 90, 4.0, 80, NOON, NOON + 60 * MIN)], NOON)
    watch = watcher(one_rule("acted hot twice within 10 min"), client)
    cold = [an_event(View, 0, "fashion"), an_event(View, 1, "fashion"), an_event(View, 61), an_event(View, 62)]
    assert INTENT not in written(client, watch, *cold).raised
    assert (
        written(client, watch, an_event(View, 50), an_event(View, 51)).raised[INTENT] == (NOON + 111 * MIN) // 1_000_000
    )


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("", "found nothing more"),
        ("searched interest.travle", "did you mean interest.travel"),
        ("searched 'no such thing'", "no label of a standard tag"),
        ("searched twice within 10", "one of s, min, h, d"),
        ("searched 3 within 10 min", "expected `times`, found 'within' at character 12"),
        ("searched 25 times", "from 1 to 24"),
        ("searched within 15 d", "1 s to 14 d"),
        ("searched and", "expected a condition"),
        ("(searched", "expected `)`"),
        ("searched searched", "expected the end"),
        ("in paris", "expected `region`"),
        ("24-25h", "from 0 to 24"),
        ("weekday 24-22h", "the first before the second"),
        ("interest.travel >= 101", "a score from 0 to 100"),
        ("interest.travel 50", "one of >=, >, <=, <"),
        ("dance", "expected a condition"),
        ("searched %", "cannot read '%'"),
    ],
)
def test_an_error_says_what_is_wrong_and_where(when: str, says: str) -> None:
    with pytest.raises(ConfigError) as told:
        one_rule(when)
    assert says in str(told.value)
    assert "rule 'r'" in str(told.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[rule]]\nname = "a"\nwhen = "weekday"\nfor = "1 h"', "either what tag to raise, or which audience"),
        ('[[rule]]\nname = "a"\nwhen = "weekday"\nfor = "31 d"\nraise = "intent.travel"', "from 1 s to 30 d"),
        ('[[rule]]\nname = "a"\nwhen = "weekday"\nfor = "1 h"\naudience = "acme"', "is no name"),
        ('[[rule]]\nname = "a"\nwen = "weekday"\nfor = "1 h"', "wen"),
        ('zone = "Mars/Base"', "no IANA time zone"),
        ("[[rule", "Expected"),
        (
            2 * '[[rule]]\nname = "a"\nwhen = "weekday"\nfor = "1 h"\nraise = "intent.travel"\n',
            "two rules are named 'a'",
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as told:
        rules.parse(text, "rules.toml")
    assert says in str(told.value)


TEXT = "searched no purchase ( ) and or not 5 times within min weekday 22-24h interest.travel >= 'x' in region"


@given(st.text(max_size=60) | st.lists(st.sampled_from(TEXT.split(" "))).map(" ".join))
def test_any_text_is_a_condition_or_told_wrong(text: str) -> None:
    try:
        found = rules.condition(text)
    except (rules.BadRule, rules.taxonomy.UnknownTag):
        return
    assert detect.parts_of(found)


def test_the_command_checks_a_file(tmp_path: Path) -> None:
    from dmp.__main__ import app

    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nname = "a"\nwhen = "weekday"\nfor = "1 h"\nraise = "intent.travel"\n')
    ran = CliRunner().invoke(app, ["rules", "check", str(file), "--json"])
    assert ran.exit_code == 0, ran.output
    told = msgspec.json.decode(ran.stdout)
    assert told == {"rules": [{"name": "a", "raise": "intent.travel", "for_s": 3_600}], "zone": "UTC"}
    file.write_text(file.read_text().replace("weekday", "wekday"))
    assert CliRunner().invoke(app, ["rules", "check", str(file)]).exit_code != 0


def test_a_file_that_is_not_there_is_told_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write one with \[\[rule\]\] tables"):
        rules.load(tmp_path / "rules.toml")
