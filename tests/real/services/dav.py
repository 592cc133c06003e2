"""Files by WebDAV: Apache's `mod_dav` and nginx's `dav` module. Both make tags of a file's time and size."""

import itertools
import time

import httpx

import apache
from checks import Checks
from lost_update import ANNS, BENS, OLD, Held, client, refuser
from services import Service
from stage import Stage

STRONG_AFTER_SECONDS = 2.5
LOCK = (
    '<?xml version="1.0"?><lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope>'
    "<locktype><write/></locktype></lockinfo>"
)
# Apache compresses nothing that is very short.
FILLER = "\n" + "and so on " * 50
NAMES = itertools.count(1)


class Files(Service):
    content_type = "text/plain"

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        path = f"/file-{next(NAMES)}.txt"
        self.write(store, path, Held(), text).raise_for_status()
        return path

    def content(self, path: str, held: Held, text: str) -> bytes:
        return (text + FILLER).encode()

    def stored(self, store: httpx.Client, path: str) -> str:
        return store.get(path).text.removesuffix(FILLER)


class Apache(Files):
    suite = "mod-dav"
    name = "Apache 2.4 `mod_dav`"
    shows = "strong `ETag`, of time (µs) and size; weak within a second of a change"
    guard = ('profile = "webdav"',)
    compares = True
    loses = None
    know = (
        "It compares `If-Match` itself, but not in one step with the write. Who reads within a second of a change gets "
        "a weak tag, is refused, and reads again."
    )

    def start(self, stage: Stage, port: int) -> None:
        apache.start_dav(stage, "apache", port)

    def read(self, client: httpx.Client, path: str) -> Held:
        """Patiently: the tag becomes strong."""
        deadline = time.monotonic() + STRONG_AFTER_SECONDS
        held = super().read(client, path)
        while any(tag.startswith("W/") for tag in held.fields.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
            held = super().read(client, path)
        return held

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        """WebDAV's own ways: the `If` field with a tag, and with the token of a lock."""
        with client(direct) as store, client(through) as ann:
            path = self.create(store)
            old = self.read(ann, path).fields["If-Match"]
            saved = self.write(ann, path, Held({"If": f"([{old}])"}), ANNS)
            checks.holds("a write with the tag in If", saved.is_success, "2xx", saved.status_code)
            refused = self.write(ann, path, Held({"If": f"([{old}])"}), BENS)
            checks.equal("a second is refused", (412, "the gateway"), (refused.status_code, refuser(refused)))
            lock = ann.request("LOCK", path, content=LOCK, headers={"Content-Type": "application/xml"})
            checks.equal("a lock is given", 200, lock.status_code)
            tag = self.read(ann, path).fields["If-Match"]
            saved = self.write(ann, path, Held({"If": f"({lock.headers.get('lock-token')} [{tag}])"}), BENS)
            checks.holds("a write with its token and the tag", saved.is_success, "2xx", saved.status_code)
            checks.equal("and that is stored", BENS, self.stored(store, path))
            moved = ann.request("MOVE", path, headers={"Destination": f"{through}/moved.txt", "If": f"([{old}])"})
            checks.holds("a MOVE with the old tag in If is refused", moved.status_code == 412, 412, moved.status_code)


class SmallFiles(Apache):
    suite = "mod-dav-small"
    name = "Apache 2.4 `mod_dav`, small files"
    shows = "the same"
    guard = ('profile = "webdav"', 'version = "body"')
    know = (
        "Nobody has to wait: the tags are of the content, those in WebDAV's `If` among them. Of that Apache gets the locks' tokens."
    )

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        """No second has to pass between."""
        with client(direct) as store, client(through) as ann:
            path = self.create(store)
            saved = [self.write(ann, path, Service.read(self, ann, path), text) for text in (ANNS, BENS, ANNS)]
            checks.equal("three writes in a row, each after a read", [204] * 3, [each.status_code for each in saved])
            checks.equal("and the last is stored", ANNS, self.stored(store, path))


class Nginx(Files):
    suite = "nginx-dav"
    name = "nginx `dav` module"
    shows = "strong `ETag`, of time (s) and size"
    guard = ('version = "body"',)
    know = (
        "By its own tags two writes of one size within one second can't be told apart. Files larger than "
        "`version_body_limit` have no tag with this."
    )

    def start(self, stage: Stage, port: int) -> None:
        stage.nginx(
            "files",
            port,
            f"""
            server {{
                listen 127.0.0.1:{port} backlog=128;
                location / {{ dav_methods PUT DELETE MOVE COPY; create_full_put_path on; }}
            }}""",
        )

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        with client(direct) as store, client(through) as ann:
            path = self.create(store)
            tags = []
            for text in (ANNS, BENS) * 5:
                self.write(store, path, Held(), text).raise_for_status()
                tags.append(store.get(path).headers["etag"])
            checks.below("the service alone: so many tags of ten writes in a row", 10, len(set(tags)))
            made = ann.put("/made.txt", headers={"If-None-Match": "*"}, content=b"made")
            again = ann.put("/made.txt", headers={"If-None-Match": "*"}, content=b"again")
            checks.equal("with If-None-Match: * one is made once", (201, 409), (made.status_code, again.status_code))
