import pytest

from dmp import families
from dmp.engine import DuckEngine
from tests.dmp.golden import CASES, family_tags, prepared


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}: {case.name}")
def test_a_family_makes_of_its_golden_events_what_its_rule_says(case, tmp_path):
    with DuckEngine() as engine:
        assert family_tags(engine, case, prepared(case, tmp_path / "events.parquet")) == case.tags


def test_every_family_has_golden_data():
    assert {case.family for case in CASES} == set(families.SQL_FAMILIES)
