"""What passes through: trailers, interim answers, events, answers without a body, upgrades, bodies of any length."""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import time

import httpx

from asking import curl
from checks import Checks
from stage import HERE, Backend, Stage, free_ports, memory, run

LARGE = 200_000_000


def run_suite(stage: Stage, checks: Checks) -> None:
    backend = stage.backend()
    echo, files, port = free_ports(3)
    stage.start("echo", sys.executable, HERE / "ws_echo.py", echo, port=echo)
    stage.nginx(
        "files",
        files,
        f"""
        sendfile on;
        server {{ listen 127.0.0.1:{files}; client_max_body_size 0; location / {{ dav_methods PUT; }} }}""",
    )
    gateway = stage.gateway(
        "gateway",
        f"""
        [[listeners]]
        address = "127.0.0.1:{port}"
        [upstreams.backend]
        servers = ["{backend.url}"]
        [upstreams.echo]
        servers = ["http://127.0.0.1:{echo}"]
        [upstreams.files]
        servers = ["http://127.0.0.1:{files}"]
        [[routes]]
        path = "/ws/{{*path}}"
        upstream = "echo"
        [[routes]]
        path = "/files/{{*path}}"
        upstream = "files"
        [[routes]]
        upstream = "backend"
        """,
        port,
    )
    origin = f"http://127.0.0.1:{port}"
    for way, options in (("HTTP/1.1", ("--http1.1",)), ("h2", ("--http2-prior-knowledge",))):
        answer = curl(f"{origin}/trailers", *options, fields={"TE": "trailers"})
        checks.equal(f"{way}: an answer's trailers", (b"body", {"x-checksum": "abc"}), (answer.body, answer.trailers))
        answer = curl(f"{origin}/hints", *options)
        checks.equal(f"{way}: the answer after 103 Early Hints", (200, b"hinted"), (answer.status, answer.body))
        hints = [(status, fields.get("link")) for status, fields in answer.interim]
        checks.equal(f"{way}: 103 Early Hints", [(103, "</style.css>; rel=preload; as=style")], hints)
        try_without_body(checks, way, origin, options)
        try_events(checks, way, origin, backend, options)
    try_request_trailers(stage, checks, origin)
    for http2 in (False, True):
        try_events_with_httpx(checks, origin, backend, http2)
    try_upgrade(checks, origin)
    try_large_bodies(stage, checks, origin, gateway)


def try_without_body(checks: Checks, way: str, origin: str, options: tuple) -> None:
    before = time.monotonic()
    head = curl(f"{origin}/large?5000", *options, method="HEAD")
    seen = [(head.status, head.fields.get("content-length"), len(head.body))]
    for path in ("/empty", "/same"):
        answer = curl(f"{origin}{path}", *options, fields={"If-None-Match": '"same"'})
        seen.append((answer.status, answer.fields.get("content-length"), len(answer.body)))
    checks.equal(f"{way}: HEAD, 204 and 304 have no body", [(200, "5000", 0), (204, None, 0), (304, None, 0)], seen)
    checks.below(f"{way}: and nobody waits for one, in seconds", 5, time.monotonic() - before)


def try_events(checks: Checks, way: str, origin: str, backend: Backend, options: tuple) -> None:
    """The backend sends the second event only once the first was seen."""
    reader = subprocess.Popen(
        ["curl", "--silent", "--no-buffer", "--max-time", "15", *options, f"{origin}/events"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        bufsize=0,
    )
    first = reader.stdout.readline()
    backend.release()
    rest = reader.communicate(timeout=20)[0]
    checks.equal(
        f"{way}: each event comes when it is sent",
        (b"data: first\n", b"\ndata: second\n\n", 0),
        (first, rest, reader.returncode),
    )


def try_events_with_httpx(checks: Checks, origin: str, backend: Backend, http2: bool) -> None:
    with httpx.Client(http1=not http2, http2=http2, timeout=10, trust_env=False) as client:
        with client.stream("GET", f"{origin}/events") as answer:
            lines = answer.iter_lines()
            first = next(lines)
            backend.release()
            checks.equal(
                f"httpx by {answer.http_version}: each event comes when it is sent",
                ("text/event-stream", "data: first", ["", "data: second", ""]),
                (answer.headers["content-type"], first, list(lines)),
            )


def try_request_trailers(stage: Stage, checks: Checks, origin: str) -> None:
    """Of all clients here only Node sends trailers by HTTP/1.1; nghttp does by h2."""
    program = """
        const http = require("node:http");
        const request = http.request(process.argv[1], { method: "POST", headers: {
            "Transfer-Encoding": "chunked", "Trailer": "X-Checksum", "Connection": "close" } }, (answer) => {
                answer.pipe(process.stdout);
            });
        request.write("body");
        request.addTrailers({ "X-Checksum": "abc" });
        request.end();"""
    seen = json.loads(run("node", "-e", program, f"{origin}/inspect").stdout)
    checks.equal("HTTP/1.1: a request's trailers", (4, [["x-checksum", "abc"]]), (seen["length"], seen["trailers"]))
    said = run(
        "nghttp",
        "--trailer",
        "x-checksum: abc",
        "-H",
        "trailer: x-checksum",
        "-d",
        stage.write("sent", "body"),
        f"{origin}/inspect",
    ).stdout
    seen = json.loads(said)
    checks.equal("h2: a request's trailers", (4, [["x-checksum", "abc"]]), (seen["length"], seen["trailers"]))


def try_upgrade(checks: Checks, origin: str) -> None:
    """This curl may not speak WebSocket; its handshake is only fields. Nothing ends the tunnel but curl's own limit."""
    key = base64.b64encode(os.urandom(16)).decode()
    fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"}
    accepted = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
    answer = curl(f"{origin}/ws/greeting", "--http1.1", "--no-buffer", fields=fields, timeout=1.5)
    checks.equal(
        "curl: a WebSocket handshake",
        (101, "websocket", "upgrade", accepted),
        (
            answer.status,
            answer.fields.get("upgrade"),
            answer.fields.get("connection", "").lower(),
            answer.fields.get("sec-websocket-accept"),
        ),
    )
    checks.equal("curl: and what the server sends first", b"\x81\x05hello", answer.body)
    answer = curl(f"{origin}/docs/none", "--http1.1", fields={"Connection": "Upgrade", "Upgrade": "websocket"})
    checks.equal("curl: an upgrade that the backend does not take is an ordinary request", 404, answer.status)
    host, _, port = origin.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n")
        checks.like("CONNECT is refused", r"HTTP/1\.1 (4..|501).*", connection.recv(1000).decode())


def try_large_bodies(stage: Stage, checks: Checks, origin: str, gateway: subprocess.Popen) -> None:
    (stage.folder / "files/files").mkdir()
    (stage.folder / "files/files").chmod(0o777)
    large = stage.folder / "large"
    with open(large, "wb") as file:
        file.truncate(LARGE)
    for way, options in (("HTTP/1.1", ("--http1.1",)), ("h2", ("--http2-prior-knowledge",))):
        before = memory(gateway)
        with open(large, "rb") as sent:
            upload = run(
                "curl",
                "--silent",
                "--max-time",
                "25",
                *options,
                "--request",
                "PUT",
                "--header",
                "Expect:",
                "--upload-file",
                "-",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                f"{origin}/files/{way[-1]}",
                timeout=30,
                check=False,
                stdin=sent,
            )
        stored = stage.folder / "files/files" / way[-1]
        checks.equal(
            f"{way}: {LARGE // 1_000_000} MB of unknown length are sent and stored",
            ("201", LARGE),
            (upload.stdout, stored.stat().st_size if stored.exists() else 0),
        )
        (stage.folder / "files/files/given").unlink(missing_ok=True)
        os.link(large, stage.folder / "files/files/given")
        download = run(
            "curl",
            "--silent",
            "--max-time",
            "25",
            *options,
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} %{size_download}",
            f"{origin}/files/given",
            timeout=30,
            check=False,
        )
        checks.equal(f"{way}: and received", f"200 {LARGE}", download.stdout)
        checks.below(f"{way}: the gateway's memory for it, in MB", 40, memory(gateway) - before)
