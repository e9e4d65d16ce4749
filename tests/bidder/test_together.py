"""Calls whose users arrive in one turn of the loop are decided together, and none of them costs another its answer."""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

from bidder.bidding import TOGETHER, Bidder, _Choice
from bidder.call import Answer, Call
from bidder.config import ExchangeConfig
from bidder.experiments import NONE


class Steps(Bidder):
    """A bidder that writes down what it does; a request named "wrong" is a mistake of ours."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.in_flight = 0
        self._read: deque[Call] = deque()
        self._chosen: deque[tuple[Call, _Choice | Answer]] = deque()
        self._pressure: Any = SimpleNamespace(decided=lambda _: None)
        self._counts: Any = [0]
        self._no_store = 0

    def _decide(self, call: Call) -> _Choice:
        self.steps.append(f"decide {call.request}")
        if call.request == "wrong":
            raise KeyError("a mistake")
        decision: Any = None
        return _Choice(decision, 0, NONE, best_only=True)

    def _answer(self, call: Call, choice: _Choice) -> Answer:
        self.steps.append(f"answer {call.request}")
        return 200

    def _defect(self, error: BaseException, arrived_s: float) -> int:
        self.steps.append(f"defect {error}")
        return 204


def arrive(bidder: Steps, *names: str, done: Any) -> None:
    endpoint: Any = SimpleNamespace(exchange=ExchangeConfig())
    for name in names:
        request: Any = name
        serving: Any = None
        privacy: Any = None
        bidder.in_flight += 1
        call = Call(request, endpoint, serving, privacy, None, 0.0, 1e12, lambda answer, n=name: done(n, answer))  # type: ignore[misc]
        bidder._resume(call, None)


async def test_all_are_decided_before_the_first_is_answered() -> None:
    bidder, got = Steps(), list[tuple[str, Answer]]()
    arrive(bidder, "a", "wrong", "c", done=lambda *found: got.append(found))
    assert bidder.steps == []
    assert bidder.in_flight == 3
    await asyncio.sleep(0)
    assert bidder.steps == ["decide a", "decide wrong", "defect 'a mistake'", "decide c", "answer a", "answer c"]
    assert got == [("a", 200), ("wrong", 204), ("c", 200)]
    assert bidder.in_flight == 0


async def test_whoever_fails_to_take_an_answer_costs_no_other_its_own() -> None:
    bidder, got, told = Steps(), list[str](), list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))

    def done(name: str, _: Answer) -> None:
        if name == "gone":
            raise RuntimeError("the transport is closed")
        got.append(name)

    arrive(bidder, "gone", "b", "c", done=done)
    await asyncio.sleep(0)
    assert (got, told) == ([], ["the transport is closed"])
    arrive(bidder, "d", done=done)
    await asyncio.sleep(0)
    assert got == ["b", "c", "d"]
    assert bidder.in_flight == 0


async def test_many_at_once_do_not_keep_the_loop_from_others() -> None:
    bidder, got = Steps(), list[str]()
    names = [str(n) for n in range(TOGETHER + 3)]
    arrive(bidder, *names, done=lambda name, _: got.append(name))
    await asyncio.sleep(0)
    assert got == names[:TOGETHER]
    await asyncio.sleep(0)
    assert got == names
