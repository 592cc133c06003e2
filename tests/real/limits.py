"""How long a suite may take, and all of them together."""

import signal
import sys
import time
from typing import Callable

from checks import Checks
from stage import Stage


class TooLong(BaseException):
    """Raised by the alarm. Nothing but the end of the suite is to catch it."""


class Limits:
    """In seconds. Begins to count when it is made."""

    def __init__(self, suite: float, all_suites: float) -> None:
        self.suite = suite
        self.all = all_suites
        self.end = time.monotonic() + all_suites
        signal.signal(signal.SIGALRM, on_alarm)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def run(self, name: str, suite: Callable[[Stage, Checks], None], gateway: str, checks: Checks) -> None:
        """Runs a suite on a stage of its own. One that can't run to its end is a failed check."""
        checks.suite = name
        before = time.monotonic()
        if before >= self.end:
            checks.fail("it was not begun", f"the {self.all} seconds for all suites were over")
            return
        with Stage(gateway) as stage:
            signal.setitimer(signal.ITIMER_REAL, max(1, min(self.suite, self.end - before)))
            try:
                checks.attempt("it ran to its end", suite, stage, checks)
            except TooLong:
                checks.fail(
                    "it ran to its end", f"it took longer than {self.suite} s, or all of them than {self.all} s"
                )
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        checks.note(f"{time.monotonic() - before:.1f} s")


def on_alarm(*_) -> None:
    raise TooLong
