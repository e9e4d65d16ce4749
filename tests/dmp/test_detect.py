import random
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
from dmp.detect import region_tag, triggers, watcher
from dmp.draft import Draft
from dmp.errors import ConfigError
from dmp.events import CONSENT_ALL, Behaviour, Cart, Purchase, Search, View
from dmp.realtime import MAX_RECENT, Parts, parts
from dmp.rules import Rules
from dmp.schema import Tag
from dmp.stream import Entry, Processor
from dmp.taxonomy import tag_id
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
    event_id = f"{kind.__name__}{minute}{category}"
    time_us = NOON + round(minute * MIN)
    return kind(event_id=event_id, uid=user(1), time_us=time_us, consent=CONSENT_ALL, category=category, **fields)


def after(*happened: Behaviour, before: Parts | None = None, rule: Rules | None = None) -> Parts:
    """The record when these have come in this order, each judged by the rule as it came."""
    data = realtime.encode(before) if before is not None else None
    for event in happened:
        draft = Draft(None if data is None else realtime.decode(data))
        act = UNDERSTAND(event)
        assert act is not None
        draft.add(act)
        if rule is not None:
            record = parts(realtime.decode(draft.finish(bytes(8))))
            for tag, until_s in triggers(rule, record, dict)[0].items():
                draft.raise_tag(tag, until_s)
        data = draft.finish(bytes(8))
    assert data is not None
    return parts(realtime.decode(data))


def raised(rule: Rules, *happened: Behaviour, **profile: int) -> int | None:
    """Minutes after NOON at which INTENT ends; None when it is not raised."""
    tags, _ = triggers(rule, after(*happened), lambda: {tag_id(f"interest.{name}"): n for name, n in profile.items()})
    return (tags[INTENT] * 1_000_000 - NOON) // MIN if tags.get(INTENT) else None


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


@settings(deadline=None)
@given(st.lists(st.tuples(KINDS, st.integers(0, 40)), min_size=1, max_size=MAX_RECENT, unique=True), st.randoms())
def test_any_order_of_the_remembered_events_raises_the_same(told: list[tuple[Any, int]], rng: random.Random) -> None:
    happened = [an_event(kind, minute) for kind, minute in told]
    rule = one_rule("acted interest.travel 3 times within 10 min and no purchase within 5 min or carted twice")
    expected = after(*happened, rule=rule).raised
    rng.shuffle(happened)
    assert after(*happened, rule=rule).raised == expected


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


def test_a_region_is_remembered_for_a_day(client: redis.Redis) -> None:
    rule = one_rule("in region 'US-CA' and carted")
    watch = watcher(rule, client)
    record = written(client, watch, an_event(View, 0, region="US-CA"), an_event(Cart, 5))
    ends_s = (NOON + 65 * MIN) // 1_000_000
    assert record.raised == {region_tag("US-CA"): NOON // 1_000_000 + 86_400, INTENT: ends_s}
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
