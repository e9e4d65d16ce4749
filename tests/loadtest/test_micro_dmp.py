"""The benchmark's parts run small and tell the figures that are promised; what they measure is not judged here."""

import json

import pytest
from rich.console import Console

from dmp.errors import TagbidError
from loadtest import micro_dmp

KEYS = {
    "tags": {"tags_over_hand_sql", "tags_peak_mb", "cost_20m_over_2m", "tags_total_s"},
    "read": {"read_p99_us", "read_p50_us"},
    "ingest": {"ingest_rows_per_s"},
    "bitmaps": {"size_expression_ms", "overlap_ms", "tgi_ms", "bitmap_build_s"},
    "publish": {"publish_over_raw_set", "gib_per_million_users", "swap_memory_ratio_all", "swap_memory_ratio_fifth"},
}


@pytest.mark.timeout(600)  # the part "tags" starts three processes that build
@pytest.mark.parametrize("part", KEYS)
def test_a_part_tells_its_figures_with_their_goals(tmp_path, part):
    out = tmp_path / "dmp.json"
    done = micro_dmp.run(out, 0.001, [part])
    stored = json.loads(out.read_bytes())
    assert KEYS[part] <= set(stored["figures"])
    assert all(stored["figures"][key] > 0 for key in KEYS[part])
    console = Console(record=True, width=120)
    micro_dmp.print_table(console, done)
    shown = console.export_text()
    assert all(key in shown for key in KEYS[part])
    assert "goal" in shown


def test_memory_of_a_generation_and_of_a_swap_are_near_what_the_records_take(tmp_path):
    """808 bytes a record; when everybody changes, both banks are held: twice, and a fifth once and a fifth more."""
    told = micro_dmp.run(None, 0.02, ["publish"]).figures
    assert 808 / 2**30 * 1e6 < told["gib_per_million_users"] <= 1.0
    # Of few users the store's tables, which grow by doubling, take a larger share than of a million.
    assert 1.15 < told["swap_memory_ratio_fifth"] <= 1.4
    assert 1.9 < told["swap_memory_ratio_all"] <= 2.1


def test_an_unknown_part_is_told_with_those_there_are():
    with pytest.raises(TagbidError, match="there are tags, read, ingest"):
        micro_dmp.run(None, 1.0, ["reads"])
