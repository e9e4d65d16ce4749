import asyncio

import pytest

from dmp.remembered import Remembered


class Source:
    """Answers with how often it was asked, when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def find(self, name: str) -> str:
        self.asked += 1
        told = f"{name} {self.asked}"
        await self.may_answer.wait()
        return told


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [100.0]
    monkeypatch.setattr("dmp.remembered.time.monotonic", lambda: now_s[0])
    return now_s


async def test_a_young_answer_is_not_asked_for_again(clock: list[float]) -> None:
    source = Source()
    held = Remembered(source.find, life_s=1.0)
    assert [await held.get("a"), await held.get("a"), await held.get("b")] == ["a 1", "a 1", "b 2"]


async def test_half_way_it_is_renewed_and_nobody_waits_for_that(clock: list[float]) -> None:
    source = Source()
    held = Remembered(source.find, life_s=1.0)
    await held.get("a")
    source.may_answer.clear()
    clock[0] += 0.6
    assert await held.get("a") == "a 1"
    assert await held.get("a") == "a 1"
    source.may_answer.set()
    async with asyncio.timeout(5):
        while await held.get("a") == "a 1":  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)  # until the renewal that runs is done
    assert source.asked == 2


async def test_an_old_answer_is_not_given_and_many_who_wait_ask_once(clock: list[float]) -> None:
    source = Source()
    held = Remembered(source.find, life_s=1.0)
    await held.get("a")
    clock[0] += 1.0
    assert await asyncio.gather(*(held.get("a") for _ in range(5))) == ["a 2"] * 5


async def test_age_counts_from_when_it_was_asked_for_and_not_from_the_answer(clock: list[float]) -> None:
    source = Source()
    held = Remembered(source.find, life_s=1.0)
    source.may_answer.clear()
    first = asyncio.ensure_future(held.get("a"))
    await asyncio.sleep(0)
    clock[0] += 2.0
    source.may_answer.set()
    assert await first == "a 1"
    assert await held.get("a") == "a 2"


async def test_who_gives_up_does_not_take_the_others_answer_along(clock: list[float]) -> None:
    source = Source()
    source.may_answer.clear()
    held = Remembered(source.find, life_s=1.0)
    hasty, patient = asyncio.ensure_future(held.get("a")), asyncio.ensure_future(held.get("a"))
    await asyncio.sleep(0)
    hasty.cancel()
    source.may_answer.set()
    assert await patient == "a 1"


async def test_a_failure_is_told_and_not_remembered(clock: list[float]) -> None:
    async def find(name: str) -> str:
        if not failed:
            failed.append(name)
            raise ValueError(name)
        return name

    failed: list[str] = []
    held = Remembered(find, life_s=1.0)
    with pytest.raises(ValueError, match="a"):
        await held.get("a")
    assert await held.get("a") == "a"
