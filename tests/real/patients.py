"""Patients as a FHIR service shows them: a weak tag of `meta.versionId`, which no write is compared with.

    patients.py PORT

GET /Patient/ID    the resource, with ETag W/"versionId"
PUT /Patient/ID    stores it as the next version; 201 for the first, else 200, with its tag
"""

import http.server
import json
import sys
import threading
import time

LOCK = threading.Lock()
PATIENTS: dict[str, dict] = {}


class Patients(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body of an answer go out together.
    wbufsize = -1

    def do_GET(self) -> None:
        patient = PATIENTS.get(self.path)
        if patient is None:
            return self.answer(404, {"resourceType": "OperationOutcome"})
        self.answer(200, patient)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        patient = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with LOCK:
            version = int(PATIENTS.get(self.path, {"meta": {"versionId": "0"}})["meta"]["versionId"]) + 1
            patient["meta"] = {"versionId": str(version), "lastUpdated": time.strftime("%Y-%m-%dT%H:%M:%SZ")}
            PATIENTS[self.path] = patient
        self.answer(201 if version == 1 else 200, patient)

    def answer(self, status: int, resource: dict) -> None:
        content = json.dumps(resource).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(content)))
        if "meta" in resource:
            self.send_header("ETag", f'W/"{resource["meta"]["versionId"]}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Patients).serve_forever()
