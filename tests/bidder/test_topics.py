"""Hot topics in the bidder: published by `tagbid dmp hot`, read by the way, over when their time is."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import topics
from bidder.explain import explain
from bidder.metrics import Metrics
from bidder.reasons import Reason
from bidder.targeting import eligible
from bidder.topics import Topics
from bidder.view import view
from dmp import keys, trends
from dmp.link import Link
from dmp.schema import NOBODY
from dmp.taxonomy import normal
from dmp.trends import Hot, stated
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request, a_snapshot
from tests.bidder.running import CAMPAIGNS, body, running
from tests.bidder.test_app import eventually

HOT_ONLY = CAMPAIGNS + "targeting = {hot = true}\n"
PAGE = {"site": {"domain": "news.example", "keywords": "comet"}}
FAR_US = 2**31 * 1_000_000


def a_topic(name: str, until_us: int = FAR_US) -> Hot:
    return Hot(name, 0, 9.0, 90, 1.0, 60, 0, until_us)


def test_a_topic_is_hot_until_its_end_and_no_longer() -> None:
    held = Topics([a_topic("comet", NOW_US + 5), a_topic("ski boots", NOW_US + 9)])
    assert held.meet(["Comet"], NOW_US + 4)
    assert not held.meet(["Comet"], NOW_US + 5)
    assert held.meet(["x", "SKI-Boots"], NOW_US + 5)
    assert not held.meet(["ski", "boots"], NOW_US)  # two words of a page are not the topic
    assert [held.count(NOW_US + later) for later in (0, 5, 9)] == [2, 1, 0]
    held.take(())
    assert not held.meet(["comet"], NOW_US)


@pytest.mark.rule("S-02")
def test_a_page_of_endless_words_costs_little_and_is_read_as_it_is_spelt() -> None:
    held = Topics([a_topic("comet"), a_topic("ski boots")])
    remembered = topics._normal.cache_info().currsize
    flood = [f"a-{n}" for n in range(10_000)]
    assert not held.meet([*flood, "SKI-boots", "x-" * 50_000], NOW_US)
    assert topics._normal.cache_info().currsize == remembered
    assert held.meet([*flood, "comet"], NOW_US)
    assert held.meet([*flood[:100], "SKI-boots"], NOW_US)


@given(st.text(max_size=12))
def test_a_word_is_met_in_whatever_spelling_the_taxonomy_takes_for_the_same(word: str) -> None:
    name = normal(word)
    held = Topics([a_topic(name)])
    assert held.meet([word], NOW_US) is (name != "")


def test_the_rule_is_asked_only_where_a_campaign_has_it_and_told_by_its_name() -> None:
    assert Reason.HOT not in [reason for reason, _ in a_snapshot(a_campaign(targeting={"hot": False})).index.rules]
    made = a_snapshot(a_campaign(id="hot", targeting={"hot": True}), a_campaign(id="any"))
    seen = view(a_request(**PAGE), NOBODY, NOW_US, EXCHANGE, "x")
    assert eligible(made.index, seen)[0] == made.mask_of(["any"])
    (answer,) = explain(a_request(**PAGE), NOBODY, made, NOW_US, EXCHANGE, "x").imps
    assert {one.campaign: (one.verdict, one.rules["hot"]) for one in answer.campaigns} == {
        "hot": ("hot", False),
        "any": ("offered", True),
    }
    made.index.topics.take([stated("comet", NOW_US)])
    assert eligible(made.index, seen)[0] == made.index.everything


@pytest.mark.parametrize(
    ("record", "result"),
    [
        (None, "missing"),
        (b"[]", "none"),
        (b'[{"topic": 1}]', "unreadable"),
        (msgspec.json.encode([a_topic("comet", 1)]), "stale"),
    ],
)
async def test_without_a_topic_that_lasts_nothing_is_hot_and_it_is_counted(
    tmp_path, store, client, monkeypatch, record, result
):
    monkeypatch.setattr(topics, "READ_S", 0.02)
    trends.publish(client, [a_topic("comet")], NOW_US)
    async with running(tmp_path, store, HOT_ONLY) as bidder:

        async def answers(status):
            return (await bidder.bid(body(**PAGE)))[0] == status

        await eventually(lambda: answers(200))
        assert (await bidder.bid(body(site={"domain": "news.example", "keywords": "opera"})))[0] == 204
        assert (await bidder.metrics())["tagbid_hot_topics"] == 1
        if record is None:
            client.delete(keys.HOT)
        else:
            client.set(keys.HOT, record)
        await eventually(lambda: answers(204))
        told = await bidder.metrics()
        assert told[f'tagbid_hot_reads_total{{result="{result}"}}'] >= 1
        assert told['tagbid_no_bid_total{reason="hot"}'] >= 2
        assert told["tagbid_hot_topics"] == 0
        trends.publish(client, [a_topic("comet")], NOW_US)
        await eventually(lambda: answers(200))


async def test_nobody_looks_for_hot_topics_while_no_campaign_asks_for_them(monkeypatch):
    monkeypatch.setattr(topics, "IDLE_S", 0.001)
    asked, metrics, held = [], Metrics(), Topics([a_topic("comet")])

    def ask():
        asked.append(True)
        return False

    nowhere = Link("redis://127.0.0.1:1")
    following = asyncio.create_task(topics.follow(held, nowhere, ask, lambda: NOW_US, metrics))
    await eventually(lambda: asyncio.sleep(0, len(asked) > 20))
    following.cancel()
    assert not any(metrics.counts)
    assert held.count(NOW_US) == 1


async def test_while_the_store_is_away_what_was_read_holds_and_it_is_counted(monkeypatch):
    monkeypatch.setattr(topics, "READ_S", 0.001)
    metrics, held = Metrics(), Topics([a_topic("comet")])
    nowhere = Link("redis://127.0.0.1:1")
    following = asyncio.create_task(topics.follow(held, nowhere, lambda: True, lambda: NOW_US, metrics))
    failed = metrics.slot("tagbid_hot_reads_total", result="failed")
    await eventually(lambda: asyncio.sleep(0, metrics.counts[failed] > 2))
    following.cancel()
    assert held.meet(["comet"], NOW_US)
