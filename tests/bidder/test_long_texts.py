"""What senders may make a bidder remember is short, whatever they send (S-02)."""

import pytest

from bidder import useragent
from models import features


@pytest.mark.rule("S-02")
def test_long_user_agents_are_remembered_by_what_is_read_of_them():
    start = "Mozilla/5.0 (Linux; Android 14) long " + "x" * useragent.MAX_CHARS
    before = useragent._families.cache_info().currsize
    found = {useragent.families(f"{start}{i}") for i in range(50)}
    assert found == {useragent.families(start[: useragent.MAX_CHARS])}
    assert useragent._families.cache_info().currsize == before + 1


@pytest.mark.rule("S-02")
def test_long_names_of_placements_are_told_apart_and_not_remembered():
    names = ["slot " + "x" * 8_000 + str(i) for i in range(50)]
    before = features._number.cache_info().currsize
    assert len({features._place_hash(name) for name in names}) > 40
    assert features._number.cache_info().currsize == before
    assert features._place_hash("slot 1") == features._place_hash("slot 1")
    assert features._number.cache_info().currsize == before + 1
