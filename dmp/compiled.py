"""What is there in C, too: found once at import, left alone where it was built from other sources.

Each compiled function has a twin in Python, which says what it does and does it where no compiler was.
"""

import logging
import os
from importlib import import_module
from types import ModuleType

log = logging.getLogger("tagbid")


def compiled(name: str, version: int) -> ModuleType | None:
    """A compiled module of this version of its sources; None where it was not built, is of another version, or
    `TAGBID_KERNEL=numpy` asks to do without.
    """
    if os.environ.get("TAGBID_KERNEL") == "numpy":
        return None
    try:
        module = import_module(name)
    except ImportError:  # built without a compiler
        return None
    if getattr(module, "VERSION", 1) != version:
        log.warning("%s is of another release and not used: install the package again to build it", name)
        return None
    return module
