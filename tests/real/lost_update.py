"""The lost-update check, the same for every service, whether asked directly or through the gateway.

Nothing here judges: it says what happened.
"""

import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from services import Service

WRITERS = 20
# All texts have one length: a service that makes its tags of a size and a time can't tell them by that.
OLD, ANNS, BENS = "saved by Old", "saved by Ann", "saved by Ben"
# Making one with all that it would need for TLS takes long, and none is needed.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PATIENCE_SECONDS = 4.0


@dataclass
class Held:
    """What a client keeps of a read: the fields that it sends with its write, and what it has read."""

    fields: dict[str, str] = field(default_factory=dict)
    text: str = ""
    document: dict = field(default_factory=dict)


@dataclass
class Seen:
    first: int
    second: int
    # Who refused the second: "the gateway" or "the service"; empty where nobody did.
    by: str
    first_is_kept: bool
    # How many of the writers with one version were told that they had saved, and whether one of these is stored.
    saved: int
    statuses: list[int]
    stored_is_saved: bool
    # How the refused one ended who read again and wrote again, and after how many times.
    recovered: bool
    attempts: int

    @property
    def lost(self) -> int:
        """Writers who were told that they had saved, and whose work is gone."""
        return max(0, self.saved - 1)


def try_lost_update(service: "Service", asked: str, direct: str) -> Seen:
    """Two writers with one version, then twenty, then one of the refused again. `asked` and `direct` are origins."""
    with client(asked) as ann, client(asked) as ben, client(direct) as store:
        path = service.create(store, OLD)
        with_ann, with_ben = service.read(ann, path), service.read(ben, path)
        first = service.write(ann, path, with_ann, ANNS)
        second = service.write(ben, path, with_ben, BENS)
        first_is_kept = service.stored(store, path) == ANNS
        answers = race(service, asked, path, service.read(ann, path))
        saved = [number for number, answer in enumerate(answers) if answer.is_success]
        stored = service.stored(store, path)
        recovered, attempts = recover(service, ben, path, store)
        return Seen(
            first.status_code,
            second.status_code,
            refuser(second),
            first_is_kept,
            len(saved),
            sorted(answer.status_code for answer in answers),
            stored in [racer(number) for number in saved],
            recovered,
            attempts,
        )


def race(service: "Service", origin: str, path: str, held: Held) -> list[httpx.Response]:
    """Each writer has a connection of its own, and all begin together."""
    together = threading.Barrier(WRITERS, timeout=10)

    def write(number: int) -> httpx.Response:
        with client(origin) as writer:
            together.wait()
            return service.write(writer, path, held, racer(number))

    with ThreadPoolExecutor(WRITERS) as writers:
        return list(writers.map(write, range(WRITERS)))


def racer(number: int) -> str:
    return f"saved by {number:03}"


def recover(service: "Service", writer: httpx.Client, path: str, store: httpx.Client) -> tuple[bool, int]:
    """As a client does it that was refused: reads again, writes again, a few times if need be."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for attempt in range(1, 100):
        answer = service.write(writer, path, service.read(writer, path), BENS)
        if answer.is_success or time.monotonic() > deadline:
            return answer.is_success and service.stored(store, path) == BENS, attempt
        time.sleep(0.1)
    return False, attempt


def refuser(answer: httpx.Response) -> str:
    if answer.is_success:
        return ""
    return "the gateway" if "ifmatch" in answer.headers.get("proxy-status", "") else "the service"


def client(origin: str) -> httpx.Client:
    """One that takes compressed answers, as most do. Nothing of the environment's proxies is for loopback."""
    return httpx.Client(base_url=origin, timeout=15, verify=NO_TLS, trust_env=False)
