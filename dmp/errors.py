"""The errors a caller can act on: each says what is wrong and what to do about it."""

from collections.abc import Sequence


class TagbidError(Exception):
    """Root of every error raised for a person to read; commands print it without a traceback and exit 2."""


class DmpError(TagbidError):
    """Something about users, tags, seeds or the store."""


class ConfigError(TagbidError):
    """A configuration or campaign file is wrong; carries every problem found, not only the first."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s), nothing was changed\n{lines}")


class StoreUnavailable(DmpError):
    """The tag store cannot be reached or started."""


class CorruptRecord(DmpError):
    """Stored bytes that no known version of the codec wrote."""


class BadEvents(DmpError):
    """An event file cannot be read as events."""


class SeedTooSmall(DmpError):
    """The upload matched too few known users to learn from (P-65)."""

    def __init__(self, matched: int, required: int) -> None:
        self.matched = matched
        self.required = required
        super().__init__(f"seed matched {matched} known users, {required} are needed; upload more identifiers")
