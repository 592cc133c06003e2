"""A reload every second, with another file and another certificate, under 200 requests a second: no request fails."""

import asyncio
import collections
import itertools
import signal
import ssl
import subprocess
import sys
import time
from concurrent import futures

import httpx
from websockets.asyncio.client import connect

from asking import curl
from checks import Checks
from stage import HERE, Authority, Backend, Stage, free_ports

SECONDS = 20
RATE = 200
READERS = 12
WRITERS = 6


def run_suite(stage: Stage, checks: Checks) -> None:
    backend = stage.backend()
    authority = stage.authority("authority")
    clear, tls, echo = free_ports(3)
    stage.start("echo", sys.executable, HERE / "ws_echo.py", echo, port=echo)
    cert, key = authority.certificate("gateway", "localhost")

    def configuration(number: int) -> str:
        """Each differs from the one before in limits, upstream, guard and routes.

        The route that changes leads to an upstream of its own: for one that gets requests which it did not get before,
        what was known is forgotten.
        """
        return f"""
            [limits]
            headers = {100 + number}
            [[listeners]]
            address = "127.0.0.1:{clear}"
            [[listeners]]
            address = "127.0.0.1:{tls}"
            tls = {{ cert = "{cert}", key = "{key}" }}
            [upstreams.backend]
            servers = ["{backend.url}"]
            max_connections = {500 + number}
            [upstreams.other]
            servers = ["{backend.url}"]
            [upstreams.echo]
            servers = ["http://127.0.0.1:{echo}"]
            [[routes]]
            path = "/ws/{{*path}}"
            upstream = "echo"
            [[routes]]
            path = "/docs/{{*path}}"
            upstream = "backend"
            [[routes]]
            path = "/only/{number}"
            upstream = "other"
            [guard]
            conflict_status = {409 if number % 2 else 412}
            """

    gateway = stage.gateway("gateway", configuration(0), clear)
    kept = backend.put("/docs/kept", "kept")
    checks.equal("before", 200, curl(f"http://127.0.0.1:{clear}/docs/kept").status)
    load = Load(backend, authority, clear, tls)
    last = asyncio.run(load.run(reload_every_second(stage, authority, gateway, configuration)))

    failed = {what: count for what, count in load.seen.items() if what != 200}
    done = sum(load.seen.values())
    checks.equal(f"{last} reloads under load: none of {done} requests failed", {}, failed)
    checks.holds("all of them were made", done >= SECONDS * RATE, f"{SECONDS * RATE} at least", done)
    checks.note(f"{done / load.seconds:.0f} requests a second")
    checks.equal(
        "no connection was dropped: connections by client",
        {name: 1 for name in load.connections},
        {name: count for name, count in load.connections.items()},
    )
    checks.holds(
        "a WebSocket is open through all of it",
        load.echoed > SECONDS / 2,
        f"more than {SECONDS / 2:g} echoes",
        load.echoed,
    )
    checks.holds(
        "slow writes, each longer than from one reload to the next, are carried out",
        load.slow_writes > 2,
        "more than 2",
        load.slow_writes,
    )
    try_last(checks, backend, clear, last, kept)
    try_certificates(stage, checks, authority, gateway, tls)
    try_broken(stage, checks, gateway, configuration(last), clear, last)
    checks.attempt("a reload beside a slow write", try_beside_slow_write, stage, checks)


async def reload_every_second(stage: Stage, authority: Authority, gateway: subprocess.Popen, configuration) -> int:
    number = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        number += 1
        await asyncio.to_thread(authority.certificate, f"renewed-{number}", "localhost", replacing="gateway")
        stage.write("gateway.toml", configuration(number))
        gateway.send_signal(signal.SIGHUP)
        await asyncio.sleep(1)
    return number


class Load:
    """Readers and writers with connections that they keep, and some that take a new one for each request."""

    def __init__(self, backend: Backend, authority: Authority, clear: int, tls: int) -> None:
        self.backend = backend
        self.authority = str(authority.cert)
        self.trust = ssl.create_default_context(cafile=self.authority)
        self.origins = [
            (f"http://localhost:{clear}", False),
            (f"https://localhost:{tls}", False),
            (f"https://localhost:{tls}", True),
        ]
        self.seen: collections.Counter = collections.Counter()
        self.connections: collections.Counter = collections.Counter()
        self.seconds = 0.0
        self.ticks = itertools.count()
        self.echoed = 0
        self.slow_writes = 0

    async def run(self, meanwhile) -> int:
        begin = self.begin = time.monotonic()
        self.ending = asyncio.Event()
        each = [asyncio.create_task(self.keep_asking(number)) for number in range(READERS + WRITERS)]
        each += [asyncio.create_task(self.keep_connecting(number)) for number in range(3)]
        each += [asyncio.create_task(self.keep_talking()), asyncio.create_task(self.write_slowly())]
        result = await meanwhile
        while sum(self.seen.values()) < SECONDS * RATE and time.monotonic() < begin + SECONDS * 1.5:
            await asyncio.sleep(0.05)
        self.ending.set()
        await asyncio.gather(*each)
        self.seconds = time.monotonic() - begin
        return result

    async def turn(self) -> None:
        """Until the next request is due, at the rate of all of them together."""
        due = self.begin + next(self.ticks) / RATE
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    def client(self, number: int, name: str) -> httpx.AsyncClient:
        origin, http2 = self.origins[number % len(self.origins)]

        async def count(event: str, _) -> None:
            if event == "connection.connect_tcp.complete":
                self.connections[name] += 1

        async def watch(request: httpx.Request) -> None:
            request.extensions["trace"] = count

        return httpx.AsyncClient(
            base_url=origin,
            http1=not http2,
            http2=http2,
            verify=self.trust,
            timeout=15,
            trust_env=False,
            event_hooks={"request": [watch]} if name else {},
        )

    async def keep_asking(self, number: int) -> None:
        path = f"/docs/{number}"
        tag = await asyncio.to_thread(self.backend.put, path, "before")
        async with self.client(number, f"client {number}") as client:
            while not self.ending.is_set():
                await self.turn()
                if number < READERS:
                    await self.ask(client, "GET", path, {})
                else:
                    answer = await self.ask(client, "PUT", path, {"If-Match": tag})
                    tag = answer.headers["etag"] if answer and answer.status_code == 200 else tag

    async def keep_connecting(self, number: int) -> None:
        while not self.ending.is_set():
            async with self.client(number, "") as client:
                for _ in range(3):
                    await self.turn()
                    await self.ask(client, "GET", "/docs/0", {})
            await asyncio.sleep(0.1)

    async def keep_talking(self) -> None:
        """By one WebSocket, over TLS."""
        url = self.origins[1][0].replace("https", "wss")
        trust = ssl.create_default_context(cafile=self.authority)  # httpx sets ALPN in the other
        async with connect(f"{url}/ws/echo", ssl=trust, proxy=None) as connection:
            while not self.ending.is_set():
                await connection.send("still there")
                self.echoed += await asyncio.wait_for(connection.recv(), 15) == "still there"
                await asyncio.sleep(0.5)

    async def write_slowly(self) -> None:
        tag = await asyncio.to_thread(self.backend.put, "/docs/slow", "before")
        async with self.client(0, "slow writer") as client:
            while not self.ending.is_set():
                answer = await self.ask(client, "PUT", "/docs/slow", {"If-Match": tag, "X-Pause": "1.5"})
                if answer and answer.status_code == 200:
                    tag = answer.headers["etag"]
                    self.slow_writes += 1

    async def ask(self, client: httpx.AsyncClient, method: str, path: str, fields: dict) -> httpx.Response | None:
        try:
            answer = await client.request(method, path, headers=fields, content=b"after" if method == "PUT" else None)
            is_right = answer.status_code == 200
            self.seen[200 if is_right else f"{method} {answer.status_code} {answer.text[:100]}"] += 1
        except httpx.HTTPError as error:
            self.seen[f"{method} {error!r}"] += 1
            return None
        return answer


def try_last(checks: Checks, backend: Backend, clear: int, last: int, kept: str) -> None:
    """The last file is what counts now, and what was known before the first reload is known still."""
    origin = f"http://127.0.0.1:{clear}"
    seen = [curl(f"{origin}/only/{number}", method="POST", body=b"x").status for number in (last, last - 1)]
    checks.equal("the routes are those of the last file", [200, 404], seen)
    probes = backend.seen("HEAD", "/docs/kept")
    refused = curl(f"{origin}/docs/kept", method="PUT", fields={"If-Match": '"other"'}, body=b"x")
    checks.equal("its conflict_status is in force", 409 if last % 2 else 412, refused.status)
    checks.equal("what was known before is not forgotten: the tag is named", kept, refused.fields.get("etag"))
    checks.equal("without asking the backend", probes, backend.seen("HEAD", "/docs/kept"))


def try_certificates(stage: Stage, checks: Checks, authority: Authority, gateway: subprocess.Popen, tls: int) -> None:
    """The last is shown to who connects now. A broken one changes nothing, and is told in the log."""
    cert = stage.folder / "authority-gateway.pem"
    last = cert.read_text()
    checks.equal("the last certificate is shown", last.split(), await_certificate(tls, last).split())
    stage.write(cert.name, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    await_error(stage, checks, "a broken certificate", gateway)
    checks.equal("a broken certificate: the old one is shown", last.split(), shown(tls).split())
    authority.certificate("repaired", "localhost", replacing="gateway")
    repaired = cert.read_text()
    # Nobody says so: it is found by itself.
    checks.equal("a new one is taken without a signal", repaired.split(), await_certificate(tls, repaired).split())


def try_broken(stage: Stage, checks: Checks, gateway: subprocess.Popen, good: str, clear: int, last: int) -> None:
    """A file with an error is refused, and the old one stays in force."""
    for name, text in (("an unknown key", f"nonsense = 1\n{good}"), ("what is no TOML", "[[["), ("an empty file", "")):
        stage.write("gateway.toml", text)
        await_error(stage, checks, name, gateway)
        seen = curl(f"http://127.0.0.1:{clear}/only/{last}", method="POST", body=b"x").status
        checks.equal(f"a file with {name}: the old one is in force", (200, None), (seen, gateway.poll()))
    stage.write("gateway.toml", good.replace(f"/only/{last}", "/only/mended"))
    deadline = time.monotonic() + 10
    while (seen := curl(f"http://127.0.0.1:{clear}/only/mended", method="POST", body=b"x").status) != 200:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    checks.equal("a changed file is found without a signal", 200, seen)


def try_beside_slow_write(stage: Stage, checks: Checks) -> None:
    """A route to another service comes while a write is under way: other writes do not wait for that one."""
    backend, other = stage.backend("one"), stage.backend("other")
    [port] = free_ports(1)

    def configuration(number: int) -> str:
        return f"""
            [[listeners]]
            address = "127.0.0.1:{port}"
            [upstreams.one]
            servers = ["{backend.url}"]
            [upstreams.other]
            servers = ["{other.url}"]
            [[routes]]
            path = "/docs/{{*path}}"
            upstream = "one"
            [[routes]]
            path = "/other/{number}"
            upstream = "other"
            [guard]
            wait = "3s"
            """

    gateway = stage.gateway("beside", configuration(0), port)
    origin = f"http://127.0.0.1:{port}"
    slow, quick = backend.put("/docs/slow", "before"), backend.put("/docs/quick", "before")
    with futures.ThreadPoolExecutor(1) as executor:
        fields = {"If-Match": slow, "X-Pause": "5"}
        writing = executor.submit(curl, f"{origin}/docs/slow", method="PUT", fields=fields, body=b"after")
        while backend.seen("PUT", "/docs/slow") < 2 and not writing.done():
            time.sleep(0.02)
        stage.write("beside.toml", configuration(1))
        gateway.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while curl(f"{origin}/other/1", method="OPTIONS").body != b"done" and time.monotonic() < deadline:
            time.sleep(0.02)
        before = time.monotonic()
        written = curl(f"{origin}/docs/quick", method="PUT", fields={"If-Match": quick}, body=b"after")
        posted = curl(f"{origin}/docs/quick", method="POST", body=b"after")
        took = time.monotonic() - before
        checks.equal(
            "a route to another service, new beside a slow write: a write to another resource, and a POST",
            (200, 200),
            (written.status, posted.status),
        )
        checks.below("neither waits for the slow one, in seconds", 2, took)
        checks.equal("the slow one is carried out", 200, writing.result().status)


def await_error(stage: Stage, checks: Checks, name: str, gateway: subprocess.Popen) -> None:
    """Tells the gateway to reload, and waits until its log has an error."""
    before = stage.log("gateway").read_text().count("ERROR")
    gateway.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 5
    while (told := stage.log("gateway").read_text().count("ERROR") > before) is False and time.monotonic() < deadline:
        time.sleep(0.02)
    checks.holds(f"{name}: the log has an error", told, "an error", stage.end_of_log("gateway")[-300:])


def await_certificate(port: int, wanted: str) -> str:
    deadline = time.monotonic() + 8
    while (seen := shown(port)).split() != wanted.split() and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def shown(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=5)
