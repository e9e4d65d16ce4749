"""Calls whose users arrive in one turn of the loop are decided together, and none of them costs another its answer."""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from bidder import bidding
from bidder.bidding import TOGETHER, TOGETHER_S, Bidder, _Choice
from bidder.call import Answer, Call
from bidder.config import ExchangeConfig
from bidder.experiments import NONE
from bidder.reasons import Reason


class Steps(Bidder):
    """A bidder that writes down what it does; a request named "wrong" is a mistake of ours, at "full" memory is.

    clock: seconds, of which a decision takes `costs`.
    """

    def __init__(self, costs: float = 0.0) -> None:
        self.steps: list[str] = []
        self.clock = 0.0
        self.costs = costs
        self.told: list[float] = []
        self.in_flight = 0
        self._read: deque[Call] = deque()
        self._chosen: deque[tuple[Call, _Choice | Answer]] = deque()
        self._pressure: Any = SimpleNamespace(decided=self.told.append)
        self._counts: Any = [0]
        self._no_store = 0
        self._no_bid: Any = dict.fromkeys(Reason, 0)
        self._statuses: Any = {204: 0}
        self._latency: Any = SimpleNamespace(observe=lambda _: None)

    def _decide(self, call: Call) -> _Choice:
        self.steps.append(f"decide {call.request}")
        if call.request == "wrong":
            raise KeyError("a mistake")
        if call.request == "full":
            raise MemoryError
        self.clock += self.costs
        decision: Any = None
        return _Choice(decision, 0, NONE, best_only=True)

    def _answer(self, call: Call, choice: _Choice) -> Answer:
        self.steps.append(f"answer {call.request}")
        return 200

    def _defect(self, error: BaseException, arrived_s: float) -> int:
        self.steps.append(f"defect {error}")
        return 204


def arrive(bidder: Steps, *names: str, done: Any, deadline_s: float = 1e12) -> None:
    endpoint: Any = SimpleNamespace(exchange=ExchangeConfig())
    for name in names:
        request: Any = name
        serving: Any = None
        privacy: Any = None
        bidder.in_flight += 1
        call = Call(request, endpoint, serving, privacy, None, 0.0, deadline_s, lambda answer, n=name: done(n, answer))  # type: ignore[misc]
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


async def test_calls_that_take_long_are_not_decided_all_before_the_first_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bidder, got = Steps(costs=TOGETHER_S / 1.5), list[tuple[str, float]]()
    monkeypatch.setattr(bidding, "time", SimpleNamespace(monotonic=lambda: bidder.clock))
    arrive(bidder, *"abcd", done=lambda name, _: got.append((name, round(bidder.clock / bidder.costs))))
    await asyncio.sleep(0)
    assert got == [("a", 2), ("b", 2)]
    await asyncio.sleep(0)
    assert got[2:] == [("c", 4), ("d", 4)]


async def test_what_comes_too_late_does_not_make_decisions_look_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    bidder, got = Steps(costs=0.001), list[tuple[str, Answer]]()
    monkeypatch.setattr(bidding, "time", SimpleNamespace(monotonic=lambda: bidder.clock))
    bidder.clock = 5.0
    arrive(bidder, *"late", done=lambda *found: got.append(found), deadline_s=1.0)
    arrive(bidder, "a", done=lambda *found: got.append(found))
    await asyncio.sleep(0)
    assert got == [("l", 204), ("a", 204), ("t", 204), ("e", 204), ("a", 200)]
    assert bidder.told == pytest.approx([0.001])


async def test_one_call_that_memory_runs_out_at_does_not_keep_the_others_waiting_for_ever() -> None:
    bidder, got, told = Steps(), list[str](), list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(repr(context["exception"])))
    arrive(bidder, "a", "full", "c", done=lambda name, _: got.append(name))
    await asyncio.sleep(0)
    arrive(bidder, "d", done=lambda name, _: got.append(name))
    await asyncio.sleep(0)
    assert (got, told) == (["a", "c", "d"], ["MemoryError()"])
    assert bidder.in_flight == 0
