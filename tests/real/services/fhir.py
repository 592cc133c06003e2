"""A service with FHIR's weak tags, of a version in the body, that compares no write with them (`patients.py`)."""

import itertools
import json
import sys

import httpx

from checks import Checks
from lost_update import OLD, Held, client
from services import Service
from stage import HERE, Stage


class Patients(Service):
    suite = "fhir"
    name = "FHIR-like (Python)"
    shows = "weak `ETag`, a number; the same in `/meta/versionId`"
    guard = ('profile = "fhir"',)
    know = "FHIR asks for 412, which the profile sets."
    content_type = "application/fhir+json"
    numbers = itertools.count(1)

    def start(self, stage: Stage, port: int) -> None:
        stage.start("patients", sys.executable, HERE / "patients.py", port, port=port)

    def create(self, store: httpx.Client, text: str = OLD) -> str:
        path = f"/Patient/{next(self.numbers)}"
        self.write(store, path, Held(), text).raise_for_status()
        return path

    def content(self, path: str, held: Held, text: str) -> bytes:
        return json.dumps({"resourceType": "Patient", "name": [{"text": text}]}).encode()

    def stored(self, store: httpx.Client, path: str) -> str:
        return store.get(path).json()["name"][0]["text"]

    def try_more(self, stage: Stage, checks: Checks, direct: str, through: str) -> None:
        with client(direct) as store, client(through) as ann:
            path = self.create(store)
            held = self.read(ann, path)
            saved = self.write(ann, path, held, "once")
            checks.equal("saving twice with the tag of the answer", 'W/"2"', saved.headers.get("etag"))
            again = self.write(ann, path, Held({"If-Match": saved.headers["etag"]}), "twice")
            checks.equal("needs no read", 200, again.status_code)
            late = self.write(ann, path, held, "late")
            checks.equal("the refusal is 412", 412, late.status_code)
            checks.equal("with the current tag", 'W/"3"', late.headers.get("etag"))
