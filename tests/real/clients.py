"""Real clients and servers, one suite after the other. Started by the script `clients`, which see.

A suite that fails to run counts as one failed check; the others go on. Each has its own time limit, and all of them
together have one.
"""

import argparse
import importlib
import sys
from typing import Callable

from checks import Checks
from limits import Limits
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

    checks = Checks()
    limits = Limits(SUITE_SECONDS, ALL_SECONDS)
    for name in arguments.suites or SUITES:
        limits.run(name, suite_of(name), arguments.gateway, checks)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


def suite_of(name: str) -> Callable[[Stage, Checks], None]:
    """Imported when its turn comes, so that one that can't be is told by its name."""

    def run(stage: Stage, checks: Checks) -> None:
        importlib.import_module(f"suites.{name}").run_suite(stage, checks)

    return run


if __name__ == "__main__":
    sys.exit(main())
