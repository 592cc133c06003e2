"""Judging: one line for each check, and a count of both kinds."""

import re
import traceback
from typing import Callable


class Checks:
    def __init__(self) -> None:
        self.suite = ""
        self.passed = 0
        self.failed = 0

    def equal(self, description: str, expected, seen) -> bool:
        return self.holds(description, expected == seen, expected, seen)

    def like(self, description: str, pattern: str, seen) -> bool:
        """`pattern` is a regular expression for all of what was seen."""
        return self.holds(description, re.fullmatch(pattern, str(seen), re.DOTALL) is not None, pattern, seen)

    def contains(self, description: str, part: str, seen: str) -> bool:
        return self.holds(description, part in seen, f"something with {part!r}", seen)

    def below(self, description: str, limit: float, seen: float) -> bool:
        return self.holds(description, seen < limit, f"less than {limit:g}", f"{seen:.3g}")

    def holds(self, description: str, holds: bool, expected, seen) -> bool:
        if holds:
            self.passed += 1
            print(f"ok     {self.suite}: {description}", flush=True)
        else:
            self.fail(description, f"expected {brief(expected)}, saw {brief(seen)}")
        return holds

    def fail(self, description: str, what: str) -> None:
        self.failed += 1
        print(f"FAILED {self.suite}: {description}: {what}", flush=True)

    def attempt(self, description: str, part: Callable, *arguments) -> None:
        """A part of a suite. What breaks it off does not keep the other parts from being tried."""
        try:
            part(*arguments)
        except Exception as error:  # whatever it is: it is told
            place = next(
                (
                    f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
                    for frame in reversed(traceback.extract_tb(error.__traceback__))
                    if "/tests/real/" in frame.filename
                ),
                "?",
            )
            self.fail(description, f"expected no error, saw {type(error).__name__} at {place}: {brief(error)}")

    def note(self, text: str) -> None:
        """Something measured that is not judged."""
        print(f"       {self.suite}: {text}", flush=True)


def brief(value) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 600 else f"{text[:600]} … ({len(text)} characters)"
