"""CouchDB's protocol by express-pouchdb: documents with revisions of their own, and what has none."""

import itertools
import json

import httpx

from checks import Checks
from lost_update import OLD, Held, client
from services import Service
from stage import HERE, Stage, run

NAMES = itertools.count(1)


class Documents(Service):
    suite = "couchdb"
    name = "express-pouchdb 4.2 (CouchDB), documents"
    shows = "`_rev`; on reads Express's weak `ETag`, on writes a strong one of the revision"
    guard = ('version = { json = "/_rev" }',)
    routes = ("[[routes]]", 'path = "/{db}/_changes"', 'guard = { version = "etag" }', "[[routes]]")
    compares = True
    loses = 0
    know = (
        "`_rev` is compared by the service, and clients that send it lose nothing: for them the gateway adds nothing. "
        "With the key `If-Match` works too, which express-pouchdb ignores: it deletes what is newer. A feed of changes "
        "has no end to wait for, and gets a route of its own."
    )

    def start(self, stage: Stage, port: int) -> None:
        stage.start("pouchdb", "node", HERE / "node/pouchdb.cjs", port, port=port, cwd=stage.folder)
        with client(f"http://127.0.0.1:{port}") as store:
            store.put("/db").raise_for_status()

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        path = f"/db/document-{next(NAMES)}"
        self.write(store, path, Held(), text).raise_for_status()
        return path

    def read(self, client: httpx.Client, path: str) -> Held:
        """As CouchDB's clients do it: the revision is in the document, and no field is sent."""
        return Held({}, "", client.get(path).raise_for_status().json())

    def content(self, path: str, held: Held, text: str) -> bytes:
        return json.dumps({**held.document, "text": text}).encode()

    def stored(self, store: httpx.Client, path: str) -> str:
        return store.get(path).json()["text"]

    refused_by = "the service"

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        self.try_tags(checks, direct, through)
        self.try_clients(checks, direct, through)

    def try_tags(self, checks: Checks, direct: str, through: str) -> None:
        """`If-Match`, which the service does not know."""
        with client(direct) as store, client(through) as ann, client(through) as ben:
            path = self.create(store)
            tag = store.get(path).headers["etag"]
            self.write(ann, path, self.read(ann, path), "newer")
            gone = store.delete(path, headers={"If-Match": tag})
            checks.equal("the service alone deletes what is newer than If-Match says", 200, gone.status_code)

            path = self.create(store)
            tag = ann.get(path).headers.get("etag", "")
            held = Held({"If-Match": tag}, "", ben.get(path).json())
            saved = self.write(ben, path, held, "newer")
            checks.equal("with If-Match, a write with the current tag", 201, saved.status_code)
            refused = ann.delete(path, headers={"If-Match": tag})
            checks.equal("a DELETE with an older one is refused", 409, refused.status_code)
            checks.equal("and the newer one is kept", "newer", self.stored(store, path))
            tag = ann.get(path).headers.get("etag", "")
            deleted = ann.delete(path, headers={"If-Match": tag})
            checks.equal("a DELETE with the current tag", 200, deleted.status_code)

    def try_clients(self, checks: Checks, direct: str, through: str) -> None:
        """What PouchDB does, and a feed of changes."""
        with client(direct) as store, client(through) as ann:
            feed = {"feed": "continuous", "heartbeat": "500", "since": "0"}
            plain = {"Accept-Encoding": "identity"}  # the service holds back what it compresses
            with ann.stream("GET", "/db/_changes", params=feed, headers=plain, timeout=10) as changes:
                checks.contains("a feed of changes begins at once", '"id":"document-', next(changes.iter_lines()))
            store.put("/copies").raise_for_status()
            seen = run("node", HERE / "node/replicate.cjs", f"{through}/copies", timeout=20).stdout
            expected = {"pushed": 3, "heard": "one", "pulled": 1, "text": "there", "refused": "conflict"}
            checks.equal("PouchDB copies there and back, hears of a change, and is refused", expected, json.loads(seen))


class Security(Documents):
    suite = "couchdb-security"
    name = "express-pouchdb 4.2, `/{db}/_security`"
    shows = 'no revision; Express\'s weak `ETag`, on writes that of the answer `{"ok":true}`'
    guard = ('profile = "express"',)
    routes = ()
    compares = False
    loses = None
    know = (
        "CouchDB gives it no revision. All writes are answered alike, and so with the same tag, which the profile does "
        'not trust; with no more than `comparison = "weak"` who writes with that tag would overwrite anything.'
    )
    refused_by = "the gateway"

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        database = f"/db{next(NAMES)}"
        store.put(database).raise_for_status()
        path = f"{database}/_security"
        self.write(store, path, Held(), text).raise_for_status()
        return path

    def read(self, client: httpx.Client, path: str) -> Held:
        return Service.read(self, client, path)

    def content(self, path: str, held: Held, text: str) -> bytes:
        return json.dumps({"admins": {"names": [text], "roles": []}}).encode()

    def stored(self, store: httpx.Client, path: str) -> str:
        return store.get(path).json()["admins"]["names"][0]

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        """Its answers to writes have a tag, which says nothing: nobody may save with it over another's work."""
        with client(direct) as store, client(through) as ann, client(through) as ben:
            path = self.create(store)
            anns = self.write(ann, path, self.read(ann, path), "by Ann")
            bens = self.write(ben, path, self.read(ben, path), "by Ben")
            checks.equal("two writes, each after a read", (200, 200), (anns.status_code, bens.status_code))
            if tag := anns.headers.get("etag"):
                again = self.write(ann, path, Held({"If-Match": tag}), "by Ann again")
                checks.equal("one with the tag of the first one's answer", 409, again.status_code)
            checks.equal("the second one's work is kept", "by Ben", self.stored(store, path))
