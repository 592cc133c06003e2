"""The services of the table in docs/backends.md: how each is started, protected, read and written."""

import httpx

from checks import Checks
from lost_update import OLD, Held
from stage import Stage


class Service:
    """One service, with what the table says of it. A client of it reads with `read` and writes with `write`."""

    suite = ""
    name = ""
    # What its answers show of a version.
    shows = ""
    # The lines of `[guard]` that protect it.
    guard: tuple[str, ...] = ()
    # Those of its routes, where it needs more than one.
    routes: tuple[str, ...] = ()
    # Whether it compares a write with what is stored by itself.
    compares = False
    # Of twenty writers with one version who go straight to it, how many lose their work. None: some, by chance.
    loses: int | None = 19
    # A sentence for the table.
    know = ""
    content_type = "application/json"
    # Whether what is read is compressed on its way, for those with a compressor in it.
    is_compressed = True
    # Who refuses the second writer where the gateway is asked.
    refused_by = "the gateway"

    def start(self, stage: Stage, port: int) -> None:
        """Starts it, and returns once it answers."""
        raise NotImplementedError

    def behind(self, stage: Stage, store: int) -> int:
        """Starts what stands between the gateway and the service, and gives the port to ask."""
        return store

    def before(self, stage: Stage, gateway: int) -> int:
        """Starts what stands before the gateway, and gives the port to ask."""
        return gateway

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        """Makes a resource, without the gateway, and gives its path."""
        raise NotImplementedError

    def read(self, client: httpx.Client, path: str) -> Held:
        return self.held(client.get(path).raise_for_status())

    def held(self, answer: httpx.Response) -> Held:
        tag = answer.headers.get("etag")
        document = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        return Held({"If-Match": tag} if tag else {}, answer.text, document)

    def write(self, client: httpx.Client, path: str, held: Held, text: str) -> httpx.Response:
        fields = {"Content-Type": self.content_type, **held.fields}
        return client.put(path, headers=fields, content=self.content(path, held, text))

    def content(self, path: str, held: Held, text: str) -> bytes:
        """What is sent to store this text."""
        raise NotImplementedError

    def stored(self, store: httpx.Client, path: str) -> str:
        """The text that is stored."""
        raise NotImplementedError

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        """What is to be seen of this service alone."""


def all_services() -> list[Service]:
    """In the order of the table."""
    from services import dav, fhir, json_server, notes, pouchdb, radicale, scim

    return [
        json_server.JsonServer(),
        dav.Apache(),
        dav.SmallFiles(),
        dav.Nginx(),
        notes.Notes(),
        fhir.Patients(),
        scim.WithoutTags(),
        pouchdb.Security(),
        pouchdb.Documents(),
        radicale.Calendar(),
        scim.WithTags(),
    ]
