"""What a page says of itself: its words, and the standard tags they stand for.

Keywords are asked by the rules of campaigns, topics are features of the models. A page comes back again and again, so
its words are worked out once and remembered while they are few; search terms, which a person typed, are not remembered.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from bidder.openrtb import App, Dooh, Request, Site
from bidder.remembered import Remembered
from dmp import taxonomy

_WORD = re.compile(r"[^\W\d_]{3,}")
REMEMBERED = 2_048  # pages; 20 MB of the longest
MAX_REMEMBERED_CHARS = 400
MAX_WORD = 100  # characters of a word that may name a topic
MAX_ODD = 200  # words that are put into normal spelling, 0.5 ms; what is beyond is taken as it is spelt

Texts = tuple[str, ...]
_NAMES: Mapping[str, int] = {
    label: tag
    for (facet, label), tag in taxonomy.LABELS.items()
    if facet == "interest" and not taxonomy.BY_ID[tag].sensitive
}
_normal = lru_cache(maxsize=16_384)(taxonomy.normal)


def keywords(request: Request) -> frozenset[str]:
    """What the page is about in its own words, lower case: its keywords and those of its content, search terms, and the
    words of its address, title, series and genre.
    """
    said = _words(*_told(request))
    terms = request.site.search if request.site is not None else None
    return said | words_of((terms,), (terms,)) if terms else said


def topics(request: Request) -> tuple[int, ...]:
    """Standard tags the page names, search terms aside, the most often named first."""
    place = request.site or request.app
    if place is not None and place.keywords is None and place.kwarray is None and place.content is None:
        # Most pages say no more than their address, and apps nothing.
        return _of_address[place.page] if isinstance(place, Site) and place.page else ()
    lists, texts = _told(request)
    return topics_of(words_of(lists, texts)) if _long(lists, texts) else _remembered_topics(lists, texts)


def searched(request: Request) -> tuple[int, ...]:
    """Standard tags that were searched for."""
    terms = request.site.search if request.site is not None else None
    return topics_of(words_of((terms,), (terms,))) if terms else ()


def _told(request: Request) -> tuple[Texts, Texts]:
    """(comma-separated lists, running texts) of a page, an app or a screen."""
    place: Site | App | Dooh | None = request.site or request.app or request.dooh
    if place is None:
        return (), ()
    lists: Texts = (place.keywords or "",)
    texts: Texts = ()
    if not isinstance(place, Dooh):
        if place.kwarray:
            lists += tuple(place.kwarray)
        content = place.content
        if content is not None:
            lists += (content.keywords or "", *(content.kwarray or ()), content.genre or "")
            texts = (content.title or "", content.series or "")
        if isinstance(place, Site) and place.page:
            texts += (_path(place.page),)
    return lists, texts


def _path(address: str) -> str:
    return address.partition("://")[2].partition("/")[2]


def words_of(lists: Texts, texts: Texts) -> frozenset[str]:
    """Words and phrases in lower case.

    >>> sorted(words_of(("Ski boots,snow",), ("/travel/2",)))
    ['ski boots', 'snow', 'travel']
    """
    found = {word for part in ",".join(lists).lower().split(",") if (word := part.strip())}
    return frozenset(found.union(*(_WORD.findall(text.lower()) for text in texts)))


def topics_of(words: Iterable[str]) -> tuple[int, ...]:
    """The standard tags of interests that words stand for, by how many of the words do.

    >>> taxonomy.tag_name(topics_of(["Travel", "trip", "unheard of"])[0])
    'interest.travel'
    """
    found: Counter[int] = Counter()
    odd = 0
    for word in words:
        tag = _NAMES.get(word)
        if tag is None and len(word) <= MAX_WORD and not (word.isascii() and word.isalnum() and word.islower()):
            odd += 1
            tag = _NAMES.get(_normal(word)) if odd <= MAX_ODD else None
        if tag is not None:
            found[tag] += 1
    return tuple(sorted(found, key=lambda tag: (-found[tag], tag)))


def _words(lists: Texts, texts: Texts) -> frozenset[str]:
    return words_of(lists, texts) if _long(lists, texts) else _remembered_words(lists, texts)


def _long(lists: Texts, texts: Texts) -> bool:
    said = lists + texts
    return len(said) + sum(map(len, said)) > MAX_REMEMBERED_CHARS  # empty words take memory, too


_remembered_words = lru_cache(maxsize=REMEMBERED)(words_of)


_of_address: Remembered[str, tuple[int, ...]] = Remembered(
    lambda address: topics_of(words_of((), (_path(address),))), 300, 4 * 1024**2
)  # 10,000 addresses


@lru_cache(maxsize=REMEMBERED)
def _remembered_topics(lists: Texts, texts: Texts) -> tuple[int, ...]:
    return topics_of(words_of(lists, texts))
