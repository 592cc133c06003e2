"""scim2-server: SCIM with weak tags that it compares writes with itself, and the same without tags."""

import itertools
import json
import sys

import httpx

from checks import Checks
from lost_update import OLD, Held, client
from services import Service
from stage import HERE, Stage

NAMES = itertools.count(1)


class WithTags(Service):
    suite = "scim"
    name = "scim2-server 0.8 (SCIM)"
    shows = "weak `ETag`, a number; the same in `/meta/version`"
    guard = ('profile = "scim"', 'missing = "require"')
    compares = True
    loses = 0
    know = (
        "It compares `If-Match` itself, and loses nothing. The gateway refuses earlier, and with `missing` those "
        "who send none."
    )
    content_type = "application/scim+json"

    def start(self, stage: Stage, port: int) -> None:
        server = (sys.executable, HERE / "queueing.py", "scim2_server.testserver.cli", "main")
        stage.start("scim2-server", *server, "--port", port, *self.options(stage), port=port)

    def options(self, stage: Stage) -> tuple:
        return ()

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        schema = "urn:ietf:params:scim:schemas:core:2.0:User"
        user = {"schemas": [schema], "userName": f"user{next(NAMES)}", "displayName": text}
        made = store.post("/v2/Users", json=user, headers={"Content-Type": self.content_type}).raise_for_status()
        return f"/v2/Users/{made.json()['id']}"

    def content(self, path: str, held: Held, text: str) -> bytes:
        return json.dumps({**held.document, "displayName": text}).encode()

    def stored(self, store: httpx.Client, path: str) -> str:
        return store.get(path).json()["displayName"]

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        with client(direct) as store, client(through) as ann:
            path = self.create(store)
            held = self.read(ann, path)
            held.fields.clear()
            alone = self.write(store, path, held, "without a tag")
            checks.equal("the service alone takes a write without a tag", 200, alone.status_code)
            refused = self.write(ann, path, held, "without a tag")
            checks.equal("the gateway does not", 428, refused.status_code)


class WithoutTags(WithTags):
    suite = "scim-without-tags"
    name = "scim2-server 0.8, `etag` not supported"
    shows = "no `ETag`; `/meta/lastModified`, in microseconds"
    guard = ('profile = "scim"', 'version = { json = "/meta/lastModified" }')
    compares = False
    loses = 19
    know = "It answers every `If-Match` with 412: what the gateway makes is not sent on to it."

    def options(self, stage: Stage) -> tuple:
        yes, no = {"supported": True}, {"supported": False}
        configuration = {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
            "patch": yes,
            "bulk": {**no, "maxOperations": 0, "maxPayloadSize": 0},
            "filter": {**yes, "maxResults": 100},
            "changePassword": no,
            "sort": yes,
            "etag": no,
            "authenticationSchemes": [],
        }
        return "--service-provider-config", stage.write("provider.json", json.dumps(configuration))

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        with client(direct) as store, client(through) as ann:
            path = self.create(store)
            alone = self.write(store, path, Held({"If-Match": 'W/"1"'}, "", store.get(path).json()), "with a tag")
            checks.equal("the service alone refuses every tag", 412, alone.status_code)
            held = self.read(ann, path)
            same = ann.get(path, headers={"If-None-Match": held.fields.get("If-Match", "")})
            checks.equal("a read of what is known is answered without it", 304, same.status_code)
