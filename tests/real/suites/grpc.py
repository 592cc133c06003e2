"""gRPC end to end: grpcio on both sides of the gateway, in clear text (h2c), over TLS, and over TLS on both sides."""

import queue
import sys

import grpc

from checks import Checks
from stage import HERE, Stage, free_ports

SECONDS = 15


def run_suite(stage: Stage, checks: Checks) -> None:
    service, secured_service, clear, tls, both = free_ports(5)
    authority = stage.authority("authority")
    cert, key = authority.certificate("gateway", "localhost")
    service_cert, service_key = authority.certificate("service", "127.0.0.1")
    stage.start("service", sys.executable, HERE / "grpc_echo.py", service, port=service)
    stage.start(
        "secured",
        sys.executable,
        HERE / "grpc_echo.py",
        secured_service,
        service_cert,
        service_key,
        port=secured_service,
    )
    stage.gateway(
        "gateway",
        f"""
        [[listeners]]
        address = "127.0.0.1:{clear}"
        [[listeners]]
        address = "127.0.0.1:{tls}"
        tls = {{ cert = "{cert}", key = "{key}" }}
        [upstreams.service]
        servers = ["http://127.0.0.1:{service}"]
        protocol = "h2"
        """,
        clear,
    )
    stage.gateway(
        "both",
        f"""
        [[listeners]]
        address = "127.0.0.1:{both}"
        tls = {{ cert = "{cert}", key = "{key}" }}
        [upstreams.service]
        servers = ["https://127.0.0.1:{secured_service}"]
        tls = {{ ca = "{authority.cert}" }}
        """,
        both,
    )
    trust = grpc.ssl_channel_credentials(authority.cert.read_bytes())
    alone = "without a gateway"  # what fails here is the check's own fault
    for way, channel in {
        alone: grpc.insecure_channel(f"127.0.0.1:{service}"),
        "h2c": grpc.insecure_channel(f"localhost:{clear}"),
        "TLS": grpc.secure_channel(f"localhost:{tls}", trust),
        "TLS on both sides": grpc.secure_channel(f"localhost:{both}", trust),
    }.items():
        with channel:
            for attempt in (try_unary, try_stream, try_chat, try_errors, try_large, try_given_up, try_many):
                try:
                    attempt(checks, way, channel)
                except grpc.RpcError as error:
                    checks.fail(
                        f"{way}: {attempt.__name__}", f"expected answers, saw {error.code()}: {error.details()}"
                    )


def call(channel: grpc.Channel, kind: str, method: str):
    return getattr(channel, kind)(f"/echo.Echo/{method}")


def try_unary(checks: Checks, way: str, channel: grpc.Channel) -> None:
    answer, about = call(channel, "unary_unary", "Unary").with_call(
        b"hello", metadata=(("x-said", "something"),), timeout=SECONDS
    )
    checks.equal(f"{way}: a unary call", b"you said hello", answer)
    first, last = dict(about.initial_metadata()), dict(about.trailing_metadata())
    checks.equal(
        f"{way}: its metadata, there and back", ("initial", "something"), (first.get("x-first"), first.get("x-heard"))
    )
    checks.equal(
        f"{way}: its trailing metadata", ("trailing", b"\x00\xff"), (last.get("x-last"), last.get("x-binary-bin"))
    )
    checks.equal(f"{way}: its status", grpc.StatusCode.OK, about.code())


def try_stream(checks: Checks, way: str, channel: grpc.Channel) -> None:
    stream = call(channel, "unary_stream", "Count")(b"200", timeout=SECONDS)
    first = next(stream)
    # The service sends the others only after this call: the first was not held back for them.
    call(channel, "unary_unary", "Release")(b"", timeout=SECONDS)
    messages = [first, *stream]
    checks.equal(
        f"{way}: a server stream, whose first message comes at once", [b"%d" % n for n in range(200)], messages
    )
    checks.equal(f"{way}: its trailing metadata", "200", dict(stream.trailing_metadata()).get("x-counted"))


def try_chat(checks: Checks, way: str, channel: grpc.Channel) -> None:
    to_send: queue.Queue = queue.Queue()
    answers = call(channel, "stream_stream", "Chat")(iter(to_send.get, None), timeout=SECONDS)
    heard = []
    for turn in range(20):
        to_send.put(b"%d" % turn)
        heard.append(next(answers))  # each is answered before the next is sent
    to_send.put(None)
    heard += list(answers)
    checks.equal(f"{way}: a bidirectional stream, in turns", [b"re: %d" % turn for turn in range(20)], heard)
    checks.equal(f"{way}: its status", grpc.StatusCode.OK, answers.code())
    total = call(channel, "stream_unary", "Sum")(iter([b"x" * 1000] * 50), timeout=SECONDS)
    checks.equal(f"{way}: a client stream", b"50000", total)


def try_errors(checks: Checks, way: str, channel: grpc.Channel) -> None:
    try:
        seen = call(channel, "unary_unary", "Fail")(b"", timeout=SECONDS)
    except grpc.RpcError as error:
        seen = (error.code(), error.details(), dict(error.trailing_metadata()).get("x-why"))
    checks.equal(
        f"{way}: an error, its message and its metadata",
        (grpc.StatusCode.NOT_FOUND, "no such thing: ü%", "because"),
        seen,
    )
    heard = []
    stream = call(channel, "unary_stream", "FailLate")(b"", timeout=SECONDS)
    try:
        for message in stream:
            heard.append(message)
    except grpc.RpcError as error:
        heard.append((error.code(), error.details()))
    checks.equal(
        f"{way}: an error after two messages", [b"one", b"two", (grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")], heard
    )
    try:
        seen = call(channel, "unary_unary", "Nothing")(b"", timeout=SECONDS)
    except grpc.RpcError as error:
        seen = error.code()
    checks.equal(f"{way}: a method that is not there", grpc.StatusCode.UNIMPLEMENTED, seen)


def try_large(checks: Checks, way: str, channel: grpc.Channel) -> None:
    sent = bytes(range(256)) * 12_000
    answer = call(channel, "unary_unary", "Unary")(sent, timeout=SECONDS)
    checks.holds(f"{way}: a message of 3 MB", answer == b"you said " + sent, "the same", f"{len(answer)} bytes")


def try_given_up(checks: Checks, way: str, channel: grpc.Channel) -> None:
    given_up = call(channel, "unary_unary", "GivenUp")
    before = int(given_up(b"0", timeout=SECONDS))
    try:
        seen = call(channel, "unary_unary", "Hang")(b"", timeout=0.5)
    except grpc.RpcError as error:
        seen = error.code()
    checks.equal(f"{way}: a call with a deadline", grpc.StatusCode.DEADLINE_EXCEEDED, seen)
    after = int(given_up(b"%d" % (before + 1), timeout=SECONDS))
    checks.equal(f"{way}: and the service hears of the deadline", before + 1, after)
    stream = call(channel, "unary_stream", "Endless")(b"", timeout=SECONDS)
    next(stream)
    stream.cancel()
    again = int(given_up(b"%d" % (after + 1), timeout=SECONDS))
    checks.equal(f"{way}: a stream that the client gives up ends at the service", after + 1, again)


def try_many(checks: Checks, way: str, channel: grpc.Channel) -> None:
    calls = [call(channel, "unary_unary", "Unary").future(b"%d" % n, timeout=SECONDS) for n in range(200)]
    right = sum(made.result() == b"you said %d" % n for n, made in enumerate(calls))
    checks.equal(f"{way}: 200 calls at once", 200, right)
