import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from dmp import offline, partner
from dmp.config import DmpConfig, PartnersConfig
from dmp.engine import DuckEngine
from dmp.family_columns import NOTES
from dmp.partner import PartnerRefused, family, load
from dmp.store import read_users
from dmp.tables import TABLES
from dmp.taxonomy import partner_tag, tag_id, tag_name
from tests.dmp.factories import NOW_US, act, user

ROOT = Path(__file__).parents[2]
TRAVEL, FOOD = tag_id("interest.travel"), tag_id("interest.food")
OWN = "partner.acme.fan"
TODAY = 20_000
FANS = "SELECT t.uid, 'partner.acme.fan' AS tag, 70 AS score, t.as_of_day FROM tags AS t WHERE t.tag = 1033"  # travel


@pytest.fixture
def root(tmp_path):
    return tmp_path / "partners"


@pytest.fixture
def drop(root):
    """Drop a partner's folder."""

    def run(kind, text, name="acme", file=None, declares=(OWN,), sha256=None, extra=""):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        file = file or {"sql": "a.sql", "rule": "a.toml", "lightgbm": "a.txt"}[kind]
        (folder / file).write_text(text)
        sha256 = sha256 or hashlib.sha256(text.encode()).hexdigest()
        (folder / "manifest.toml").write_text(
            f'kind = "{kind}"\nfile = "{file}"\nsha256 = "{sha256}"\ndeclares = {json.dumps(list(declares))}\n{extra}\n'
        )

    return run


def problems(root, name="acme"):
    with pytest.raises(PartnerRefused) as caught:
        load(root, name)
    return "; ".join(caught.value.problems)


# Who may run


def test_a_query_in_the_portable_subset_may_run(root, drop):
    drop("sql", FANS)
    assert load(root, "acme").tags[OWN] == partner_tag(OWN)
    assert partner.names(root) == ["acme"]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY tags TO '/tmp/x.csv'",
        "INSTALL httpfs",
        "ATTACH 'other.db'",
        FANS + "; DROP TABLE tags",
        "SELECT t.uid, getenv('HOME') AS tag, 1 AS score, t.as_of_day FROM tags AS t",
        "SELECT r.uid, 'x' AS tag, 1 AS score, 1 AS as_of_day FROM raw_events AS r",
        "SELECT p.uid, 'x' AS tag, 1 AS score, 1 AS as_of_day FROM persons AS p",
        "not SQL",
    ],
)
def test_a_query_that_could_reach_further_than_its_tables_is_refused(root, drop, query):
    drop("sql", query)
    assert problems(root)


def test_every_problem_is_told_at_once(root, drop):
    drop("sql", "SELECT 1.5 AS x", sha256="0" * 64, declares=["partner.other.tag", "fan"])
    told = problems(root)
    assert hashlib.sha256(b"SELECT 1.5 AS x").hexdigest() in told
    assert "partner.other.tag" in told
    assert "'fan'" in told
    assert "literal" in told


def test_only_plain_files_of_the_folder_itself_are_read(root, drop, tmp_path):
    drop("sql", FANS)
    (tmp_path / "elsewhere.sql").write_text(FANS)
    (root / "acme" / "a.sql").unlink()
    (root / "acme" / "a.sql").symlink_to(tmp_path / "elsewhere.sql")
    assert problems(root)
    for file in ("../a.sql", "a.pkl", "a.py"):
        (root / "acme" / "manifest.toml").write_text(f'kind = "sql"\nfile = "{file}"\nsha256 = "{"0" * 64}"')
        assert "file" in problems(root)


def test_a_folder_without_a_manifest_or_with_an_odd_name_is_refused(root, drop):
    (root / "empty").mkdir(parents=True)
    assert "manifest.toml" in problems(root, "empty")
    drop("sql", FANS, name="Bad-Name")
    assert "name" in problems(root, "Bad-Name")


def test_a_tag_of_a_partner_has_the_same_number_everywhere_and_none_of_ours():
    assert (
        partner_tag(OWN)
        == tag_id(OWN)
        == 2**31 + int.from_bytes(hashlib.blake2b(OWN.encode(), digest_size=4).digest()) % 2**31
    )
    assert tag_name(partner_tag(OWN)) == f"tag#{partner_tag(OWN)}"


# What comes of it


def ran(root, tags=((1, TRAVEL, 60), (2, FOOD, 80), (3, TRAVEL, 10), (3, FOOD, 90)), **limits):
    """{(user, tag): (score, day)} and the outcomes, over these tags."""
    usual = {"seconds": 60, "memory_mb": 500, "max_rows": 1_000}
    empty = {"BLOB": pa.binary(), "VARCHAR": pa.string(), "BIGINT": pa.int64(), "INT": pa.int32(),
             "INTEGER": pa.int32(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_()}  # fmt: skip
    with DuckEngine() as engine:
        for name in partner.TABLES:
            schema = pa.schema([(column, empty[kind]) for column, kind in TABLES[name].columns.items()])
            engine.table(name, schema.empty_table())
        rows = [{"uid": user(n), "tag": t, "score": s, "as_of_day": TODAY - 1, "source": 1} for n, t, s in tags]
        engine.table("tags", pa.Table.from_pylist(rows, schema=pa.schema(
            [("uid", pa.binary()), ("tag", pa.int64()), ("score", pa.int32()), ("as_of_day", pa.int32()),
             ("source", pa.int32())])))  # fmt: skip
        made = family(engine, NOW_US, root, root.parent / "spill", PartnersConfig(**usual | limits))
    assert not list((root.parent / "spill").glob("*"))
    found = {(int.from_bytes(r["uid"]), r["tag"]): (r["score"], r["as_of_day"]) for r in made.to_pylist()}
    return found, json.loads((made.schema.metadata or {}).get(NOTES, b"{}"))


def test_a_query_gives_tags_and_its_provenance_is_kept(root, drop):
    drop("sql", FANS)
    found, told = ran(root)
    assert found == {(1, partner_tag(OWN)): (70, TODAY - 1), (3, partner_tag(OWN)): (70, TODAY - 1)}
    assert told["acme"]["rows"] == {OWN: 2}
    assert told["acme"]["sha256"] == hashlib.sha256(FANS.encode()).hexdigest()


RULES = """
[[rules]]
tag = "partner.acme.fan"
score = 55
all = [{tag = "interest.food", at_least = 80}]
none = [{tag = "interest.travel", at_least = 50}]
any = [{tag = "interest.travel"}, {tag = "interest.pets"}]

[[rules]]
tag = "interest.pets"
all = [{tag = "interest.travel", at_least = 60}]
"""


def test_rules_give_tags_by_thresholds(root, drop):
    drop("rule", RULES)
    found, _ = ran(root)
    assert found == {(3, partner_tag(OWN)): (55, TODAY - 1), (1, tag_id("interest.pets")): (100, TODAY - 1)}


def test_a_rule_on_a_tag_that_does_not_exist_is_told(root, drop):
    drop("rule", RULES.replace("interest.pets", "interest.petz"))
    assert "did you mean interest.pets" in problems(root)
    drop("rule", RULES.replace("at_least = 80", "at_least = 800"))
    assert "at_least" in problems(root)


@pytest.fixture(scope="module")
def model():
    """A model that likes food lovers: its probability is above 1/2 for a score of food above 50."""
    rng = np.random.default_rng(0)
    held = rng.uniform(0, 100, (500, 2))
    data = lightgbm.Dataset(held, (held[:, 1] > 50).astype(int))
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
    return lightgbm.train(settings, data, 20).model_to_string()


MODEL = f'features = ["interest.travel", "interest.food"]\ntag = "{OWN}"\nat_least = 0.6'


def test_a_model_gives_tags_by_its_prediction(root, drop, model):
    drop("lightgbm", model, extra=MODEL)
    found, told = ran(root)
    assert set(found) == {(2, partner_tag(OWN)), (3, partner_tag(OWN))}
    assert all(score >= 60 for score, _ in found.values())
    assert told["acme"]["rows"] == {OWN: 2}


@pytest.mark.parametrize(
    ("text", "extra", "failure"),
    [
        ("tree\nversion=v4\nnonsense", MODEL, "LightGBMError"),
        (None, MODEL.replace('"interest.travel", ', ""), "2 columns"),
        (None, MODEL.replace(f'"{OWN}"', '"partner.acme.other"'), "neither"),
    ],
)
def test_a_model_that_does_not_fit_is_told(root, drop, model, text, extra, failure):
    drop("lightgbm", text or model, extra=extra)
    found, told = ran(root)
    assert not found
    assert failure in told["acme"]["failure"]


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        ("SELECT t.uid, 'partner.acme.undeclared' AS tag, 1 AS score, 1 AS as_of_day FROM tags AS t", "undeclared"),
        ("SELECT t.uid, 'interest.health' AS tag, 1 AS score, 1 AS as_of_day FROM tags AS t", "interest.health"),
        ("SELECT t.uid, 'partner.acme.fan' AS tag, 101 AS score, 1 AS as_of_day FROM tags AS t", "score is not within"),
        (
            "SELECT t.uid, 'partner.acme.fan' AS tag, 1 AS score, 20001 AS as_of_day FROM tags AS t",
            "as_of_day is not within",
        ),
        ("SELECT t.uid, 'partner.acme.fan' AS tag, 1 AS score, NULL AS as_of_day FROM tags AS t", "null"),
        ("SELECT t.uid, 'partner.acme.fan' AS tag, 1 AS score FROM tags AS t", "needed are"),
    ],
)
def test_what_a_partner_may_not_say_is_not_taken(root, drop, query, failure):
    drop("sql", query)
    found, told = ran(root)
    assert not found
    assert failure in told["acme"]["failure"]


def test_one_partners_failure_is_nobody_elses(root, drop):
    drop("sql", "SELECT nonsense", name="broken", declares=())
    drop("sql", FANS)
    found, told = ran(root)
    assert len(found) == 2
    assert told["broken"]["failure"]
    assert "failure" not in told["acme"]


def test_a_query_runs_as_it_was_understood(root, drop):
    drop("sql", FANS + " -- the end\n;")
    assert ";" not in load(root, "acme").query
    assert len(ran(root)[0]) == 2


@pytest.mark.parametrize(
    "query", ["SELECT " + "(" * 3_000 + "1" + ")" * 3_000 + " AS uid", "SELECT " + "- " * 3_000 + "1"]
)
def test_a_query_nested_too_deeply_is_refused_and_nobody_elses_failure(root, drop, query):
    drop("sql", query, name="deep", declares=())
    drop("sql", FANS)
    found, told = ran(root)
    assert len(found) == 2
    assert "nested too deeply" in told["deep"]["failure"]


def test_a_pipe_in_place_of_a_file_and_a_manifest_that_is_no_text_hold_nobody_up(root, drop):
    for name in ("pipe", "binary"):
        (root / name).mkdir(parents=True)
    os.mkfifo(root / "pipe" / "manifest.toml")
    (root / "binary" / "manifest.toml").write_bytes(b'kind = "\xff"')
    drop("sql", FANS)
    found, told = ran(root)
    assert len(found) == 2
    assert told["pipe"]["failure"]
    assert told["binary"]["failure"]


def test_a_recursive_query_is_refused(root, drop):
    drop("sql", "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT r.a AS a FROM r) SELECT r.a FROM r")
    assert "is recursive" in problems(root)


ENDLESS = """
SELECT a.uid, 'partner.acme.fan' AS tag, CAST(MAX(1) AS INT) AS score, CAST(MAX(a.as_of_day) AS INT) AS as_of_day
FROM tags AS a
INNER JOIN tags AS b ON a.tag >= 0 AND b.tag >= 0
INNER JOIN tags AS c ON b.score + c.score + a.score >= 0
GROUP BY a.uid
"""


def test_a_partner_that_takes_too_long_is_stopped(root, drop):
    drop("sql", ENDLESS)
    found, told = ran(root, [(n, TRAVEL, 5) for n in range(20_000)], seconds=2)
    assert not found
    assert "longer than 2 s" in told["acme"]["failure"]


def test_a_partner_with_too_many_rows_is_refused(root, drop):
    drop("sql", FANS)
    found, told = ran(root, max_rows=1)
    assert not found
    assert "more than 1 rows" in told["acme"]["failure"]


GREEDY = """
SELECT a.uid, 'partner.acme.fan' AS tag, CAST(ROW_NUMBER() OVER (ORDER BY a.uid ASC NULLS FIRST, b.uid ASC NULLS FIRST,
    a.tag ASC NULLS FIRST, b.tag ASC NULLS FIRST, a.source ASC NULLS FIRST, b.source ASC NULLS FIRST) AS INT) AS score,
    a.as_of_day
FROM tags AS a
INNER JOIN tags AS b ON a.score = b.score
"""


def test_a_partner_that_takes_too_much_memory_is_stopped(root, drop):
    drop("sql", GREEDY)
    found, told = ran(root, [(n, TRAVEL, 5) for n in range(4_000)], memory_mb=50)
    assert not found
    assert "emory" in told["acme"]["failure"]


def test_partners_tags_are_live_with_the_build_and_told_in_its_manifest(tmp_path, drop, root, store, client):
    config = DmpConfig(data_dir=str(tmp_path))
    drop("rule", '[[rules]]\ntag = "partner.acme.fan"\nall = [{tag = "interest.travel"}]')
    drop("sql", "SELECT nonsense", name="broken", declares=())
    offline.write_events(tmp_path / "e.parquet", [act(1, category="travel"), act(2, category="food")])
    made = offline.build(config, tmp_path / "e.parquet", NOW_US, store)
    one, two = read_users(client, [user(1), user(2)], NOW_US // 1_000_000)
    assert one.tags[partner_tag(OWN)] == 100
    assert partner_tag(OWN) not in two.tags
    told = json.loads(bytes(made.notes["partner"]))
    assert told["acme"]["rows"] == {OWN: 1}
    assert told["broken"]["failure"]
    assert made.rows["partner"] == 1


def test_partners_are_listed_and_checked(tmp_path, drop):
    drop("sql", FANS)
    drop("sql", "SELECT nonsense", name="broken", declares=())

    def tagbid(*arguments):
        command = [
            sys.executable,
            "-c",
            "import sys; from loadtest.cli import main; sys.exit(main())",
            "dmp",
            "partners",
        ]
        environ = {**os.environ, "TAGBID_DMP_DATA_DIR": str(tmp_path), "COLUMNS": "150"}
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )

    listed = json.loads(tagbid("list", "--json").stdout)
    assert [(row["partner"], bool(row["wrong"])) for row in listed] == [("acme", False), ("broken", True)]
    assert tagbid("check", "acme").returncode == 0
    wrong = tagbid("check", "broken")
    assert wrong.returncode == 2
    assert "nonsense" in wrong.stderr
    assert tagbid("check", "nobody").returncode == 2
