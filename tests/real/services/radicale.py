"""Radicale: CalDAV, with strong tags of the content that it compares writes with itself."""

import itertools
import sys

import httpx

from checks import Checks
from lost_update import OLD, Held, client, refuser
from services import Service
from stage import HERE, Stage

RENAMED = (
    '<?xml version="1.0"?><propertyupdate xmlns="DAV:"><set><prop><displayname>Work</displayname></prop></set>'
    "</propertyupdate>"
)
COLLECTION = "/ann/calendar/"


class Calendar(Service):
    suite = "radicale"
    name = "Radicale 3.9 (CalDAV)"
    shows = "strong `ETag`, of the content"
    guard = ('profile = "webdav"', 'methods = ["PUT", "DELETE"]', 'missing = "require"')
    compares = True
    loses = 0
    know = (
        "It compares `If-Match` itself, under a lock, and loses nothing. The gateway refuses earlier, and with "
        "`missing` those who send none; `methods` leaves out what nobody makes conditional "
        "(MKCALENDAR, PROPPATCH)."
    )
    content_type = "text/calendar; charset=utf-8"
    numbers = itertools.count(1)

    def start(self, stage: Stage, port: int) -> None:
        configuration = stage.write(
            "radicale.ini",
            f"""
[server]
hosts = 127.0.0.1:{port}
max_connections = 100
[auth]
type = none
[rights]
type = authenticated
[storage]
filesystem_folder = {stage.folder}/collections
[web]
type = none
""",
        )
        server = (sys.executable, HERE / "queueing.py", "radicale.__main__", "run")
        stage.start("radicale", *server, "--config", configuration, port=port)
        with client(f"http://127.0.0.1:{port}") as store:
            store.request("MKCALENDAR", COLLECTION, auth=self.user).raise_for_status()

    user = httpx.BasicAuth("ann", "any")

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        path = f"{COLLECTION}{next(self.numbers)}.ics"
        self.write(store, path, Held(), text).raise_for_status()
        return path

    def read(self, client: httpx.Client, path: str) -> Held:
        client.auth = self.user
        return super().read(client, path)

    def write(self, client: httpx.Client, path: str, held: Held, text: str) -> httpx.Response:
        client.auth = self.user
        return super().write(client, path, held, text)

    def content(self, path: str, held: Held, text: str) -> bytes:
        lines = (
            "BEGIN:VCALENDAR",
            "VERSION:2.0",
            "PRODID:-//example//EN",
            "BEGIN:VEVENT",
            f"UID:{path}",
            "DTSTAMP:20260101T000000Z",
            "DTSTART:20260101T000000Z",
            f"SUMMARY:{text}",
            "END:VEVENT",
            "END:VCALENDAR",
            "",
        )
        return "\r\n".join(lines).encode()

    def stored(self, store: httpx.Client, path: str) -> str:
        lines = self.read(store, path).text.splitlines()
        return next(line.removeprefix("SUMMARY:") for line in lines if line.startswith("SUMMARY:"))

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        with client(direct) as store, client(through) as ann:
            path = self.create(store)
            alone = self.write(store, path, Held(), "without a tag")
            checks.holds("the service alone takes a write without a tag", alone.is_success, "2xx", alone.status_code)
            refused = self.write(ann, path, Held(), "without a tag")
            checks.equal("the gateway does not", 428, refused.status_code)
            path = f"{COLLECTION}made.ics"
            made = ann.put(
                path,
                headers={"If-None-Match": "*", "Content-Type": self.content_type},
                content=self.content(path, Held(), "made"),
            )
            checks.equal("a new one is made with If-None-Match: *", 201, made.status_code)
            listed = ann.request("PROPFIND", COLLECTION, headers={"Depth": "1"})
            checks.equal("PROPFIND passes", 207, listed.status_code)
            changed = ann.request("PROPPATCH", COLLECTION, content=RENAMED, headers={"Content-Type": "application/xml"})
            checks.equal("so does PROPPATCH", 207, changed.status_code)
            checks.equal("and MKCALENDAR", 201, ann.request("MKCALENDAR", "/ann/another/").status_code)
            tag = self.read(ann, path).fields["If-Match"]
            deleted = ann.delete(path, headers={"If-Match": tag})
            checks.equal("a DELETE with the current tag", 200, deleted.status_code)
            gone = self.write(ann, path, Held({"If-Match": tag}), "from the dead")
            checks.equal("a write to what is gone", (412, "the gateway"), (gone.status_code, refuser(gone)))
