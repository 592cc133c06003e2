"""Real clients and servers, one suite after the other. Started by the script `clients`, which see.

A suite that fails to run counts as one failed check; the others go on. Each has its own time limit, and all of them
together have one.
"""

import argparse
import importlib
import signal
import sys
import time

from checks import Checks
from stage import Stage

# Each is a file in the folder `suites`.
SUITES = [
    "curl",
    "openssl",
    "python",
    "node",
    "nghttp",
    "grpc",
    "nginx",
    "servers",
    "users",
    "chromium",
    "passing",
    "operating",
    "life",
    "patience",
    "load",
]
SUITE_SECONDS = 90
ALL_SECONDS = 175


class TooLong(BaseException):
    """Raised by the alarm. Nothing but the end of the suite is to catch it."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Tries the gateway with real clients and before real backends.")
    parser.add_argument("--gateway", required=True, help="the program")
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="only these")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(SUITES))
        return 0
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")

    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    checks = Checks()
    end = time.monotonic() + ALL_SECONDS
    for name in arguments.suites or SUITES:
        run_suite(name, arguments.gateway, checks, end)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


def run_suite(name: str, gateway: str, checks: Checks, end: float) -> None:
    checks.suite = name
    before = time.monotonic()
    if before >= end:
        checks.fail("it was not begun", f"the {ALL_SECONDS} seconds for all suites were over")
        return
    with Stage(gateway) as stage:
        signal.setitimer(signal.ITIMER_REAL, max(1, min(SUITE_SECONDS, end - before)))
        try:
            checks.attempt("it ran to its end", importlib.import_module(f"suites.{name}").run_suite, stage, checks)
        except TooLong:
            checks.fail(
                "it ran to its end", f"it took longer than {SUITE_SECONDS} s, or all of them than {ALL_SECONDS} s"
            )
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    checks.note(f"{time.monotonic() - before:.1f} s")


def on_alarm(*_) -> None:
    raise TooLong


if __name__ == "__main__":
    sys.exit(main())
