import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dmp import taxonomy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tagbid(tmp_path):
    """Run `tagbid dmp taxonomy ...` on a data directory of its own."""

    def run(*arguments):
        command = [
            sys.executable,
            "-c",
            "import sys; from loadtest.cli import main; sys.exit(main())",
            "dmp",
            "taxonomy",
        ]
        environ = {**os.environ, "TAGBID_DMP_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "150"}
        return subprocess.run(
            [*command, *map(str, arguments)], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def labels(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("label,count\ntravel,9\nautomobil,4\nmedicine,3\nqxzvwk,2\n[b]zzq,1\n", encoding="utf-8")
    return file


def test_tags_are_shown_whole_or_by_a_part_of_the_tree(tagbid):
    assert len(json.loads(tagbid("show", "--json").stdout)) == len(taxonomy.TAGS)
    shown = json.loads(tagbid("show", "lifecycle", "--json").stdout)
    assert [tag["name"] for tag in shown] == [
        "lifecycle", *(f"lifecycle.{stage}" for stage in ("new", "growing", "mature", "declining", "lost")),
    ]  # fmt: skip
    assert "流失用户" in tagbid("show", "lifecycle").stdout
    wrong = tagbid("show", "lifecicle")
    assert wrong.returncode == 2
    assert "lifecycle" in wrong.stderr


def test_a_sound_file_checks_and_a_broken_one_fails_with_every_problem(tagbid, tmp_path):
    sound = tagbid("check")
    assert sound.returncode == 0
    assert f"{len(taxonomy.TAGS)} tags" in sound.stdout
    broken = tmp_path / "broken.csv"
    broken.write_text(taxonomy.packaged().replace(",旅游,", ",,").replace("IAB20-18", "IAB-18"), encoding="utf-8")
    told = tagbid("check", broken, "--json")
    assert told.returncode == 1
    assert len(json.loads(told.stdout)["problems"]) == 3  # hotels stand under interest and intent
    assert "label_zh" in tagbid("check", broken).stderr
    assert tagbid("check", tmp_path / "none.csv").returncode == 2


def test_an_import_tells_what_maps_and_queues_the_rest_until_it_is_decided(tagbid, labels):
    done = json.loads(tagbid("import", labels, "--json").stdout)
    assert {state: done[state] for state in ("mapped", "suggested", "unknown", "rejected")} == {
        "mapped": 1, "suggested": 2, "unknown": 2, "rejected": 0,
    }  # fmt: skip
    assert done["mapped_share"] == round(9 / 19, 4)
    assert [answer["label"] for answer in done["labels"]] == ["travel", "automobil", "medicine", "qxzvwk", "[b]zzq"]
    assert "[b]zzq" in tagbid("review").stdout

    assert tagbid("accept", "automobil", "interest.automotive", "--who", "ann").returncode == 0
    assert tagbid("reject", "qxzvwk", "--who", "ann").returncode == 0
    refused = tagbid("accept", "medicine", "interest.health", "--who", "ann")
    assert refused.returncode == 2
    assert "--sensitive" in refused.stderr
    decided = json.loads(
        tagbid("accept", "medicine", "interest.health", "--who", "ann", "--sensitive", "--json").stdout
    )
    assert (decided["version"], decided["who"]) == (3, "ann")

    assert [answer["label"] for answer in json.loads(tagbid("review", "--json").stdout)] == ["[b]zzq"]
    again = json.loads(tagbid("import", labels, "--json").stdout)
    assert (again["mapped"], again["suggested"], again["unknown"], again["rejected"]) == (3, 0, 1, 1)
    assert again["version"] == 3
    before = json.loads(tagbid("import", labels, "--json", "--at-version", "1").stdout)
    assert (before["mapped"], before["version"]) == (2, 1)


def test_the_user_tags_of_the_ipinyou_log_import(tagbid, shared, tmp_path):
    path = shared / "data" / "ipinyou_log" / "user_profile_tags.parquet"
    if not path.exists():
        pytest.skip("needs ../shared/data/ipinyou_log")
    file = tmp_path / "labels.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("label",), *((name,) for name in pq.read_table(path)["name"].to_pylist())])
    done = json.loads(tagbid("import", file, "--json").stdout)
    assert done["mapped"] >= 0.9 * len(done["labels"])
    assert done["unknown"] == 0
