"""Event detection: trigger rules (`dmp.rules`) over what the stream just put into a user's record.

What is raised follows from a user's events, never from the order in which they came. A rule is made of atoms, such as
"searched interest.travel" or "in region R". Of each atom the record remembers when the latest events came that match it
(its moments: as many as the rule counts, at least LEAST_KEPT; MAX_MOMENTS of all atoms together), and the latest
MAX_RECENT events of any kind. The latest of so many is the same whatever order they came in. At each of these moments
it is asked anew whether a rule held then, looking back from it; what it raises ends a stated time after the last moment
that met it. So a purchase that comes late withdraws what "no purchase" raised too early, and the user leaves the
audience.

**What is forgotten is unknown.** Where a window reaches back to events that are remembered no more, an atom is met if
enough of it is remembered, and else unknown; a rule that is unknown at a moment did not hold there. That happens to a
user with more than LEAST_KEPT matches of one atom within the window and the time the rule lasts.

Times are whole seconds. An event is about a hot topic by the list published when it is applied. An audience that a rule
names is the rule's alone: who does not meet it is taken out.
"""

import time
import zoneinfo
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import ge, gt, le, lt

import redis

from dmp import keys, store
from dmp.acts import Act
from dmp.events import Behaviour
from dmp.realtime import MAX_MOMENTS, Moment, Recent
from dmp.rules import ANY, HOT, Acted, All, Any, At, Condition, InRegion, Not, Rules, Scored, parts_of
from dmp.schema import Uid
from dmp.stream import Happened, Judged, Watch
from dmp.trends import Hot, published

LEAST_KEPT = 8  # moments of an atom
REGION_S = 86_400
HOT_LOOK_S = 5.0  # how often the hot topics of the store are read
_HOT_TAG = 2**24 - 1  # above every standard tag
_COMPARE: dict[str, Callable[[int, int], bool]] = {">=": ge, ">": gt, "<=": le, "<": lt}
Profile = Callable[[], Mapping[int, int]]
"""Reads the user's long-term tags when somebody asks."""


def atom(part: Acted | InRegion) -> int:
    """The number under which the moments of an atom are remembered: u32.

    >>> hex(atom(Acted(ANY, 0, 2, 60))), hex(atom(Acted(1, 5001, 9, 1)))
    ('0x0', '0x2001389')
    """
    if isinstance(part, InRegion):
        return 1 << 31 | keys.number(f"!region:{part.region}") & 0x7FFF_FFFF
    return part.kind + 1 << 24 | (_HOT_TAG if part.tag == HOT else part.tag)


def kept_of(rules: Rules) -> dict[int, int]:
    """{atom of the rules: how many of its latest moments are remembered}."""
    kept: dict[int, int] = {}
    for rule in rules.rules:
        for part in parts_of(rule.when):
            if isinstance(part, Acted | InRegion):
                most = part.times if isinstance(part, Acted) else 1
                kept[atom(part)] = max(LEAST_KEPT, most, kept.get(atom(part), 0))
    return kept


def matched(event: Behaviour, act: Act, kept: Mapping[int, int], hot: Sequence[Hot]) -> list[Moment]:
    """The moments an event is, one for each atom it matches."""
    tag = act.subject.tag
    tags = {0, tag, _HOT_TAG} if was_hot(tag, act.time_us, hot) else {0, tag}
    able = [atom(Acted(kind, about, 1, 0)) for kind in (ANY, act.kind) for about in tags]
    if event.region:
        able.append(atom(InRegion(event.region)))
    return [Moment(act.time_us // 1_000_000, one) for one in able if one in kept]


def was_hot(tag: int, time_us: int, hot: Sequence[Hot]) -> bool:
    """Whether something about a tag was about a topic that was hot at that time."""
    return any(tag == one.tag != 0 and one.since_us <= time_us < one.until_us for one in hot)


def remembered(moments: Iterable[Moment], kept: Mapping[int, int]) -> list[Moment]:
    """The latest moments of each atom, and of all together; latest first. Whatever is added in parts gives the same."""
    found: list[Moment] = []
    number: Counter[int] = Counter()
    for moment in sorted(moments, reverse=True):
        number[moment.atom] += 1
        if number[moment.atom] <= kept.get(moment.atom, 0):
            found.append(moment)
    return found[:MAX_MOMENTS]


class Memory:
    """What is remembered of a user. moments: as `remembered` gives them. recent: latest events, of any kind."""

    def __init__(self, moments: Sequence[Moment], recent: Sequence[Recent], kept: Mapping[int, int]) -> None:
        self.recent = {event.time_us // 1_000_000 for event in recent}
        self._seconds: dict[int, list[int]] = defaultdict(list)
        for second, one in moments:
            self._seconds[one].append(second)
        self._kept = kept
        self._all_since = moments[-1].second if len(moments) == MAX_MOMENTS else 0

    def of(self, one: int) -> list[int]:
        """Seconds of an atom's moments, latest first."""
        return self._seconds.get(one, [])

    def count(self, one: int, after_s: int, until_s: int, enough: int) -> bool | None:
        """Whether an atom was met `enough` times in (after_s, until_s]; None when that is not remembered."""
        seconds = self.of(one)
        if sum(after_s < second <= until_s for second in seconds) >= enough:
            return True
        since = seconds[-1] if len(seconds) >= self._kept.get(one, LEAST_KEPT) else 0
        return False if after_s >= max(since, self._all_since) else None


def triggers(rules: Rules, memory: Memory, profile: Profile) -> tuple[dict[int, int], dict[str, int]]:
    """({tag: unix second it ends}, {audience: unix second it ends, 0 for not in it}) as of what is remembered."""
    zone = zoneinfo.ZoneInfo(rules.zone)
    tags: dict[int, int] = {}
    entered: dict[str, int] = {}
    for rule in rules.rules:
        own = (atom(part) for part in parts_of(rule.when) if isinstance(part, Acted | InRegion))
        moments = sorted(memory.recent.union(*map(memory.of, own)), reverse=True)
        last_s = next((at for at in moments if holds(rule.when, at, memory, profile, zone)), None)
        until_s = 0 if last_s is None else last_s + rule.for_us // 1_000_000
        if rule.audience:
            entered[rule.audience] = max(until_s, entered.get(rule.audience, 0))
        elif until_s:
            tags[rule.tag] = max(until_s, tags.get(rule.tag, 0))
    return tags, entered


def holds(when: Condition, at_s: int, memory: Memory, profile: Profile, zone: zoneinfo.ZoneInfo) -> bool | None:
    """Whether a condition held at a moment, which may be before the user's newest event; None when that is unknown."""

    def met(part: Condition) -> bool | None:
        match part:
            case Acted(_, _, times, window_us):
                return memory.count(atom(part), at_s - window_us // 1_000_000, at_s, times)
            case InRegion(_):
                return memory.count(atom(part), at_s - REGION_S, at_s, 1)
            case At(days, first, end):
                local = datetime.fromtimestamp(at_s, zone)
                return local.weekday() in days and first <= local.hour < end
            case Scored(tag, compare, score):
                return _COMPARE[compare](profile().get(tag, 0), score)
            case Not(inner):
                found = met(inner)
                return None if found is None else not found
            case All(inner):
                answers = [met(part) for part in inner]
                return False if False in answers else None if None in answers else True
            case Any(inner):
                answers = [met(part) for part in inner]
                return True if True in answers else None if None in answers else False

    return met(when)


def watcher(rules: Rules, client: redis.Redis) -> Watch:
    """The rules as the stream asks them."""
    kept = kept_of(rules)
    wants_hot = any(one & _HOT_TAG == _HOT_TAG and one < 1 << 31 for one in kept)
    hot: list[Hot] = []
    looked_s = -HOT_LOOK_S

    def hot_now() -> list[Hot]:
        nonlocal hot, looked_s
        if wants_hot and time.monotonic() - looked_s >= HOT_LOOK_S:
            hot, looked_s = published(client), time.monotonic()
        return hot

    def watch(uid: Uid, moments: Sequence[Moment], recent: Sequence[Recent], happened: Sequence[Happened]) -> Judged:
        topics = hot_now()
        fresh = [moment for event, act in happened for moment in matched(event, act, kept, topics)]
        known: list[Mapping[int, int]] = []

        def profile() -> Mapping[int, int]:
            if not known:
                known.append(store.read_users(client, [uid], int(time.time()))[0].tags)
            return known[0]

        held = remembered([*moments, *fresh], kept)
        tags, entered = triggers(rules, Memory(held, recent, kept), profile)
        return Judged(held, tags, {keys.number(name): until_s for name, until_s in entered.items()})

    return watch
