import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from dmp import offline
from dmp.pseudonym import KeyRing, load_key
from tests.dmp.factories import act

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tagbid(tmp_path):
    """Run `tagbid dmp ...` on a data directory of its own."""
    environ = {
        **os.environ,
        "TAGBID_STORE": "embedded",
        "TAGBID_DMP_DATA_DIR": str(tmp_path / "data"),
        "COLUMNS": "150",
    }

    def run(*arguments, **options):
        command = [
            sys.executable,
            "-c",
            "import sys; from loadtest.cli import main; sys.exit(main())",
            "dmp",
            *map(str, arguments),
        ]
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, **options)

    run.environ = environ
    return run


def now(event):
    return msgspec.structs.replace(event, time_us=time.time_ns() // 1000)


def test_tags_are_built_shown_and_rolled_back_from_the_command_line(tagbid, tmp_path):
    (tmp_path / "data").mkdir(mode=0o700)
    ring = KeyRing(load_key(tmp_path / "data" / "pseudonym.key"))
    alice = ring.uid("cookie", "alice")
    label = "zorbing[/]\x1b[2J"  # neither markup nor terminal codes
    events = tmp_path / "events.parquet"
    offline.write_events(events, [now(act(1, uid=alice, category="travel")), now(act(2, category=label))])
    first = tagbid("build", events, "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["users"] == 2
    offline.write_events(events, [now(act(1, uid=alice, category="food")), now(act(2, category=label))])
    second = tagbid("build", events)
    assert second.returncode == 0, second.stderr
    assert r"'zorbing[/]\x1b[2J' (1)" in second.stdout
    shown = json.loads(tagbid("profile", "alice", "--json").stdout)
    assert (shown["generation"], shown["tags"]["interest.food"]) == (2, 100)
    assert "generation 1 is live" in tagbid("rollback").stdout
    held = json.loads(tagbid("profile", "alice", "--json").stdout)["explained"]
    told = tagbid("profile", "alice").stdout
    assert "interest.travel" in told
    # Eighty columns cut nothing off: what is too wide goes on in the next line.
    assert "…" not in told
    assert all(text in told for tag in held for text in (tag["tag"], tag["as_of"], tag["label_en"], tag["label_zh"]))


def test_a_broken_event_file_ends_the_command_with_a_message_and_no_traceback(tagbid, tmp_path):
    broken = tmp_path / "events.parquet"
    broken.write_text("a,b")
    done = tagbid("build", broken)
    assert done.returncode == 2
    assert "events.parquet: not a Parquet file" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_store_runs_in_the_foreground_until_told_to_stop(tagbid, tmp_path):
    command = [
        sys.executable,
        "-u",
        "-c",
        "import sys; from loadtest.cli import main; sys.exit(main())",
        "dmp",
        "store",
    ]
    with subprocess.Popen(command, cwd=ROOT, env=tagbid.environ, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert "tag store at unix://" in server.stdout.readline()
        assert "already running" in tagbid("store", timeout=30).stdout
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
    assert not (tmp_path / "data" / "store" / "valkey.sock").exists()


def test_an_id_that_is_none_is_told(tagbid):
    done = tagbid("profile", "null")
    assert done.returncode == 2
    assert "no usable cookie id" in done.stderr
    assert "none of cookie, device" in tagbid("profile", "x", "--id-type", "shoe").stderr


def test_the_taxonomy_is_listed_for_people_and_machines(tagbid):
    assert "interest.travel" in tagbid("taxonomy").stdout
    assert {"interest.travel", "rfm.recency.5"} <= {
        tag["name"] for tag in json.loads(tagbid("taxonomy", "--json").stdout)
    }
