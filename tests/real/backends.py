"""Real services, one after the other: what is lost without the gateway, and what with it. Started by `backends`.

The table of docs/backends.md is made of what is tried here.
"""

import argparse
import sys
from functools import partial

from checks import Checks
from limits import Limits
from lost_update import ANNS, BENS, WRITERS, client, try_lost_update
from services import Service, all_services
from services.compressed import compressed
from stage import ROOT, Stage, free_ports

SUITE_SECONDS = 60
ALL_SECONDS = 170
# How often a service that checks, but not in one step with the write, is given the chance to lose.
CHANCES = 10
PAGE = ROOT / "docs/backends.md"


def main() -> int:
    parser = argparse.ArgumentParser(description="Tries the gateway before real services.")
    parser.add_argument("--gateway", help="the program")
    parser.add_argument("--table", action="store_true", help="print the tables of docs/backends.md, and try nothing")
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="only these")
    arguments = parser.parse_args()
    suites = {service.suite: partial(try_service, service) for service in all_services()}
    suites |= {service.suite: partial(try_compressed, service) for service in compressed()}
    if arguments.table:
        print(table(), table_of_compression(), sep="\n\n")
        return 0
    if arguments.list:
        print("\n".join(suites))
        return 0
    if unknown := set(arguments.suites) - set(suites):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")

    checks = Checks()
    limits = Limits(SUITE_SECONDS, ALL_SECONDS)
    for name in arguments.suites or suites:
        limits.run(name, suites[name], arguments.gateway, checks)
    check_page(checks)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


# ---------------------------------------------------------------------------------------------- one service


def try_service(service: Service, stage: Stage, checks: Checks) -> None:
    store, through = free_ports(2)
    service.start(stage, store)
    direct = f"http://127.0.0.1:{store}"
    checks.attempt("without the gateway", try_without, service, checks, direct)
    start_gateway(stage, service, store, through)
    gateway = f"http://127.0.0.1:{through}"
    checks.attempt("with the gateway", try_with, service, checks, gateway, direct)
    checks.attempt("what is its own", service.try_more, stage, checks, direct, gateway)


def try_compressed(service: Service, stage: Stage, checks: Checks) -> None:
    """One with something that compresses before the gateway or behind it."""
    store, through = free_ports(2)
    service.start(stage, store)
    start_gateway(stage, service, service.behind(stage, store), through)
    asked, direct = f"http://127.0.0.1:{service.before(stage, through)}", f"http://127.0.0.1:{store}"
    checks.attempt("reads and writes", try_in_turn, service, checks, asked, direct)
    checks.attempt("lost updates", try_with, service, checks, asked, direct)


def try_in_turn(service: Service, checks: Checks, asked: str, direct: str) -> None:
    """Read, write, read, write."""
    with client(asked) as reader, client(direct) as store:
        path = service.create(store)
        coding = reader.get(path).headers.get("content-encoding")
        checks.equal("the coding of what is read", "gzip" if service.is_compressed else None, coding)
        for turn, text in (("first", ANNS), ("second", BENS)):
            held = service.read(reader, path)
            answer = service.write(reader, path, held, text)
            checks.holds(f"the {turn} write after a read", is_success(answer.status_code), "2xx", (answer, held.fields))
            checks.equal(f"the {turn} write is stored", text, service.stored(store, path))


def start_gateway(stage: Stage, service: Service, store: int, through: int) -> None:
    guard, routes = "\n".join(service.guard), "\n".join(service.routes)
    stage.gateway(
        "gateway",
        f"""
[[listeners]]
address = "127.0.0.1:{through}"
[upstreams.service]
servers = ["http://127.0.0.1:{store}"]
[guard]
{guard}
{routes}
""",
        through,
    )


def try_without(service: Service, checks: Checks, direct: str) -> None:
    seen = try_lost_update(service, direct, direct)
    checks.holds("without: the first of two writers saves", is_success(seen.first), "2xx", seen.first)
    if service.compares:
        checks.equal("without: the second with the same version is refused by", "the service", seen.by)
        checks.equal("without: and the first one's work is kept", True, seen.first_is_kept)
    else:
        checks.holds("without: the second with the same version does too", is_success(seen.second), "2xx", seen.second)
        checks.equal("without: and the first one's work is lost", False, seen.first_is_kept)
    if service.loses is not None:
        checks.equal(f"without: so many of {WRITERS} at once lose their work", service.loses, seen.lost)
        return
    lost = [seen.lost]
    while len(lost) < CHANCES and not any(lost):
        lost.append(try_lost_update(service, direct, direct).lost)
    checks.holds(f"without: some of {WRITERS} at once lose their work", any(lost), "some", lost)
    checks.note(f"without: {lost[-1]} of {WRITERS} lost their work, the {len(lost)}. time")


def try_with(service: Service, checks: Checks, gateway: str, direct: str) -> None:
    seen = try_lost_update(service, gateway, direct)
    checks.holds("with: the first of two writers saves", is_success(seen.first), "2xx", seen.first)
    checks.holds("with: the second with the same version is refused", seen.second in (409, 412), "409", seen.second)
    checks.equal("with: by", service.refused_by, seen.by)
    checks.equal("with: and the first one's work is kept", True, seen.first_is_kept)
    checks.equal(f"with: of {WRITERS} at once so many save", 1, seen.saved)
    refused = [status for status in seen.statuses if status in (409, 412)]
    checks.equal("with: the others are refused", WRITERS - 1, len(refused))
    checks.equal("with: what is stored is the work of the one that saved", True, seen.stored_is_saved)
    checks.holds("with: a refused one reads again, writes again, and it is stored", seen.recovered, True, seen)


def is_success(status: int) -> bool:
    return 200 <= status < 300


# ---------------------------------------------------------------------------------------------- the page


def table() -> str:
    rows = [
        "| service | what it shows of a version | of 20 at once lose their work without | what protects it |",
        "|---|---|---|---|",
    ]
    for service in all_services():
        lost = "some" if service.loses is None else service.loses or "none"
        rows.append(f"| {service.name} | {service.shows} | {lost} | {lines_of(service)} |")
    rows += ["", *(f"- **{service.name}.** {service.know}" for service in all_services())]
    return "\n".join(rows)


def table_of_compression() -> str:
    rows = ["| from client to service | the tag | what makes it work | |", "|---|---|---|---|"]
    rows += [f"| {service.name} | {service.shows} | {lines_of(service)} | {service.know} |" for service in compressed()]
    return "\n".join(rows)


def lines_of(service: Service) -> str:
    return "<br>".join(f"`{line}`" for line in (*service.guard, *service.routes))


def check_page(checks: Checks) -> None:
    """The page has these blocks as they are, each between empty lines."""
    checks.suite = "docs/backends.md"
    page = PAGE.read_text()
    for block in (*table().split("\n\n"), table_of_compression()):
        missing = [line for line in block.splitlines() if line not in page.splitlines()]
        holds = f"\n\n{block}\n\n" in page
        checks.holds(f"what was tried stands there: {block[:40]} …", holds, missing or block, "other lines")


if __name__ == "__main__":
    sys.exit(main())
