import json
import random
import time
from contextlib import closing
from itertools import pairwise

import pytest

from dmp import __main__ as main
from dmp import choosing, commands, offline, taxonomy
from dmp.audiences import told
from dmp.catalogue import AlreadyThere, open_catalogue
from dmp.choosing import UnknownAudience
from dmp.config import DmpConfig
from dmp.expression import BadExpression
from dmp.insight import OPERATOR, TooFewUsers
from dmp.keys import number
from dmp.store import open_store, read_users
from tests.dmp.factories import NOW_US, tags_table, user

TRAVEL, FOOD, GAMING = (taxonomy.tag_id(f"interest.{name}") for name in ("travel", "food", "gaming"))
DAY_US = 86_400_000_000


@pytest.fixture
def world(tmp_path, store, client):
    """4,000 users: travel = the number modulo 101 for the first 3,000; food for every second; gaming for 60 of them."""
    config = DmpConfig(data_dir=str(tmp_path))
    people = {}
    for n in range(4_000):
        tags = {TRAVEL: n % 101} if n < 3_000 else {}
        people[n] = tags | ({FOOD: 50} if n % 2 == 0 else {}) | ({GAMING: 100} if n < 60 else {}) or {FOOD: 1}
    offline.publish_tags(config, tags_table(people), NOW_US, store, "test")
    catalogue = open_catalogue(tmp_path)
    for advertiser in ("acme", "rival"):
        catalogue.add_advertiser(advertiser, NOW_US)
    yield config, catalogue, client
    catalogue.close()


def asking(world, tenant=OPERATOR):
    return choosing.asking(*world, lambda: NOW_US, tenant)


def test_sizes_are_told_in_two_digits(world):
    with asking(world) as asker:
        found = asker.size("interest.travel >= 60")
        exact = sum(n % 101 >= 60 for n in range(3_000))
        assert (found.users, found.of, found.generation) == (told(exact), 4_000, 1)
        assert found.share == round(told(exact) / 4_000, 2)


@pytest.mark.rule("P-65")
@pytest.mark.parametrize(("above", "users"), [(0, 60), (11, 0)])  # 60 and 49 users
def test_fewer_than_50_are_told_as_none(world, above, users):
    with asking(world) as asker:
        assert asker.size(f"interest.gaming AND interest.travel >= {above}").users == users


@pytest.mark.rule("P-65")
def test_a_set_with_and_without_a_few_people_is_told_as_one_set(world):
    """All sets of travel above a score within 49 users of one asked about get its answer, in whatever order."""
    rng = random.Random(5)
    with asking(world) as asker:
        told_about: list[set[int]] = []
        thresholds = [*range(101), *range(101)]
        rng.shuffle(thresholds)
        for score in thresholds:
            mine = {n for n in range(3_000) if n % 101 >= score}
            answer = asker.size(f"interest.travel >= {score}").users
            near = next((other for other in told_about if len(mine ^ other) < 50), None)
            assert answer == told(len(mine if near is None else near))
            if near is None:
                told_about.append(mine)
    sizes = sorted(map(len, told_about))
    assert all(b - a >= 50 for a, b in pairwise(sizes))


@pytest.mark.rule("P-65")
def test_the_edge_of_rounding_does_not_tell_whether_one_person_is_in(world, store):
    """1,950 users are told as 2,000 and 1,949 as 1,900; asked one after the other by one tenant, both as the first."""
    one = {0: {FOOD: 50, GAMING: 7}} | {n: {FOOD: 50} for n in range(1, 1_950)}
    offline.publish_tags(world[0], tags_table(one), NOW_US, store, "test")
    with asking(world, "acme") as asker, asking(world, "rival") as other:
        assert asker.size("interest.food").users == 2_000
        assert asker.size("interest.food AND NOT interest.gaming").users == 2_000
        assert other.size("interest.food AND NOT interest.gaming").users == 1_900
    with asking(world, "acme") as later:  # another process
        assert later.size("interest.food AND NOT interest.gaming").users == 2_000


@pytest.mark.rule("P-65")
def test_every_question_is_logged_for_its_tenant(world, tmp_path):
    with asking(world, "acme") as asker:
        asker.size("all")
        asker.overlap("all", "interest.travel")
    with asking(world, "rival") as asker:
        asker.insight("interest.food")
    lines = [json.loads(line) for line in (tmp_path / "insight/acme/1.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["expressions"], line["users"]) for line in lines] == [
        ("size", ["all"], [4_000]),
        ("overlap", ["all", "interest.travel", "(all) AND (interest.travel)"], [4_000, 3_000, 3_000]),
    ]
    assert (tmp_path / "insight/rival/1.jsonl").read_text().count("\n") == 1


def test_overlap_is_what_both_have(world):
    with asking(world) as asker:
        found = asker.overlap("interest.travel", "interest.food")
    # every second of 3,000; 2,000 even numbers and the 500 odd ones from 3,000 on have food
    assert (found.users_a, found.users_b, found.both) == (3_000, 2_500, 1_500)
    assert (found.share_of_a, found.share_of_b) == (0.5, 0.6)


@pytest.mark.rule("P-65")
def test_how_many_two_audiences_have_does_not_tell_whether_one_person_is_in(world, store):
    """Each has exactly whom it is meant to have; the second is said to have as many as the first."""
    one = {0: {FOOD: 50, GAMING: 7}} | {n: {FOOD: 50} for n in range(1, 1_950)}
    offline.publish_tags(world[0], tags_table(one), NOW_US, store, "test")
    text = "interest.food AND NOT interest.gaming"
    with asking(world, "acme") as asker:
        with_them = choosing.create(*world, asker, "acme", "all", "interest.food", 0, NOW_US)
        without = choosing.create(*world, asker, "acme", "most", text, 0, NOW_US)
        assert [audience.report["users"] for audience in (with_them, without)] == [told(1_950)] * 2
        assert told(without.members) == asker.size(text).users == told(1_950) != told(1_949)
    (them,) = read_users(world[2], [user(0)], int(NOW_US / 1e6))
    assert (number("acme/all") in them.audiences, number("acme/most") in them.audiences) == (True, False)


@pytest.mark.rule("P-65")
def test_what_two_overlaps_differ_by_does_not_tell_whether_one_person_is_in(world, store):
    """Food has 1,950 users. The two other sides differ by 101, so both are answered; of those, food has user 0 only."""
    many = {0: {FOOD: 50, GAMING: 7}} | {n: {FOOD: 50, TRAVEL: 90} for n in range(1, 1_950)}
    many |= {n: {GAMING: 7} for n in range(5_000, 5_100)} | {n: {TRAVEL: 90} for n in range(6_000, 6_200)}
    offline.publish_tags(world[0], tags_table(many), NOW_US, store, "test")
    with asking(world, "acme") as asker, asking(world, "rival") as other:
        assert asker.overlap("interest.food", "interest.travel OR interest.gaming").both == told(1_950)
        assert asker.overlap("interest.food", "interest.travel").both == told(1_950)
        assert other.overlap("interest.food", "interest.travel").both == told(1_949) != told(1_950)


@pytest.mark.rule("P-65")
@pytest.mark.parametrize("few", ["interest.gaming", "seen > 400d", "interest.travel >= 70"])  # 60, 0, 909 or so
def test_overlap_and_insight_need_1000_users_on_either_side(world, few):
    with asking(world) as asker:
        for ask in (
            lambda: asker.overlap(few, "all"),
            lambda: asker.overlap("all", few),
            lambda: asker.insight(few),
            lambda: asker.insight("all", few),
        ):
            with pytest.raises(TooFewUsers, match="1,000"):
                ask()


def test_the_target_group_index_is_share_over_share_in_the_base(world):
    with asking(world) as asker:
        found = asker.insight("interest.travel")
    by_tag = {entry.tag: entry for entry in found.tags}
    # 1,500 of 3,000 (0.5) against 2,500 of 4,000 (0.625): index 80; travel itself 1 against 0.75: 133
    assert by_tag["interest.food"].index == 80
    assert by_tag["interest.travel"].index == 133
    assert by_tag["interest.gaming"].users == 60
    assert [entry.index for entry in found.tags] == sorted((entry.index for entry in found.tags), reverse=True)


@pytest.mark.rule("P-65")
def test_a_tag_of_fewer_than_50_users_in_the_group_is_not_told(world):
    with asking(world) as asker:  # 49 of the 60 have a score of 11 or more
        found = asker.insight("interest.travel >= 11")
    assert "interest.gaming" not in {entry.tag for entry in found.tags}


def test_a_chosen_audience_is_live_at_once_and_can_be_asked_about(world, tmp_path):
    _, catalogue, client = world
    end_us = (int(NOW_US / 1e6) + 10**9) * 1_000_000
    with asking(world, "acme") as asker:
        made = choosing.create(*world, asker, "acme", "eaters", "interest.food AND seen < 7d", end_us, NOW_US)
        assert (made.state, made.members) == ("live", 2_500)
        (in_it, not_in_it) = read_users(client, [user(0), user(1)], int(NOW_US / 1e6))
        assert number("acme/eaters") in in_it.audiences
        assert not not_in_it.audiences
        assert asker.size("audience:acme/eaters AND interest.travel").users == 1_500
        with pytest.raises(AlreadyThere):
            choosing.create(*world, asker, "acme", "eaters", "all", end_us, NOW_US)
    assert len(list(tmp := catalogue.files())) == 1, tmp


def test_a_creation_that_dies_is_finished_by_the_next_worker(world, monkeypatch):
    catalogue = world[1]

    def dies(*_):
        raise ConnectionError

    with asking(world, "acme") as asker:
        monkeypatch.setattr(choosing.audiences, "add_members", dies)
        with pytest.raises(ConnectionError):
            choosing.create(*world, asker, "acme", "eaters", "interest.food", NOW_US + DAY_US, NOW_US)
    assert catalogue.claim("early", NOW_US + choosing.LEASE_US - 1, 1) is None
    taken = catalogue.claim("next", NOW_US + choosing.LEASE_US, 1)
    assert taken is not None
    assert (taken.name, taken.members_file != "") == ("eaters", True)


@pytest.mark.rule("P-65")
def test_no_audience_is_made_of_fewer_than_50_users(world):
    with asking(world, "acme") as asker, pytest.raises(TooFewUsers):
        choosing.create(*world, asker, "acme", "few", "interest.gaming AND interest.travel >= 11", 0, NOW_US)
    assert world[1].audiences("acme") == []


@pytest.mark.rule("S-21")
def test_another_advertisers_audience_does_not_exist(world):
    with asking(world, "acme") as asker:
        choosing.create(*world, asker, "acme", "eaters", "interest.food", NOW_US + DAY_US, NOW_US)
        assert asker.size("audience:acme/eaters").users == 2_500
    with asking(world, "rival") as asker:
        for name in ("audience:acme/eaters", "audience:acme/nothing", "audience:rival/nothing"):
            with pytest.raises(UnknownAudience):
                asker.size(f"all AND NOT {name}")
    with asking(world) as operator:
        assert operator.size("audience:acme/eaters").users == 2_500


def test_a_wrong_expression_is_not_logged(world, tmp_path):
    with asking(world) as asker, pytest.raises(BadExpression):
        asker.size("interest.travle")
    assert not (tmp_path / "insight").exists()


def test_the_commands_answer_people_and_machines(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAGBID_DMP_DATA_DIR", str(tmp_path / "var"))
    config = DmpConfig(data_dir=str(tmp_path / "var"))

    def run(*arguments):
        status = commands.run(main.app, "tagbid dmp", ["audience", *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    with open_store(config) as tags:
        people = {n: {FOOD: n % 101, TRAVEL: 50} if n % 4 else {TRAVEL: 90} for n in range(2_000)}
        offline.publish_tags(config, tags_table(people), time.time_ns() // 1000, tags, "test")
        with closing(open_catalogue(tmp_path / "var")) as catalogue:
            catalogue.add_advertiser("acme", NOW_US)
        assert json.loads(run("size", "interest.travel", "--json")[1])["users"] == 2_000
        assert "1,500 of 2,000" in run("size", "interest.food")[1]
        both = json.loads(run("overlap", "interest.food", "interest.travel", "--json")[1])
        assert (both["both"], both["share_of_b"]) == (1_500, 0.75)
        assert "interest.food" in run("overlap", "interest.food", "all")[1]
        found = json.loads(run("insight", "interest.food", "--json")[1])
        assert (found["tags"][0]["tag"], found["tags"][0]["index"]) == ("interest.food", 133)
        assert "133" in run("insight", "interest.food")[1]
        made = json.loads(run("create", "acme/eaters", "interest.food", "--json")[1])
        assert (made["state"], made["members"]) == ("live", 1_500)
        assert "live" in run("create", "acme/more", "interest.food >= 10")[1]
        assert "interest.food >= 10" in run("list", "acme")[1]
        assert json.loads(run("size", "audience:acme/eaters", "--advertiser", "acme", "--json")[1])["users"] == 1_500
        status, _, said = run("size", "interest.foot")
        assert (status, "did you mean interest.food" in said, "^" in said) == (2, True, True)
        assert run("create", "eaters", "all")[0] == 2
