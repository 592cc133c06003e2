"""Chromium: pages of two other origins, of which the service lets one in.

The service is one that the gateway is for: it overwrites blindly, knows nothing of preconditions, and refuses every preflight
that names a field it does not know, as many CORS libraries do.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

from checks import Checks
from stage import HERE, Stage, free_ports, stop

# How long a page may take; a browser that has never run on this machine takes some seconds to begin.
PATIENCE = 40
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # which it demands where it is run by root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--password-store=basic",
]


def run_suite(stage: Stage, checks: Checks) -> None:
    pages_port, service_port, gateway_port = free_ports(3)
    let_in, kept_out = (f"http://{host}:{pages_port}" for host in ("127.0.0.1", "localhost"))
    service = serve(service_port, service_for(let_in))
    seen: queue.Queue = queue.Queue()
    pages = serve(pages_port, pages_for(seen))
    try:
        stage.gateway(
            "gateway",
            f"""
            [[listeners]]
            address = "127.0.0.1:{gateway_port}"
            [upstreams.service]
            servers = ["http://127.0.0.1:{service_port}"]
            [guard]
            max_body = "4KiB"
            [[routes]]
            path = "/unaided/{{*path}}"
            [[routes]]
            guard = {{ cors = "follow", tag_header = "X-Resource-Version" }}
            """,
            gateway_port,
        )
        gateway = f"http://127.0.0.1:{gateway_port}"
        closed = f"{kept_out}/?name=closed&gateway={quote(gateway)}"
        opened = f"{let_in}/?name=open&gateway={quote(gateway)}&next={quote(closed, safe='')}"
        profile = f"--user-data-dir={stage.folder / 'profile'}"
        browser = stage.start("chromium", "chromium", *FLAGS, profile, opened, start_new_session=True)
        try:
            try_page_let_in(checks, page(stage, seen, "open"), service)
            try_page_kept_out(checks, page(stage, seen, "closed"), service)
        finally:
            end(browser)
    finally:
        for server in (service, pages):
            server.shutdown()
            server.server_close()


def try_page_let_in(checks: Checks, saw: dict, service: ThreadingHTTPServer) -> None:
    for name, path, field in (("work", "/docs/plain", "etag"), ("copied", "/docs/copied", "x-resource-version")):
        work = saw[name]
        checks.like(f"{field}: a page reads the tag", '"v[0-9]+"', work["read"].get("fields", {}).get(field))
        checks.equal(f"{field}: and writes with it", 200, work["first"].get("status"))
        conflict = work["conflict"]
        checks.equal(f"{field}: it sees the conflict", 409, conflict.get("status"))
        problem = json.loads(conflict.get("body") or "{}")
        checks.equal(f"{field}: with its type", "urn:ifmatch:stale", problem.get("type"))
        checks.contains(f"{field}: and what to do", "Fetch the latest version", problem.get("error", ""))
        current = work["first"].get("fields", {}).get(field)
        checks.equal(f"{field}: and the current tag", current, conflict.get("fields", {}).get(field))
        checks.contains(f"{field}: and a link", path, conflict.get("fields", {}).get("link") or "")
        checks.equal(f"{field}: it reads anew", '["first"]', work["again"].get("body"))
        checks.equal(f"{field}: and recovers", 200, work["recovered"].get("status"))
        checks.equal(f"{field}: nothing is lost", '["first","second"]', service.documents[path][1])
        checks.equal(f"{field}: what the service hides stays hidden", None, work["read"].get("fields", {}).get("x-secret"))
    checks.equal("a malformed tag is told", 400, saw["malformed"].get("status"))
    checks.equal("so is the refusal of a request without a preflight", 413, saw["simple"].get("status"))
    unaided = saw["unaided"]
    checks.equal("unaided the tag is hidden", (200, None), (unaided["read"]["status"], unaided["read"]["fields"]["etag"]))
    checks.holds("and the write is not let through", "blocked" in unaided["first"], "blocked", unaided["first"])


def try_page_kept_out(checks: Checks, saw: dict, service: ThreadingHTTPServer) -> None:
    answers = {
        f"{name} {step}": answer
        for name in ("work", "copied", "unaided")
        for step, answer in saw[name].items()
    }
    answers |= {"malformed": saw["malformed"], "simple": saw["simple"]}
    readable = {name: answer for name, answer in answers.items() if "blocked" not in answer}
    checks.equal("a page that the service keeps out sees nothing of all this", {}, readable)
    kept = {path: text for path, (_, text) in service.documents.items() if path.startswith("/docs/")}
    whole = '["first","second"]'
    checks.equal("and changes nothing", {"/docs/plain": whole, "/docs/copied": whole}, kept)


def page(stage: Stage, seen: queue.Queue, name: str) -> dict:
    """What the page of this name saw."""
    try:
        told, saw = seen.get(timeout=PATIENCE)
    except queue.Empty:
        raise RuntimeError(f"no word of the page {name!r}: {stage.end_of_log('chromium')}") from None
    if told != name:
        raise RuntimeError(f"word of the page {told!r}, not of {name!r}")
    return saw


def end(browser: subprocess.Popen) -> None:
    """Ends it with all its processes, which are a group: none of them writes to its folder any more."""
    stop(browser, 5)
    deadline = time.monotonic() + 3
    try:
        while time.monotonic() < deadline:
            os.killpg(browser.pid, 0)
            time.sleep(0.02)
        os.killpg(browser.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, body: bytes = b"", fields: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (fields or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def pages_for(seen: queue.Queue) -> type[Quiet]:
    html = (HERE / "pages" / "page.html").read_bytes()

    class Pages(Quiet):
        def do_GET(self) -> None:
            if self.path.startswith("/?"):
                self.answer(200, html, {"Content-Type": "text/html"})
            else:
                self.answer(404)

        def do_POST(self) -> None:
            seen.put((self.path.removeprefix("/seen/"), json.loads(self.content())))
            self.answer(204)

    return Pages


def service_for(let_in: str) -> type[Quiet]:
    class Service(Quiet):
        def cors(self) -> dict[str, str]:
            if self.headers.get("Origin") != let_in:
                return {"Vary": "Origin"}
            return {
                "Access-Control-Allow-Origin": let_in,
                "Access-Control-Allow-Credentials": "true",
                "Vary": "Origin",
            }

        def do_OPTIONS(self) -> None:
            named = self.headers.get("Access-Control-Request-Headers", "")
            unknown = {name.strip().lower() for name in named.split(",")} - {"", "content-type"}
            if unknown or self.headers.get("Origin") != let_in:
                self.answer(403)
                return
            allowed = {"Access-Control-Allow-Methods": "GET, PUT", "Access-Control-Allow-Headers": "Content-Type"}
            self.answer(204, fields=self.cors() | allowed)

        def do_GET(self) -> None:
            version, text = self.server.documents.setdefault(self.path, (0, "[]"))
            fields = {"ETag": f'"v{version}"', "X-Secret": "1", "Content-Type": "application/json"}
            self.answer(200, text.encode(), self.cors() | fields)

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            version, _ = self.server.documents.get(self.path, (0, ""))
            self.server.documents[self.path] = (version + 1, self.content().decode())
            self.answer(200, b"{}", self.cors() | {"ETag": f'"v{version + 1}"'})

        def do_POST(self) -> None:
            self.content()
            self.answer(200, b"{}", self.cors())

    return Service


def serve(port: int, handler: type[Quiet]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.documents = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
