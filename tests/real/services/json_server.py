"""json-server: Express, whose tags are weak and made of the answer's content; writes are compared with nothing."""

import json
import os
from pathlib import Path

import httpx

from checks import Checks
from lost_update import ANNS, BENS, OLD, Held, client
from services import Service
from stage import Stage


class JsonServer(Service):
    suite = "json-server"
    name = "json-server 0.17 (Express)"
    shows = "weak `ETag`, of the content"
    guard = ('profile = "express"',)
    know = "Its tags are hashes of the content: what was there before has the tag of then, and so has the same version."

    def start(self, stage: Stage, port: int) -> None:
        database = stage.write("posts.json", json.dumps({"posts": []}))
        program = Path(os.environ["NODE_PATH"]) / "json-server/lib/cli/bin.js"
        stage.start(
            "json-server", "node", program, "--quiet", "--host", "127.0.0.1", "--port", port, database, port=port
        )

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        made = store.post("/posts", json=self.document(text)).raise_for_status()
        return f"/posts/{made.json()['id']}"

    def document(self, text: str) -> dict:
        return {"title": text, "body": "and so on " * 50}

    def content(self, path: str, held: Held, text: str) -> bytes:
        return json.dumps(self.document(text)).encode()

    def stored(self, store: httpx.Client, path: str) -> str:
        return store.get(path).json()["title"]

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        """Its answers to writes are the document, so that their tags say something: a client saves twice with them."""
        with client(direct) as store, client(through) as ann:
            path = self.create(store)
            first = self.write(ann, path, self.read(ann, path), ANNS)
            again = self.write(ann, path, Held({"If-Match": first.headers["etag"]}), BENS)
            checks.equal("saving twice needs no read", (200, 200), (first.status_code, again.status_code))
            late = self.write(ann, path, Held({"If-Match": first.headers["etag"]}), OLD)
            checks.equal("but not with a tag of then", 409, late.status_code)
            checks.equal("and the last is stored", BENS, self.stored(store, path))
