"""A Flask service with SQLite that shows no tags at all (`notes.py` in the folder above)."""

import json
import sys

import httpx

from checks import Checks
from lost_update import OLD, Held, client
from services import Service
from stage import HERE, Stage


class Notes(Service):
    suite = "flask"
    name = "Flask with SQLite"
    shows = "nothing"
    guard = ('version = "body"', 'ignore = ["/served_at"]', 'after_write = "probe"')
    know = (
        "`ignore` names the members that differ from answer to answer; `after_write` lets a client save twice "
        "without a read between, for one more request."
    )

    def start(self, stage: Stage, port: int) -> None:
        stage.start("notes", sys.executable, HERE / "notes.py", port, stage.folder / "notes.sqlite", port=port)

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        return store.post("/notes", json={"text": text}).raise_for_status().headers["location"]

    def content(self, path: str, held: Held, text: str) -> bytes:
        return json.dumps({"text": text}).encode()

    def stored(self, store: httpx.Client, path: str) -> str:
        return store.get(path).json()["text"]

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        with client(direct) as store, client(through) as ann, client(through) as ben:
            path = self.create(store)
            checks.equal("the service alone shows no tag", None, store.get(path).headers.get("etag"))
            read, again = ann.get(path), ann.get(path)
            checks.holds(
                "two reads differ in what is ignored", read.text != again.text, "two texts", (read.text, again.text)
            )
            checks.like("and show a strong tag", '"[^"]+"', read.headers.get("etag"))
            checks.equal("the same one", read.headers.get("etag"), again.headers.get("etag"))
            same = ann.get(path, headers={"If-None-Match": read.headers.get("etag", "")})
            checks.equal("a read of what is known is answered without it", (304, ""), (same.status_code, same.text))
            head = ann.head(path)
            checks.equal("a HEAD shows it too", read.headers.get("etag"), head.headers.get("etag"))

            first = self.write(ann, path, Held({"If-Match": read.headers.get("etag", "")}), "once")
            checks.like("the answer to a write shows the new tag", '"[^"]+"', first.headers.get("etag"))
            second = self.write(ann, path, Held({"If-Match": first.headers.get("etag", "")}), "twice")
            checks.equal("with which the client saves again, without a read", 200, second.status_code)
            checks.equal("and that is stored", "twice", self.stored(store, path))
            late = self.write(ben, path, Held({"If-Match": first.headers.get("etag", "")}), "late")
            checks.equal("the tag between is stale", 409, late.status_code)
            checks.equal(
                "and the refusal names the current one", second.headers.get("etag"), late.headers.get("etag", "none")
            )
