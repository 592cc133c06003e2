"""Clients that take their time: ten thousand idle connections, slow heads from a thousand, a body a byte a second.

Each is beside others who are served meanwhile.
"""

import asyncio
import collections
import resource
import time

from checks import Checks
from stage import Stage, free_ports, memory, open_files

IDLE = 10_000
SLOW = 1000
# How long somebody who is not to blame may be made to wait, beyond what the limits allow. Machines differ.
SLACK = 3.0


def run_suite(stage: Stage, checks: Checks) -> None:
    checks.attempt("idle connections", try_idle, stage, checks)
    checks.attempt("slow heads", try_slow_heads, stage, checks)
    checks.attempt("a slow body", try_trickle, stage, checks)


# ---------------------------------------------------------------------------------------------- idle connections


def try_idle(stage: Stage, checks: Checks) -> None:
    files_allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_allowed, files_allowed))
    count = min(IDLE, files_allowed - 1000)
    if count < IDLE:
        checks.note(f"only {count} connections: there may be {files_allowed} open files")
    files, port = free_ports(2)
    stage.nginx("files", files, f"server {{ listen 127.0.0.1:{files}; }}")
    stage.write("files/page", "page")
    gateway = stage.gateway(
        "idle",
        f"""
        [limits]
        connections = {IDLE * 2}
        connections_per_address = {IDLE * 2}
        idle_timeout = "5m"
        [[listeners]]
        address = "127.0.0.1:{port}"
        [upstreams.files]
        servers = ["http://127.0.0.1:{files}"]
        """,
        port,
    )
    before = memory(gateway)
    asyncio.run(hold_idle(checks, port, count))
    checks.note(f"{(memory(gateway) - before) * 1024 / count:.1f} KB of memory for each idle connection")
    deadline = time.monotonic() + 10
    while (left := open_files(gateway)) > 100 and time.monotonic() < deadline:
        time.sleep(0.05)
    checks.below("when they are gone, few files are open", 101, left)


async def hold_idle(checks: Checks, port: int, count: int) -> None:
    clients = []
    served = 0
    for _ in range(0, count, 100):
        opened = await asyncio.gather(*(Client.open(port) for _ in range(min(100, count - len(clients)))))
        statuses = await asyncio.gather(*(client.get("/page") for client in opened))
        served += statuses.count(200)
        clients += opened
    checks.equal(f"{count} clients, each with a connection that it keeps: all are served", count, served)
    times = []
    for _ in range(50):
        before = time.monotonic()
        other = await Client.open(port)
        if await other.get("/page") == 200:
            times.append(time.monotonic() - before)
        other.close()
    checks.equal("beside them 50 others are served", 50, len(times))
    checks.below("and none waits, in seconds", SLACK, max(times, default=0))
    again = collections.Counter()
    for start in range(0, count, 100):
        again.update(await asyncio.gather(*(client.get("/page") for client in clients[start : start + 100])))
    checks.equal("all of the idle connections still serve", {200: count}, dict(again))
    for client in clients:
        client.close()


# ---------------------------------------------------------------------------------------------- slow heads


def try_slow_heads(stage: Stage, checks: Checks) -> None:
    backend = stage.backend()
    backend.put("/docs/a", "text")
    [port] = free_ports(1)
    stage.gateway(
        "slow",
        f"""
        [limits]
        header_read_timeout = "3s"
        connections_per_address = {SLOW * 2}
        [[listeners]]
        address = "127.0.0.1:{port}"
        [upstreams.backend]
        servers = ["{backend.url}"]
        """,
        port,
    )
    asyncio.run(send_slow_heads(checks, port))


async def send_slow_heads(checks: Checks, port: int) -> None:
    slow = await asyncio.gather(*(Client.open(port) for _ in range(SLOW)))
    ending = asyncio.Event()

    async def dribble(client: "Client") -> bytes:
        """A byte each half second, until there is an answer or the connection is closed."""
        answer = asyncio.create_task(client.reader.read())
        head = b"GET /docs/a HTTP/1.1\r\nHost: a\r\nX-Slow: " + b"x" * 1000
        for at in range(len(head)):
            if answer.done() or ending.is_set():
                break
            try:
                client.writer.write(head[at : at + 1])
            except ConnectionError:
                break
            await asyncio.wait({answer}, timeout=0.5)
        answer_or_none = await asyncio.wait_for(answer, 1) if answer.done() else b"no answer"
        client.close()
        return answer_or_none

    heads = [asyncio.create_task(dribble(client)) for client in slow]
    times = []
    for _ in range(30):
        before = time.monotonic()
        other = await Client.open(port)
        status = await asyncio.wait_for(other.get("/docs/a"), 10)
        if status == 200:
            times.append(time.monotonic() - before)
        other.close()
        await asyncio.sleep(0.05)
    checks.equal(f"slow heads from {SLOW} clients: 30 others are served meanwhile", 30, len(times))
    checks.below("none of them waits, in seconds", SLACK, max(times, default=0))
    await asyncio.wait(heads, timeout=10)
    ending.set()
    answers = collections.Counter(first_line(answer) for answer in await asyncio.gather(*heads, return_exceptions=True))
    checks.equal("each of the slow is told so", {"HTTP/1.1 408": SLOW}, dict(answers))


def first_line(answer) -> str:
    return answer[:12].decode(errors="replace") if isinstance(answer, bytes) else repr(answer)


# ---------------------------------------------------------------------------------------------- a slow body


def try_trickle(stage: Stage, checks: Checks) -> None:
    backend = stage.backend("backend-trickle")
    [port] = free_ports(1)
    stage.gateway(
        "trickle",
        f"""
        [[listeners]]
        address = "127.0.0.1:{port}"
        [upstreams.backend]
        servers = ["{backend.url}"]
        [guard]
        body_idle_timeout = "2s"
        settle = "1s"
        """,
        port,
    )
    asyncio.run(trickle(checks, backend, port))


async def trickle(checks: Checks, backend, port: int) -> None:
    tag = await asyncio.to_thread(backend.put, "/docs/a", "before")
    reader = await Client.open(port)
    checks.equal("a body a byte a second: a read before", 200, await reader.get("/docs/a"))
    slow = await Client.open(port)
    slow.writer.write(
        b"PUT /docs/a HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nIf-Match: %b\r\nContent-Length: 1000000\r\n\r\n"
        % (port, tag.encode())
    )
    answer = asyncio.create_task(slow.reader.read(4096))

    async def send() -> None:
        while not answer.done():
            try:
                slow.writer.write(b"x")
            except ConnectionError:
                return
            await asyncio.wait({answer}, timeout=1)

    sending = asyncio.create_task(send())
    # The backend has begun to receive it, so it has its turn.
    deadline = time.monotonic() + 5
    while await asyncio.to_thread(backend.seen, "PUT", "/docs/a") < 2 and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    checks.equal("a body a byte a second: it is on its way to the backend", 2, backend.seen("PUT", "/docs/a"))
    before = time.monotonic()
    other = await Client.open(port)
    status = await asyncio.wait_for(other.put("/docs/a", tag, b"after"), 15)
    took = time.monotonic() - before
    checks.equal("another writer of that resource, with the same tag, gets its turn", 200, status)
    checks.below("after no longer than body_idle_timeout and settle, in seconds", 2 + 1 + SLACK, took)
    await asyncio.wait({answer}, timeout=5)
    checks.like("the slow one is told so", r"b'HTTP/1\.1 408.*", answer.result()[:60] if answer.done() else "no answer")
    sending.cancel()
    checks.equal("what is stored is the other's", "after", await asyncio.to_thread(backend.text, "/docs/a"))
    for client in (reader, slow, other):
        client.close()


class Client:
    """One connection by HTTP/1.1, with as little to it as can be: there will be thousands."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.reader = reader
        self.writer = writer
        self.port = port

    @classmethod
    async def open(cls, port: int) -> "Client":
        return cls(*await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 10), port)

    async def get(self, path: str) -> int:
        return await self.ask(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (path.encode(), self.port))

    async def put(self, path: str, tag: str, body: bytes) -> int:
        return await self.ask(
            b"PUT %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nIf-Match: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (path.encode(), self.port, tag.encode(), len(body), body)
        )

    async def ask(self, request: bytes) -> int:
        """The status of the answer; 0 where there is none. All of its body is read, which must have a length."""
        try:
            self.writer.write(request)
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ),
                0,
            )
            await self.reader.readexactly(length)
            return int(head.split()[1])
        except (OSError, asyncio.IncompleteReadError):
            return 0

    def close(self) -> None:
        self.writer.close()
