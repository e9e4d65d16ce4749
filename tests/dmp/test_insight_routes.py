from pathlib import Path

import aiohttp
import pytest

from dmp import offline, taxonomy
from dmp.app import listening
from dmp.catalogue import open_catalogue
from dmp.config import DmpConfig
from dmp.desk import Desk
from dmp.limits import Rates
from dmp.pseudonym import KeyRing
from tests.dmp.factories import NOW_US, tags_table

FOOD, TRAVEL = (taxonomy.tag_id(f"interest.{name}") for name in ("food", "travel"))


@pytest.fixture
async def ask(tmp_path, store, client):
    """Ask a server with 3,000 users, all with travel and 2,000 with food, as one of two advertisers."""
    config = DmpConfig(data_dir=str(tmp_path), redis_url=store.url, port=0)
    people = {n: {TRAVEL: n % 101} | ({FOOD: 50} if n % 3 else {}) for n in range(3_000)}
    offline.publish_tags(config, tags_table(people), NOW_US, store, "test")
    catalogue = open_catalogue(Path(config.data_dir))
    keys = {}
    for name in ("acme", "rival"):
        catalogue.add_advertiser(name, NOW_US)
        keys[name] = catalogue.issue_key(name, NOW_US)
    desk = Desk(config, catalogue, client, KeyRing(bytes(32)), Rates(key_burst=1_000, address_burst=10_000))
    async with listening(desk) as url, aiohttp.ClientSession() as session:

        async def asked(method, path, who="acme", **query):
            headers = {"Authorization": f"Bearer {keys[who]}"}
            address = f"{url}/v1/advertisers/{who}{path}"
            async with session.request(method, address, params=query, headers=headers) as answer:
                return answer.status, await answer.json()

        yield asked
    catalogue.close()


async def test_sizes_overlaps_and_indices_are_told_rounded(ask):
    assert (await ask("GET", "/insight/size", expression="interest.food"))[1]["users"] == 2_000
    status, both = await ask("GET", "/insight/overlap", a="interest.food", b="interest.travel")
    assert (status, both["both"], both["share_of_b"]) == (200, 2_000, 0.67)
    status, found = await ask("GET", "/insight/tags", expression="interest.food")
    assert (status, found["tags"][0]["tag"], found["tags"][0]["index"]) == (200, "interest.food", 150)


@pytest.mark.rule("S-21")
async def test_an_audience_made_by_one_is_live_for_it_and_does_not_exist_for_another(ask):
    status, made = await ask("POST", "/audiences", name="eaters", expression="interest.food")
    assert (status, made["state"], made["members"]) == (201, "live", 2_000)
    assert (await ask("GET", "/audiences/eaters"))[1]["state"] == "live"
    question = {"expression": "NOT audience:acme/eaters"}
    assert (await ask("GET", "/insight/size", **question))[1]["users"] == 1_000
    status, told = await ask("GET", "/insight/size", "rival", **question)
    assert (status, told["error"]) == (404, "unknown_audience")
    assert (await ask("POST", "/audiences", name="eaters", expression="all"))[0] == 409


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("/insight/size", {}, 400, "bad_query"),
        ("/insight/size", {"expression": "all", "more": "1"}, 400, "bad_query"),
        ("/insight/size", {"expression": "interest.foot"}, 400, "bad_expression"),
        ("/insight/overlap", {"a": "all", "b": "NOT all"}, 422, "too_few_users"),
        ("/insight/tags", {"expression": "interest.travel > 70"}, 422, "too_few_users"),
    ],
)
async def test_a_question_that_cannot_be_answered_is_told_why(ask, path, query, status, code):
    found, told = await ask("GET", path, **query)
    assert (found, told["error"]) == (status, code)


@pytest.mark.parametrize("days", ["0", "366", "-1", "many"])
async def test_an_audience_lives_between_a_day_and_a_year(ask, days):
    assert (await ask("POST", "/audiences", name="x", expression="all", days=days))[1]["error"] == "bad_query"
