"""What was read from a consent string is kept, within bounds (P-05)."""

import pytest

from bidder.consent_cache import ENTRIES, Cached, weigh


def counting(answers: list[str]):
    def load(key: str) -> str:
        answers.append(key)
        return key.upper()

    return load


@pytest.mark.rule("P-05")
def test_a_kept_answer_is_not_worked_out_again():
    asked: list[str] = []
    cached = Cached(counting(asked))
    assert [cached(key) for key in ("a", "b", "a", "a", "b")] == ["A", "B", "A", "A", "B"]
    assert asked == ["a", "b"]


@pytest.mark.rule("P-05")
def test_none_is_an_answer_worth_keeping():
    asked: list[str] = []
    cached: Cached[str, None] = Cached(asked.append)
    assert cached("junk") is None
    assert cached("junk") is None
    assert asked == ["junk"]


@pytest.mark.rule("P-05")
def test_the_least_recently_asked_goes_first():
    asked: list[str] = []
    cached = Cached(counting(asked), entries=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        cached(key)
    assert asked == ["a", "b", "c", "b"]
    assert len(cached) == 2


@pytest.mark.rule("P-05")
def test_bytes_are_bounded_too_and_the_count_comes_back_down():
    cached = Cached(str.upper, size_bytes=100_000)
    for i in range(1000):
        cached(f"{i:08}" * 500)
        assert cached.used_bytes <= 100_000
        assert cached.used_bytes == len(cached) * weigh("x" * 4000)
    assert 1 <= len(cached) <= 100_000 // 8000


@pytest.mark.rule("P-05")
def test_an_answer_too_large_to_keep_is_given_and_not_kept():
    cached = Cached(str.upper, size_bytes=2000)
    cached("small")
    assert cached("x" * 5000) == "X" * 5000
    assert len(cached) == 1


@pytest.mark.rule("P-05")
def test_by_default_50_000_answers_are_kept():
    cached = Cached(lambda key: key)
    for i in range(ENTRIES + 100):
        cached(i)
    assert len(cached) == ENTRIES == 50_000
