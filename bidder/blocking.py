"""Rules of those who sell: which seats, advertisers, categories, apps and languages they take, what they approved."""

from collections.abc import Sequence

from bidder.index import Index
from bidder.pages import host
from bidder.transparency import CANNOT_SHOW, REQUIRED, WILL_SHOW, asked
from bidder.view import View

_ODD = ("/", "www.", " ", "*", "\n.", ".\n")
"""What a listed domain holds that is not written as the standard has it."""


def asks(seen: View) -> bool:
    """Whether a request has any list that the rules `of_lists` look at; without one they let all pass."""
    request = seen.request
    return bool(
        request.bcat or request.badv or request.acat or request.bapp or request.wseat or request.bseat
        or request.wlang or request.wlangb or asked(request) is not None
    )  # fmt: skip


def seat(index: Index, seen: View) -> int:
    """`wseat` and `bseat` filter the seat we would answer under."""
    allowed, blocked = seen.request.wseat, seen.request.bseat
    mask = index.everything if not allowed else 0
    for name in allowed or ():
        mask |= index.seats.get(name, 0)
    for name in blocked or ():
        mask &= ~index.seats.get(name, 0)
    return mask


def audit(index: Index, seen: View) -> int:
    """Creatives this exchange has not refused; of an exchange that approves creatives, those it has approved."""
    return index.audits.get(seen.exchange, index.everything)


def answer_size(index: Index, seen: View) -> int:
    """Creatives whose bids fit into an answer of this exchange."""
    return index.light.get(seen.exchange, index.everything)


def blocked_category(index: Index, seen: View) -> int:
    """`bcat` and `acat` against what is advertised; blocking a parent blocks its children.

    Codes are compared within one taxonomy (`cattax`, 1 when absent). An ad without labels in that taxonomy passes
    neither list, because nobody can tell what it is about.
    """
    request = seen.request
    if not request.bcat and not request.acat:
        return index.everything
    labels = index.labels.get(request.cattax or 1)
    if labels is None:
        return 0
    blocked = labels.owners.get("", 0)
    if request.bcat:
        for code in labels.owners.keys() & codes(request.bcat):
            blocked |= labels.owners[code]
    if request.acat:
        allowed = set(codes(request.acat))
        for code, mask in labels.exact.items():
            if code not in allowed and code.partition("-")[0] not in allowed:
                blocked |= mask
    return index.everything & ~blocked


def codes(listed: Sequence[str]) -> list[str]:
    """Categories of a list in the spelling of the index: many at once, because such lists are long.

    >>> codes(["IAB7-39", " iab20"])
    ['IAB7-39', 'IAB20']
    """
    return "\n".join(listed).upper().replace(" ", "").split("\n")


def blocked_advertiser(index: Index, seen: View) -> int:
    """`badv` against adomain and the domains above it, whatever the case."""
    if not seen.request.badv:
        return index.everything
    blocked = 0
    for domain in index.advertisers.keys() & domains(seen.request.badv):
        blocked |= index.advertisers[domain]
    return index.everything & ~blocked


def domains(listed: Sequence[str]) -> list[str]:
    """Domains of a block list in lower case; some are written as addresses or patterns, and then their domain is meant.

    >>> domains(["Acme.example", "https://www.shop.example/shoes/*", "*.toys.example", ".news.example", "a.example."])
    ['acme.example', 'shop.example', 'toys.example', 'news.example', 'a.example']
    """
    text = "\n".join(listed).lower()
    found = text.split("\n")
    if any(mark in f"\n{text}\n" for mark in _ODD):  # seldom, and a look at all of them costs less than at each
        found = [host(name.strip()).lstrip("*.").removeprefix("www.") for name in found]
    return found


def blocked_app(index: Index, seen: View) -> int:
    blocked = 0
    for bundle in seen.request.bapp or ():
        blocked |= index.bundles.get(bundle, 0)
    return index.everything & ~blocked


def language(index: Index, seen: View) -> int:
    """With `wlang` or `wlangb`, only creatives known to be in listed languages, all of theirs; or in none ("xx")."""
    mask = index.everything
    for listed in (seen.request.wlang, seen.request.wlangb):
        if listed:
            ranges = [name.lower() for name in listed]
            passing = 0
            for languages, ads in index.languages:
                if languages and all(name == "xx" or in_range(name, ranges) for name in languages):
                    passing |= ads
            mask &= passing
    return mask


def transparency(index: Index, seen: View) -> int:
    """Where the Digital Services Act requires it, ads that say who is behind them, in a notice shown once."""
    dsa = asked(seen.request)
    if dsa is None or dsa.dsarequired not in REQUIRED:
        return index.everything
    if dsa.pubrender == CANNOT_SHOW:
        return index.noticed
    return index.declared & ~index.noticed if dsa.pubrender == WILL_SHOW else index.declared


def in_range(language: str, ranges: Sequence[str]) -> bool:
    """Basic filtering of RFC 4647, 3.3.1: a range stands for itself and all that is more special, in lower case.

    >>> in_range("en-us", ["en"]), in_range("en", ["en-us"]), in_range("eng", ["en"])
    (True, False, False)
    """
    return any(language == name or language.startswith(name + "-") for name in ranges)


of_lists = (seat, blocked_category, blocked_advertiser, blocked_app, language, transparency)
"""The rules of what a request itself lists, in fields that `asks` looks at; audits and sizes of answers are the
exchange's.
"""
