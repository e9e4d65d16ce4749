"""Texts that name somebody: an e-mail address, a device id, or the hash of one of them, wherever it stands (P-60)."""

import re

_EMAIL = re.compile("[^\\s@]+@[^\\s@]+[.\uff0e]")
_HASHED = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")  # an e-mail or phone, as SHA-256
_AT = re.compile("%40|\uff20", re.IGNORECASE)  # other spellings of @, the second one in Chinese text
_DEVICE = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def names_somebody(text: str) -> bool:
    """Whether a text holds what must not be stored.

    >>> names_somebody("order of ann@x.org"), names_somebody("ann%40x.org"), names_somebody("order 17@home")
    (True, True, False)
    """
    return bool(_EMAIL.search(_AT.sub("@", text)) or _DEVICE.search(text) or _HASHED.search(text))
