"""Families from a User-Agent header: operating system, browser, device type. Coarse on purpose: no fingerprint."""

from functools import lru_cache
from typing import NamedTuple

PHONE, TABLET, DESKTOP, TV = 4, 5, 2, 3  # OpenRTB device types (AdCOM, List: Device Types)
MAX_CHARS = 512  # what a family shows in; longer headers are cut before they enter the cache


class Families(NamedTuple):
    """Names in lower case, "" unknown; device_type 0 unknown."""

    os: str
    browser: str
    device_type: int


_OS = (
    ("windows phone", "windows phone"),
    ("iphone", "ios"),
    ("ipad", "ios"),
    ("ipod", "ios"),
    ("android", "android"),
    ("tizen", "tizen"),
    ("web0s", "webos"),
    ("webos", "webos"),
    ("roku", "roku"),
    ("cros", "chromeos"),
    ("windows", "windows"),
    ("mac os", "macos"),
    ("macintosh", "macos"),
    ("linux", "linux"),
)
_BROWSER = (
    ("edg", "edge"),
    ("opr/", "opera"),
    ("opera", "opera"),
    ("samsungbrowser", "samsung"),
    ("ucbrowser", "uc"),
    ("micromessenger", "wechat"),
    ("fxios", "firefox"),
    ("firefox", "firefox"),
    ("crios", "chrome"),
    ("chrome", "chrome"),
    ("msie", "ie"),
    ("trident", "ie"),
    ("safari", "safari"),
)
_OS_NAMES = {
    "iphone os": "ios",
    "ipados": "ios",
    "mac os x": "macos",
    "os x": "macos",
    "mac os": "macos",
    "mac": "macos",
}


def os_name(text: str | None) -> str:
    """`device.os` is free text: its family in lower case, "" when absent.

    >>> os_name("iPhone OS"), os_name("Android"), os_name(None)
    ('ios', 'android', '')
    """
    if not text:
        return ""
    lower = text.strip().lower()
    return _OS_NAMES.get(lower, lower)


def families(ua: str) -> Families:
    """What a User-Agent header shows.

    >>> families("Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Safari/604.1")
    Families(os='ios', browser='safari', device_type=5)
    """
    return _families(ua[:MAX_CHARS])


@lru_cache(maxsize=16_384)
def _families(ua: str) -> Families:
    lower = ua.lower()
    system = next((name for mark, name in _OS if mark in lower), "")
    browser = next((name for mark, name in _BROWSER if mark in lower), "")
    if "tv" in lower or system in ("roku", "webos"):
        device = TV
    elif "ipad" in lower or "tablet" in lower or (system == "android" and "mobile" not in lower):
        device = TABLET
    elif "mobi" in lower or system in ("ios", "android", "windows phone"):
        device = PHONE
    else:
        device = DESKTOP if system in ("windows", "macos", "linux", "chromeos") else 0
    return Families(system, browser, device)
