"""Starting and ending: a stop amid slow writes, a process that takes over from another, systemd's side of it."""

import asyncio
import collections
import re
import shutil
import signal
import socket
import ssl
import time
from concurrent import futures
from typing import Callable

import httpx

from asking import curl
from checks import Checks
from stage import Backend, Stage, exit_code, free_ports, run, stop

PATHS = [f"/docs/{number}" for number in range(50)]


def run_suite(stage: Stage, checks: Checks) -> None:
    checks.attempt("a stop, HTTP/1.1", try_drain, stage, checks, "HTTP/1.1", write_with_httpx)
    checks.attempt("a stop, h2", try_drain, stage, checks, "h2", write_with_h2load)
    checks.attempt("a successor", lambda: asyncio.run(try_take_over(stage, checks)))
    checks.attempt("notifications", try_notifications, stage, checks)
    checks.attempt("socket activation", try_activation, stage, checks)


# ---------------------------------------------------------------------------------------------- a stop


def try_drain(stage: Stage, checks: Checks, name: str, write_all: Callable[[Stage, str], list[str]]) -> None:
    """SIGTERM once all of the writes are with the backend, which takes 2 s for each."""
    backend = stage.backend(f"backend-{name[-1]}")
    port, admin = free_ports(2)
    gateway = stage.gateway(
        f"drain-{name[-1]}",
        f"""
        drain_timeout = "20s"
        [[listeners]]
        address = "127.0.0.1:{port}"
        [upstreams.backend]
        servers = ["{backend.url}"]
        [admin]
        address = "127.0.0.1:{admin}"
        """,
        port,
    )
    origin = f"http://127.0.0.1:{port}"
    for path in PATHS:
        backend.put(path, "before")
    # One who does not ask again, and does not keep it from ending.
    with socket.create_connection(("127.0.0.1", port)) as idle, futures.ThreadPoolExecutor(1) as executor:
        idle.sendall(b"GET /docs/0 HTTP/1.1\r\nHost: a\r\n\r\n")
        idle.recv(1000)
        writes = executor.submit(write_all, stage, origin)
        deadline = time.monotonic() + 10
        while written(backend) < len(PATHS) and time.monotonic() < deadline:
            time.sleep(0.05)
        gateway.send_signal(signal.SIGTERM)
        told = time.monotonic()
        checks.equal(f"{name}: /readyz while it stops", 503, await_status(f"http://127.0.0.1:{admin}/readyz", 503, 1.0))
        checks.equal(f"{name}: nobody new is let in", 0, await_status(f"{origin}/docs/0", 0, 1.0))
        answers = writes.result(30)
        code = exit_code(gateway, 10)
    checks.equal(
        f"{name}: SIGTERM during {len(PATHS)} slow writes: all are answered, and told that this is the end",
        ["200 closing"] * len(PATHS),
        answers,
    )
    stored = sum(backend.text(path) == "after" for path in PATHS)
    checks.equal(f"{name}: all are stored", len(PATHS), stored)
    checks.equal(f"{name}: each was written once", len(PATHS), written(backend))
    checks.equal(f"{name}: exit code", 0, code)
    checks.below(f"{name}: it ends when they are done, in seconds", 10, time.monotonic() - told)


def write_with_httpx(_: Stage, origin: str) -> list[str]:
    async def write(client: httpx.AsyncClient, path: str) -> str:
        try:
            answer = await client.put(path, headers={"If-Match": "*", "X-Pause": "2"}, content="after")
        except httpx.HTTPError as error:
            return repr(error)
        return f"{answer.status_code} {'closing' if answer.headers.get('connection') == 'close' else 'open'}"

    async def write_all() -> list[str]:
        async with httpx.AsyncClient(base_url=origin, timeout=25, trust_env=False) as client:
            return await asyncio.gather(*(write(client, path) for path in PATHS))

    return asyncio.run(write_all())


def write_with_h2load(stage: Stage, origin: str) -> list[str]:
    """One connection with as many streams. (With several, each would begin with the first path.)"""
    said = run(
        "h2load",
        "-n",
        len(PATHS),
        "-c1",
        f"-m{len(PATHS)}",
        "-H",
        ":method: PUT",
        "-H",
        "if-match: *",
        "-H",
        "x-pause: 2",
        "-d",
        stage.write("sent", "after"),
        *(f"{origin}{path}" for path in PATHS),
        timeout=25,
        check=False,
    ).stdout
    succeeded = re.search(r"status codes: (\d+) 2xx", said)
    return ["200 closing"] * int(succeeded[1]) if succeeded else [said]


def written(backend: Backend) -> int:
    """How many writes the backend has begun to carry out, beside those that made the documents."""
    return sum(backend.seen("PUT", path) - 1 for path in PATHS)


def await_status(url: str, wanted: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while (status := curl(url).status) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return status


# ---------------------------------------------------------------------------------------------- a successor


async def try_take_over(stage: Stage, checks: Checks) -> None:
    """A second process with the same file starts under load, then the first is stopped.

    Each request has a connection of its own, since nothing keeps an idle one from being closed under a request that is
    on its way.
    """
    backend = stage.backend("backend-take-over")
    [port] = free_ports(1)
    text = f"""
        takeover = "{stage.folder}/lock"
        [[listeners]]
        address = "127.0.0.1:{port}"
        [upstreams.backend]
        servers = ["{backend.url}"]
        """
    first = stage.gateway("first", text, port)
    seen: collections.Counter = collections.Counter()
    ending = asyncio.Event()
    options = {"timeout": 15, "trust_env": False, "verify": ssl.create_default_context()}  # made once: it takes long

    async def write(number: int) -> None:
        path = f"/docs/{number}"
        tag = await asyncio.to_thread(backend.put, path, "before")
        while not ending.is_set():
            try:
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", **options) as client:
                    written = await client.put(path, headers={"If-Match": tag}, content="after")
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", **options) as client:
                    read = await client.get(path)
                seen[written.status_code] += 1
                seen[read.status_code] += 1
                tag = read.headers.get("etag", tag)
            except httpx.HTTPError as error:
                seen[repr(error)] += 1
            await asyncio.sleep(0.05)

    writers = [asyncio.create_task(write(number)) for number in range(6)]
    await asyncio.sleep(1)
    second = await asyncio.to_thread(stage.gateway, "second", text, port)
    await asyncio.sleep(1)
    code = await asyncio.to_thread(stop, first, 15)
    await asyncio.sleep(1.5)
    before = sum(seen.values())
    await asyncio.sleep(0.5)
    ending.set()
    await asyncio.gather(*writers)
    checks.equal("a second process takes over: the first ends", 0, code)
    checks.equal(f"a second process takes over: none of {sum(seen.values())} requests failed", {200}, set(seen))
    checks.holds(
        "and goes on alone", sum(seen.values()) > before and second.poll() is None, "more requests", dict(seen)
    )
    checks.equal("the second ends", 0, await asyncio.to_thread(stop, second, 10))


# ---------------------------------------------------------------------------------------------- systemd


def try_notifications(stage: Stage, checks: Checks) -> None:
    """What a unit of Type=notify, with WatchdogSec, waits for."""
    place = stage.folder / "notify"
    [port] = free_ports(1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(place))
        listening.settimeout(5)

        def await_message(wanted: str) -> str:
            heard = []
            try:
                while wanted not in (message := listening.recv(4096).decode()).splitlines():
                    heard.append(message)
                return wanted
            except TimeoutError:
                return f"only {heard}"

        gateway = stage.gateway(
            "notify",
            f"""
            [[listeners]]
            address = "127.0.0.1:{port}"
            [upstreams.backend]
            servers = ["http://127.0.0.1:9"]
            """,
            port,
            env={"NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "1000000"},
        )
        checks.equal("sd_notify: ready", "READY=1", await_message("READY=1"))
        for _ in range(2):
            checks.equal("sd_notify: the watchdog is answered", "WATCHDOG=1", await_message("WATCHDOG=1"))
        gateway.send_signal(signal.SIGHUP)
        checks.equal("SIGHUP does not end it", "WATCHDOG=1", await_message("WATCHDOG=1"))
        gateway.send_signal(signal.SIGTERM)
        checks.equal("sd_notify: stopping", "STOPPING=1", await_message("STOPPING=1"))
        checks.equal("SIGTERM: exit code", 0, exit_code(gateway, 10))


def try_activation(stage: Stage, checks: Checks) -> None:
    """systemd listens and hands the socket on; who connects before the gateway runs is served as well."""
    if not shutil.which("systemd-socket-activate"):
        checks.note("there is no systemd-socket-activate here")
        return
    backend = stage.backend("backend-activation")
    [port] = free_ports(1)
    path = stage.write(
        "activated.toml",
        f"""
        [[listeners]]
        address = "127.0.0.1:{port}"
        [upstreams.backend]
        servers = ["{backend.url}"]
        """,
    )
    activator = stage.start(
        "activated", "systemd-socket-activate", f"--listen=127.0.0.1:{port}", stage.program, "run", "--config", path
    )
    deadline = time.monotonic() + 10
    while "Listening" not in stage.log("activated").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    answer = curl(f"http://127.0.0.1:{port}/inspect")
    checks.equal("socket activation: the first request, which starts it, is answered", 200, answer.status)
    checks.equal("and the next", 200, curl(f"http://127.0.0.1:{port}/inspect").status)
    checks.equal("SIGTERM: exit code", 0, stop(activator, 10))
