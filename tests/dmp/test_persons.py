import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dmp import identity, ingest, keys, mapping, offline, optout, persons
from dmp.config import DmpConfig
from dmp.errors import BadEvents
from dmp.events import CONSENT_ALL, CONSENT_MEASURE, View, pack_ids, unpack_ids
from dmp.forgotten import Forgotten
from dmp.identity import UNLINK, Statement, append, edges_file
from dmp.pseudonym import KeyRing
from dmp.store import read_users
from dmp.taxonomy import tag_id
from tests.dmp.factories import NOW_US, act, customer, user

ROOT = Path(__file__).parents[2]
TRAVEL, MALE = tag_id("interest.travel"), tag_id("demographic.gender.male")
PHONE, LAPTOP, EMAIL, HOME = 1, 2, 60, 80
TYPE = {PHONE: "device", LAPTOP: "cookie", EMAIL: "email", HOME: "household"}


def together(*numbers):
    return pack_ids((TYPE[n], user(n)) for n in numbers)


@pytest.fixture
def config(tmp_path):
    return DmpConfig(data_dir=str(tmp_path / "data"))


@pytest.fixture
def build(config, tmp_path, store):
    def run(*records, now_us=NOW_US):
        folder = tmp_path / "events"
        folder.mkdir(exist_ok=True)
        offline.write_events(folder / "one.parquet", records)
        return offline.build(config, folder, now_us, store, force=True)

    return run


def tags_of(client, *numbers):
    return [set(found.tags) for found in read_users(client, [user(n) for n in numbers], NOW_US // 1_000_000)]


def test_what_a_person_did_anywhere_is_read_under_each_of_their_ids(build, client):
    made = build(
        act(PHONE, View, category="travel", ids=together(PHONE, EMAIL)),
        act(LAPTOP, View, ids=together(LAPTOP, EMAIL)),
        customer(EMAIL, gender="m"),
    )
    phone, laptop, email = tags_of(client, PHONE, LAPTOP, EMAIL)
    assert {TRAVEL, MALE} <= phone
    assert phone == laptop == email
    assert made.joined == 3
    assert made.users == 3


def test_acts_on_two_devices_add_up_to_one_persons_interest(build, client):
    build(
        act(PHONE, View, category="travel", ids=together(PHONE, EMAIL)),
        act(LAPTOP, View, category="travel", ids=together(LAPTOP, EMAIL)),
        act(3, View, category="travel"),  # half of what the person did
    )
    phone, other = read_users(client, [user(PHONE), user(3)], NOW_US // 1_000_000)
    assert (phone.tags[TRAVEL], other.tags[TRAVEL]) == (100, 50)


@pytest.mark.rule("P-16")
@pytest.mark.parametrize("consent", [0, CONSENT_MEASURE])
def test_an_event_without_consent_to_profiles_joins_nobody(build, client, config, consent):
    build(
        act(PHONE, View, category="travel"),
        act(LAPTOP, View),
        act(PHONE, View, ids=together(PHONE, LAPTOP), consent=consent),
        act(PHONE, View, ids=together(PHONE, LAPTOP), event_id="copied"),
        act(PHONE, View, ids=together(PHONE, LAPTOP), event_id="copied", consent=consent),
    )
    assert TRAVEL not in tags_of(client, LAPTOP)[0]
    assert not edges_file(config.data_dir).exists()


def test_what_is_still_to_come_joins_nobody(build, client):
    build(act(PHONE, View, category="travel"), act(LAPTOP, View), act(LAPTOP, days_ago=-1, ids=together(LAPTOP, PHONE)))
    assert TRAVEL not in tags_of(client, LAPTOP)[0]


def test_after_a_split_each_has_its_own_again_though_the_events_are_still_there(build, client, config):
    records = [
        act(PHONE, View, category="travel", ids=together(PHONE, EMAIL)),
        act(LAPTOP, View, ids=together(LAPTOP, EMAIL)),
    ]
    build(*records)
    assert TRAVEL in tags_of(client, LAPTOP)[0]
    append(edges_file(config.data_dir), [Statement(UNLINK, NOW_US, "cookie", user(LAPTOP), "email", user(EMAIL))])
    build(*records)
    assert TRAVEL not in tags_of(client, LAPTOP)[0]
    assert TRAVEL in tags_of(client, PHONE)[0] & tags_of(client, EMAIL)[0]


def test_links_of_earlier_builds_hold_when_their_events_are_gone(build, client):
    build(act(PHONE, View, ids=together(PHONE, LAPTOP)))
    build(act(PHONE, View, category="travel"))
    assert TRAVEL in tags_of(client, LAPTOP)[0]


def test_members_of_a_household_keep_their_tags_to_themselves(build, client):
    build(act(PHONE, View, category="travel", ids=together(PHONE, HOME)), act(LAPTOP, View, ids=together(LAPTOP, HOME)))
    laptop, home = tags_of(client, LAPTOP, HOME)
    assert TRAVEL not in laptop
    assert not home


@pytest.mark.rule("P-32")
def test_an_id_that_opted_out_joins_nobody(build, client):
    optout.set_marks(client, user(PHONE), {keys.OPTED_OUT})
    build(act(PHONE, View, category="travel", ids=together(PHONE, LAPTOP)), act(LAPTOP, View))
    assert TRAVEL not in tags_of(client, LAPTOP)[0]
    optout.clear_marks(client, user(PHONE), {keys.OPTED_OUT})
    build(act(PHONE, View, category="travel"), act(LAPTOP, View))
    assert TRAVEL in tags_of(client, LAPTOP)[0]


@pytest.mark.parametrize("ids", [b"x", bytes(35), b"\x09" + bytes(33)])
def test_ids_that_nobody_packed_are_refused(build, ids):
    with pytest.raises(BadEvents):
        build(act(PHONE, View, ids=ids))


def test_ids_read_back_and_one_alone_takes_no_room():
    both = [("device", user(PHONE)), ("email", user(EMAIL))]
    assert unpack_ids(pack_ids(both)) == both
    assert pack_ids(both[:1]) == b""
    assert unpack_ids(b"") == []


def test_marks_are_read_for_many_ids(client, monkeypatch):
    monkeypatch.setattr(persons, "CHUNK_IDS", 2)
    optout.set_marks(client, user(3), {keys.CHILD})
    assert persons.opted_out(client, [user(n) for n in range(5)]) == [user(3)]


TWO_IDS = """
source = "shop"
id = [{column = "cookie", type = "cookie"}, {column = "mail", type = "email"}]
time = {column = "at"}
kind = {value = "view"}
consent = {value = 7}
"""


def test_rows_that_name_several_ids_tell_that_they_are_one_person(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "cookie,mail,at\nc1,a@x.org,2024-10-01\n,b@x.org,2024-10-01\nc2,null,2024-10-01\nc1,a@x.org,2024-10-02\n"
    )
    ring = KeyRing(b"k" * 32)
    ingest.ingest([log], tmp_path / "events", mapping.parse(TWO_IDS, "shop"), ring, NOW_US)
    (part,) = (tmp_path / "events").glob("*.parquet")
    rows = pq.read_table(part).to_pylist()
    both = [("cookie", ring.uid("cookie", "c1")), ("email", ring.uid("email", "a@x.org"))]
    assert [unpack_ids(row["ids"]) for row in rows] == [both, [], [], both]
    assert [row["uid"] for row in rows] == [
        ring.uid("cookie", "c1"), ring.uid("email", "b@x.org"), ring.uid("cookie", "c2"), ring.uid("cookie", "c1")
    ]  # fmt: skip


@pytest.mark.rule("P-71")
def test_who_was_forgotten_is_not_linked_again_by_old_event_files(build, client, config):
    Forgotten(config.data_dir).add([user(EMAIL)])
    build(act(PHONE, View, category="travel", ids=together(PHONE, EMAIL)), act(LAPTOP, ids=together(EMAIL, LAPTOP)))
    assert TRAVEL not in tags_of(client, LAPTOP)[0]
    assert not edges_file(config.data_dir).exists()


def test_preferences_follow_a_person_too_and_stay_where_they_point_the_same_way(build, client, config):
    kinds = ("travel", "food", "music", "books", "pets", "gaming", "sports", "news", "beauty", "fashion")
    acts = [act(100 + n, View, category=kinds[(n + i) % 10]) for n in range(80) for i in range(3)]
    acts += [act(PHONE, View, category="travel", ids=together(PHONE, LAPTOP)), act(LAPTOP, View, category="food")]
    first = build(*acts)
    assert first.vectors == 82
    before = [found.vector for found in read_users(client, [user(PHONE), user(LAPTOP), user(100)], NOW_US // 10**6)]
    assert before[0] == before[1] != b""
    again = build(*acts, act(PHONE, View, category="pets", ids=together(PHONE, LAPTOP)), now_us=NOW_US + 3_600_000_000)
    after = [found.vector for found in read_users(client, [user(PHONE), user(LAPTOP), user(100)], NOW_US // 10**6)]
    assert after[0] == after[1] != before[0]
    assert after[2] == before[2]
    assert again.unchanged >= 60
    Forgotten(config.data_dir).add([user(100)])
    assert build(*acts).vectors == 81


def test_whom_an_act_pays_heed_to_is_kept_as_a_pseudonym(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("cookie,mail,at,follows\nc1,,2024-10-01,bob\nc1,,2024-10-01,\nc1,,2024-10-01,null\n")
    ring = KeyRing(b"k" * 32)
    shop = mapping.parse(TWO_IDS + 'other = {column = "follows", type = "login"}\n', "shop")
    report = ingest.ingest([log], tmp_path / "events", shop, ring, NOW_US)
    assert (report.events, report.duplicates) == (2, 1)  # the last two say the same
    (part,) = (tmp_path / "events").glob("*.parquet")
    assert {row["other"] for row in pq.read_table(part).to_pylist()} == {ring.uid("login", "bob"), b""}
    assert b"bob" not in part.read_bytes()
    assert mapping.signature(shop) != mapping.signature(mapping.parse(TWO_IDS, "shop"))


# The commands


@pytest.fixture
def tagbid(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-c", "import sys; from loadtest.cli import main; sys.exit(main())"]
        environ = {**os.environ, "TAGBID_DMP_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "150"}
        arguments = ["dmp", "identity", *map(str, arguments)]
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )

    return run


def test_people_link_look_and_take_apart(tagbid, tmp_path):
    assert tagbid("link", "cookie:c1", "email:A@x.org").returncode == 0
    assert tagbid("link", "device:d1", "email:a@x.org").returncode == 0
    (person,) = json.loads(tagbid("show", "device:d1", "--json").stdout)
    assert sorted(member["type"] for member in person["members"]) == ["cookie", "device", "email"]
    assert "c1" not in tagbid("show", "cookie:c1").stdout.split()
    counts = json.loads(tagbid("stats", "--json").stdout)
    assert (counts["records"], counts["edges"], counts["persons_by_ids"]) == (2, 2, {"3": 1})
    apart = json.loads(tagbid("unlink", "cookie:c1", "email:a@x.org", "--json").stdout)
    assert [len(person["members"]) for person in apart] == [1, 2]
    tagbid("block", "email:a@x.org")
    (blocked,) = json.loads(tagbid("show", "email:a@x.org", "--json").stdout)
    assert blocked["members"][0]["apart_because"] == "blocked"
    assert json.loads(tagbid("rebuild", "--json").stdout)["blocked"] == 1
    assert len(pq.read_table(tmp_path / "data" / "identity" / "persons.parquet")) == 3


def test_a_rebuild_takes_up_what_event_files_say(tagbid, tmp_path):
    offline.write_events(tmp_path / "e.parquet", [act(PHONE, View, ids=together(PHONE, EMAIL), consent=CONSENT_ALL)])
    assert json.loads(tagbid("rebuild", tmp_path / "e.parquet", "--json").stdout)["learnt"] == 1
    again = json.loads(tagbid("rebuild", tmp_path / "e.parquet", "--json").stdout)
    assert (again["learnt"], again["edges_that_join"]) == (0, 1)


@pytest.mark.parametrize("wrong", ["c1", "e-mail:a@x.org", "email:nobody", "cookie:null"])
def test_what_is_no_typed_id_is_told(tagbid, wrong):
    told = tagbid("show", wrong)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr


# Death while writing

WRITER = """
import sys
from pathlib import Path
from dmp.identity import LINK, Statement, append
for n in range(10**6):
    both = [Statement(LINK, n, "cookie", (2 * n + i).to_bytes(16, "big"), "email", bytes(16)) for i in (1, 2)]
    append(Path(sys.argv[1]), both)
    print(n, flush=True)
"""


def test_a_writer_killed_at_any_moment_loses_nothing_it_had_told(tmp_path):
    log = edges_file(tmp_path)
    told = 0
    for round_ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(log)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            for _ in range(5 * round_ + 3):
                assert writer.stdout.readline()
            writer.kill()
            told += 5 * round_ + 3 + len(writer.stdout.readlines())
        assert len(identity.read(log)) >= 2 * told
        assert len(identity.read(log)) <= 2 * (told + round_ + 1)
