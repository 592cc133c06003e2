"""Python: httpx by HTTP/1.1 and h2, and websockets by HTTP/1.1 and over h2, in clear text and over TLS."""

import asyncio
import socket
import ssl
import sys
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import httpx
import websockets
import websockets.protocol
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from asking import Answer, Ask, try_verdicts
from checks import Checks
from stage import HERE, Backend, Stage, free_ports

WRITERS = 20


def run_suite(stage: Stage, checks: Checks) -> None:
    backend = stage.backend()
    echo, clear, tls = free_ports(3)
    stage.start("echo", sys.executable, HERE / "ws_echo.py", echo, port=echo)
    authority = stage.authority("authority")
    cert, key = authority.certificate("gateway", "localhost")
    stage.gateway(
        "gateway",
        f"""
        [[listeners]]
        address = "127.0.0.1:{clear}"
        [[listeners]]
        address = "127.0.0.1:{tls}"
        tls = {{ cert = "{cert}", key = "{key}" }}
        [upstreams.backend]
        servers = ["{backend.url}"]
        [upstreams.echo]
        servers = ["http://127.0.0.1:{echo}"]
        [[routes]]
        path = "/ws/{{*path}}"
        upstream = "echo"
        [[routes]]
        upstream = "backend"
        """,
        clear,
    )
    trust = ssl.create_default_context(cafile=str(authority.cert))
    for scheme, port in (("http", clear), ("https", tls)):
        for http2 in (False, True):
            options = {"http1": not http2, "http2": http2, "verify": trust, "timeout": 15, "trust_env": False}
            name = f"httpx by {'h2' if http2 else 'HTTP/1.1'} over {scheme}"
            checks.attempt(name, try_httpx, checks, name, f"{scheme}://localhost:{port}", options, backend)
    trust = ssl.create_default_context(cafile=str(authority.cert))  # httpx has set ALPN in the other
    for scheme, port, secured in (("ws", clear, {}), ("wss", tls, {"ssl": trust})):
        checks.attempt(
            f"{scheme}://", try_websocket, checks, f"{scheme}://", f"{scheme}://localhost:{port}/ws", secured
        )
    checks.attempt("WebSocket over h2", try_websocket_over_h2, checks, "WebSocket over h2", clear, None)
    checks.attempt(
        "WebSocket over h2 and TLS", try_websocket_over_h2, checks, "WebSocket over h2 and TLS", tls, authority.cert
    )


def try_httpx(checks: Checks, name: str, origin: str, options: dict, backend: Backend) -> None:
    path = f"/docs/{name.replace(' ', '/')}"
    with httpx.Client(base_url=origin, **options) as client:
        spoken = client.get("/inspect").http_version
        checks.equal(f"{name}: spoken", "HTTP/2" if options["http2"] else "HTTP/1.1", spoken)
        try_verdicts(checks, name, asking_with_httpx(client), backend, path)
        try_bodies(checks, name, client, backend, f"{path}/large")
    asyncio.run(race(checks, name, origin, options, backend, f"{path}/race"))


def asking_with_httpx(client: httpx.Client) -> Ask:
    def ask(method: str, path: str, fields: dict[str, str], body: bytes) -> Answer:
        answer = client.request(method, path, headers=fields, content=body or None)
        return Answer(answer.status_code, dict(answer.headers), answer.content)

    return ask


def try_bodies(checks: Checks, name: str, client: httpx.Client, backend: Backend, path: str) -> None:
    def parts(count: int):
        for _ in range(count):
            yield b"x" * 100_000

    tag = backend.put(path, "small")
    first = client.put(path, headers={"If-Match": tag}, content=parts(9))
    checks.equal(f"{name}: a body of 900 kB of unknown length, with the current tag", 200, first.status_code)
    checks.equal(f"{name}: and all of it is stored", 900_000, len(backend.text(path)))
    refused = 0
    for _ in range(5):
        refused += client.put(path, headers={"If-Match": tag}, content=parts(9)).status_code == 409
    checks.equal(f"{name}: with the old tag, 5 times: each is answered", 5, refused)
    inspected = client.post("/inspect", content=parts(200)).json()
    checks.equal(f"{name}: 20 MB arrive", 20_000_000, inspected["length"])
    for path in ("/large?20000000", "/chunks?20000000"):
        checks.equal(f"{name}: {path} is received", 20_000_000, len(client.get(path).content))


async def race(checks: Checks, name: str, origin: str, options: dict, backend: Backend, path: str) -> None:
    tag = backend.put(path, "before")
    async with httpx.AsyncClient(base_url=origin, **options) as client:
        writes = [client.put(path, headers={"If-Match": tag}, content=f"writer {n}") for n in range(WRITERS)]
        answers = await asyncio.gather(*writes)
    statuses = sorted(answer.status_code for answer in answers)
    checks.equal(f"{name}: {WRITERS} writers with one tag", [200] + [409] * (WRITERS - 1), statuses)
    winner = next((n for n, answer in enumerate(answers) if answer.status_code == 200), None)
    checks.equal(f"{name}: what is stored is the winner's", f"writer {winner}", backend.text(path))


# ---------------------------------------------------------------------------------------------- WebSocket


def try_websocket(checks: Checks, name: str, url: str, options: dict) -> None:
    options = {**options, "open_timeout": 10, "close_timeout": 10, "proxy": None}
    with connect(f"{url}/echo", subprotocols=["other", "echo.v1"], max_size=2**26, **options) as connection:
        checks.equal(f"{name}: the subprotocol is agreed on", "echo.v1", connection.subprotocol)
        checks.equal(
            f"{name}: so is compression",
            ["permessage-deflate"],
            [extension.name for extension in connection.protocol.extensions],
        )
        for message in ("text", b"\x00\xff", "", "x" * 1_000_000):
            connection.send(message)
            checks.holds(
                f"{name}: {len(message)} of {type(message).__name__} come back",
                connection.recv(timeout=15) == message,
                "the same",
                "something else",
            )
        large = bytes(range(256)) * 40_000
        fragments = [large[start : start + 64_000] for start in range(0, len(large), 64_000)]
        connection.send(iter(fragments))
        checks.holds(
            f"{name}: {len(fragments)} fragments of 10 MB come back",
            connection.recv(timeout=20) == large,
            "the same",
            "something else",
        )
        checks.holds(f"{name}: a ping is answered", connection.ping().wait(10), "a pong", "none")
        connection.close(1000, "done")
        checks.equal(
            f"{name}: closed by the client, both sides agree",
            (1000, "done", 1000),
            (
                connection.protocol.close_code,
                connection.protocol.close_reason,
                connection.protocol.close_rcvd.code if connection.protocol.close_rcvd else None,
            ),
        )

    with connect(f"{url}/greeting", compression=None, **options) as connection:
        checks.equal(f"{name}: what the server says first arrives", "hello", connection.recv(timeout=10))
        connection.send("close 4001 as asked")
        try:
            seen = connection.recv(timeout=10)
        except websockets.ConnectionClosed as closed:
            seen = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else "no close frame"
        checks.equal(f"{name}: closed by the server, with its code and reason", (4001, "as asked"), seen)

    try:
        connect(f"{url}/forbidden", **options).close()
        seen = "connected"
    except websockets.InvalidStatus as refused:
        seen = (refused.response.status_code, refused.response.body)
    checks.equal(f"{name}: a handshake that the backend refuses", (403, b"not you\n"), seen)
    try_many(checks, name, url, options)


def try_many(checks: Checks, name: str, url: str, options: dict) -> None:
    """Fifty at once, each of which both sends and receives all the time. In one thread: with a thread each, Python's own
    TLS loses a handshake now and then, whatever it talks to."""

    async def talk(number: int) -> bool:
        messages = [f"{number} {turn}" for turn in range(20)]
        async with asyncio.timeout(20), connect_async(f"{url}/echo", **options) as connection:
            for message in messages:
                await connection.send(message)
            return [await connection.recv() for _ in messages] == messages

    async def talk_all() -> int:
        talks = await asyncio.gather(*(talk(number) for number in range(50)), return_exceptions=True)
        return sum(right is True for right in talks)

    checks.equal(f"{name}: 50 at once, 20 messages each", 50, asyncio.run(talk_all()))


def try_websocket_over_h2(checks: Checks, name: str, port: int, authority: Path | None) -> None:
    """RFC 8441. No client for Python speaks it, so here are h2's frames, and in them those of websockets."""
    with WebSocketOverH2(port, authority) as connection:
        checks.equal(f"{name}: extended CONNECT is allowed", 1, connection.http.remote_settings.enable_connect_protocol)
        answer = connection.open("/ws/forbidden")
        checks.equal(f"{name}: a handshake that the backend refuses", "403", answer[":status"])
    with WebSocketOverH2(port, authority) as connection:
        answer = connection.open("/ws/echo")
        checks.equal(
            f"{name}: the handshake",
            ("200", "echo.v1", False),
            (answer[":status"], answer.get("sec-websocket-protocol"), "sec-websocket-accept" in answer),
        )
        for message in (b"text", b"x" * 1_000_000):
            connection.messages.send_binary(message)
            checks.holds(
                f"{name}: {len(message)} bytes come back", connection.receive() == message, "the same", "another"
            )
        connection.messages.send_close(1000, "done")
        while not connection.is_ended:
            connection.wait()
        checks.equal(
            f"{name}: closed by the client, both sides agree, and the stream ends",
            (1000, "done"),
            (connection.messages.close_rcvd.code, connection.messages.close_rcvd.reason),
        )


class WebSocketOverH2:
    """One connection with one stream."""

    def __init__(self, port: int, authority: Path | None) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.messages = websockets.protocol.Protocol(
            websockets.protocol.Side.CLIENT, state=websockets.protocol.State.OPEN, max_size=2**26
        )
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.scheme = "http"
        if authority:
            trust = ssl.create_default_context(cafile=str(authority))
            trust.set_alpn_protocols(["h2"])
            self.socket = trust.wrap_socket(self.socket, server_hostname="localhost")
            self.scheme = "https"
        self.answer: dict[str, str] = {}
        self.is_ended = False
        self.to_send = b""
        self.http.initiate_connection()

    def __enter__(self) -> "WebSocketOverH2":
        while not any(isinstance(event, h2.events.RemoteSettingsChanged) for event in self.wait()):
            pass
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def open(self, path: str) -> dict[str, str]:
        self.http.send_headers(
            1,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", self.scheme),
                (":authority", "localhost"),
                (":path", path),
                ("sec-websocket-version", "13"),
                ("sec-websocket-protocol", "echo.v1"),
            ],
        )
        while not self.answer:
            self.wait()
        return self.answer

    def receive(self) -> bytes:
        """All of the next message."""
        parts = []
        while True:
            for frame in self.messages.events_received():
                parts.append(bytes(frame.data))
                if frame.fin:
                    return b"".join(parts)
            self.wait()

    def wait(self) -> list:
        """Sends what there is, as far as it may, and waits for what comes."""
        self.to_send += b"".join(self.messages.data_to_send())
        while self.to_send and (room := min(self.http.local_flow_control_window(1), self.http.max_outbound_frame_size)):
            self.http.send_data(1, self.to_send[:room])
            self.to_send = self.to_send[room:]
        self.socket.sendall(self.http.data_to_send())
        received = self.socket.recv(65536)
        if not received:
            raise EOFError("the connection was closed")
        events = self.http.receive_data(received)
        for event in events:
            if isinstance(event, h2.events.ResponseReceived):
                self.answer = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.messages.receive_data(event.data)
                self.http.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.is_ended = True
        self.socket.sendall(self.http.data_to_send())
        return events
