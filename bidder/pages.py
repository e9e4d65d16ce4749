"""What a request says of the site, app or screen an ad would show on: put into one spelling once, then remembered."""

from typing import NamedTuple

from bidder.openrtb import App, Dooh, Request, Site
from bidder.remembered import Remembered

REMEMBERED_BYTES = 8 * 1024**2  # 7,000 pages


class Page(NamedTuple):
    """domain: lower case without "www."; bundle: as sent. categories: of site, section and page; category: the first of
    them; content_category: of the content. "" means unknown.
    """

    domain: str
    bundle: str
    category: str
    content_category: str
    categories: tuple[str, ...]


_Categories = tuple[str, ...] | None
Told = tuple[str, str | None, _Categories, _Categories, _Categories, _Categories]
"""Domain, bundle, categories of page, section, site or app, and content, as sent."""


def page_of(request: Request) -> Page:
    """Where a request's ads would show."""
    place = request.site or request.app
    if place is None:
        return _known[_domain(request), None, None, None, None, None]
    content = place.content
    return _known[
        _domain(request),
        place.bundle if isinstance(place, App) else None,
        place.pagecat,
        place.sectioncat,
        place.cat,
        content.cat if content is not None else None,
    ]


def domain_of(request: Request) -> str:
    """The domain of the site, app or screens, lower case without "www."; "" unknown."""
    return _spelt(_domain(request))


def host(url: str) -> str:
    """The host name of a page URL, without a final dot; a bare host is one too.

    >>> host("https://news.example.com:8080/a?b"), host("example.com./x")
    ('news.example.com', 'example.com')
    """
    rest = url.partition("://")[2] or url
    for mark in "/?#":
        rest = rest.partition(mark)[0]
    return rest.rpartition("@")[2].partition(":")[0].rstrip(".")


def _domain(request: Request) -> str:
    """The domain as sent, of a site without one that of its page."""
    place: Site | App | Dooh | None = request.site or request.app or request.dooh
    if place is None:
        return ""
    return place.domain or (host(place.page) if isinstance(place, Site) and place.page else "")


def _spelt(domain: str) -> str:
    if "/" in domain or ":" in domain or domain.endswith("."):  # not as the standard has it, but clear
        domain = host(domain)
    return domain.lower().removeprefix("www.")


def _read(told: Told) -> Page:
    domain, bundle, page, section, place, content = told
    categories = (*(page or ()), *(section or ()), *(place or ()))
    return Page(_spelt(domain), bundle or "", next(iter(categories), ""), next(iter(content or ()), ""), categories)


_known: Remembered[Told, Page] = Remembered(_read, 700, REMEMBERED_BYTES)
