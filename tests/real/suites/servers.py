"""An upstream with several servers: one is killed, then the other, then one comes back."""

import asyncio
import collections
import signal
import time

import httpx

from asking import curl
from checks import Checks
from stage import Stage, free_ports


def run_suite(stage: Stage, checks: Checks) -> None:
    a, b = stage.backend("a"), stage.backend("b")
    checked, unchecked, few = free_ports(3)
    for server in (a, b):
        server.put("/docs/a", "text")
    stage.gateway(
        "checked",
        f"""
        [[listeners]]
        address = "127.0.0.1:{checked}"
        [upstreams.backend]
        servers = ["{a.url}", "{b.url}"]
        health = {{ path = "/empty", interval = "200ms", timeout = "500ms", healthy = 2, unhealthy = 2 }}
        """,
        checked,
    )
    stage.gateway(
        "unchecked",
        f"""
        [[listeners]]
        address = "127.0.0.1:{unchecked}"
        [upstreams.backend]
        servers = ["{a.url}", "{b.url}"]
        """,
        unchecked,
    )
    stage.gateway(
        "few",
        f"""
        [[listeners]]
        address = "127.0.0.1:{few}"
        [upstreams.backend]
        servers = ["{a.url}", "{b.url}"]
        balance = "least_connections"
        """,
        few,
    )
    origin = f"http://127.0.0.1:{checked}"
    served = collections.Counter(curl(f"{origin}/docs/a").fields.get("x-served-by") for _ in range(20))
    # Each worker goes round by itself, so with two of them there may be one more here and one less there.
    checks.holds(
        "round robin",
        sum(served.values()) == 20 and 9 <= served["a"] <= 11 and 9 <= served["b"] <= 11,
        "as many for each",
        dict(served),
    )
    asyncio.run(try_least_connections(checks, f"http://127.0.0.1:{few}"))

    for name, port in (("with health checks", checked), ("without health checks", unchecked)):
        asyncio.run(read_while(stage, checks, name, f"http://127.0.0.1:{port}", a if port == checked else b))
        if port == checked:
            a = stage.backend("a", a.port)
            a.put("/docs/a", "text")
            checks.holds("a server that came back is used again", await_server(origin, "a"), "answers of a", "none")

    a.process.kill()
    a.process.wait()
    deadline = time.monotonic() + 10
    while (none := curl(f"{origin}/docs/a")).status != 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    checks.equal(
        "no server is healthy", (503, "application/problem+json"), (none.status, none.fields.get("content-type"))
    )
    checks.like("no server is healthy: Retry-After", "[0-9]+", none.fields.get("retry-after"))
    write = curl(f"{origin}/docs/a", method="PUT", fields={"If-Match": '"x"'}, body=b"x")
    checks.holds(
        "no server is healthy: a guarded write is refused", write.status in (409, 503), "409 or 503", write.status
    )
    posted = curl(f"{origin}/docs/a", method="POST", body=b"x")
    checks.equal("no server is healthy: a POST", 503, posted.status)
    b = stage.backend("b", b.port)
    b.put("/docs/a", "text")
    checks.holds("one comes back: it is used", await_server(origin, "b"), "answers of b", "none")


async def try_least_connections(checks: Checks, origin: str) -> None:
    """While one server has a slow request under way, the others go to the other server."""
    async with httpx.AsyncClient(base_url=origin, timeout=15, trust_env=False) as client:
        slow = asyncio.create_task(client.get("/docs/a", headers={"X-Pause": "2"}))
        served = collections.Counter()
        while not slow.done() and sum(served.values()) < 20:
            served[(await client.get("/docs/a")).headers["x-served-by"]] += 1
            await asyncio.sleep(0.02)
        busy = (await slow).headers["x-served-by"]
    # One may have overtaken it.
    checks.below("least connections: requests for the server with one under way", 2, served[busy])


async def read_while(stage: Stage, checks: Checks, name: str, origin: str, victim) -> None:
    """Reads all the time, 20 at once; the server is killed in the middle of it."""
    statuses: collections.Counter = collections.Counter()
    ending = asyncio.Event()

    async def read(client: httpx.AsyncClient) -> None:
        while not ending.is_set():
            try:
                statuses[(await client.get("/docs/a")).status_code] += 1
            except httpx.HTTPError as error:
                statuses[repr(error)] += 1
            await asyncio.sleep(0.1)

    async with httpx.AsyncClient(base_url=origin, timeout=15, trust_env=False) as client:
        reads = [asyncio.create_task(read(client)) for _ in range(20)]
        await asyncio.sleep(0.7)
        before = sum(statuses.values())
        victim.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(victim.process.wait)
        await asyncio.sleep(2)
        ending.set()
        await asyncio.gather(*reads)
    done = sum(statuses.values())
    checks.holds(
        f"{name}: reads go on while a server is killed",
        before > 0 and done - before > 50,
        "more than 50",
        done - before,
    )
    checks.equal(f"{name}: none of {done} failed", [200], list(statuses) if len(statuses) == 1 else dict(statuses))


def await_server(origin: str, name: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        answer = curl(f"{origin}/docs/a")
        if answer.fields.get("x-served-by") == name and answer.status == 200:
            return True
        time.sleep(0.05)
    return False
