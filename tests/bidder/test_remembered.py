import json
import tracemalloc
from itertools import product
from sys import getsizeof

import msgspec
import pytest

from bidder.openrtb_media import Banner
from bidder.remembered import MAX_KEY_BYTES, Remembered


def test_an_answer_is_made_once_and_the_first_asked_is_forgotten_first():
    asked = []
    known = Remembered(lambda key: asked.append(key) or key * 2, 9, 2 * (9 + getsizeof(1)))
    assert [known[n] for n in (1, 2, 1, 2, 3, 2, 1)] == [2, 4, 2, 4, 6, 4, 2]
    assert asked == [1, 2, 3, 1]
    assert list(known) == [3, 1]


def test_what_is_long_takes_the_place_of_many():
    known = Remembered(len, 0, 1_500)  # a text takes 49 bytes more than it has letters
    for n in range(100, 110):
        assert known["x" * n] == n
    assert len(known) == 9
    assert known["y" * 1_400] == 1_400
    assert list(known) == ["y" * 1_400]


def test_what_is_too_long_is_answered_and_not_kept():
    known = Remembered(len, 0, 1 << 20)
    assert known["x" * 2 * MAX_KEY_BYTES] == 2 * MAX_KEY_BYTES
    assert len(known) == 0


def test_memory_of_nothing_still_answers():
    known = Remembered(len, 1_000, 0)
    assert (known["abc"], len(known)) == (3, 0)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda i: {"mimes": [f"{i:x}{n:x}" for n in range(1_000)]}, id="many short texts"),
        pytest.param(lambda i: {"battr": [1_000 * i + n + 257 for n in range(1_000)]}, id="many numbers"),
        pytest.param(lambda i: {"format": [{"w": i}] + [{}] * 1_000}, id="many empty objects"),
        pytest.param(lambda i: {"mimes": [f"{i}" + "x" * 4_000 + "\N{HAMMER}"]}, id="wide letters"),
        pytest.param(lambda i: {"w": i, "h": i}, id="what is usual"),
    ],
)
def test_no_key_takes_more_memory_than_is_counted(said):
    most = 1 << 18
    known = Remembered(lambda banner: 0, 400, most)  # 400: a place in the dict
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i in range(1_000):
            known[msgspec.json.decode(json.dumps(said(i + 257)), type=Banner)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < most


def test_keys_that_hash_alike_are_not_collected():
    assert hash((-1, -2)) == hash((-2, -1))
    known = Remembered(len, 0, 1 << 20)
    for attributes in product((-1, -2), repeat=8):
        assert known[attributes] == 8
    assert list(known) == [(-1,) * 8]
