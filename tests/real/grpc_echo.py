"""A gRPC service without generated code: messages are bytes.

    grpc_echo.py PORT [CERTIFICATE KEY]

Methods of `echo.Echo`: `Unary` (with metadata both ways), `Count` (a server stream: as many messages as asked for;
after the first it waits for a call of `Release`), `Chat` (bidirectional, each message answered as it comes), `Sum` (a
client stream), `Fail` (NOT_FOUND with metadata), `FailLate` (two messages, then RESOURCE_EXHAUSTED), `Hang` and
`Endless` (no answer, and a stream without an end, until they are given up), and `GivenUp` (how many were).
"""

import sys
import threading
import time
from concurrent import futures

import grpc

released = threading.Event()
given_up = 0


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    said = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-first", "initial"), ("x-heard", said.get("x-said", "nothing"))))
    context.set_trailing_metadata((("x-last", "trailing"), ("x-binary-bin", b"\x00\xff")))
    return b"you said " + request


def count(request: bytes, context: grpc.ServicerContext):
    for number in range(int(request)):
        if number == 1:
            released.wait(15)
        yield b"%d" % number
    context.set_trailing_metadata((("x-counted", request.decode()),))


def release(request: bytes, context: grpc.ServicerContext) -> bytes:
    released.set()
    return b""


def chat(requests, context: grpc.ServicerContext):
    for request in requests:
        yield b"re: " + request


def add(requests, context: grpc.ServicerContext) -> bytes:
    return b"%d" % sum(len(request) for request in requests)


def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: ü%")
    raise AssertionError("abort raises")


def fail_late(request: bytes, context: grpc.ServicerContext):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")


def hang(request: bytes, context: grpc.ServicerContext) -> bytes:
    global given_up
    ended = threading.Event()
    context.add_callback(ended.set)
    if ended.wait(20):
        given_up += 1
    return b""


def endless(request: bytes, context: grpc.ServicerContext):
    """grpcio does not go on with a generator whose call has ended, so the end is heard of by a callback."""
    context.add_callback(hear_of_the_end)
    deadline = time.monotonic() + 20
    while context.is_active() and time.monotonic() < deadline:
        yield b"more"
        time.sleep(0.05)


def hear_of_the_end() -> None:
    global given_up
    given_up += 1


def how_many(request: bytes, context: grpc.ServicerContext) -> bytes:
    deadline = time.monotonic() + 5
    while given_up < int(request) and time.monotonic() < deadline:
        time.sleep(0.01)
    return b"%d" % given_up


def main() -> None:
    port, *secured = sys.argv[1:]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=120), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "echo.Echo",
                {
                    "Unary": grpc.unary_unary_rpc_method_handler(unary),
                    "Count": grpc.unary_stream_rpc_method_handler(count),
                    "Release": grpc.unary_unary_rpc_method_handler(release),
                    "Chat": grpc.stream_stream_rpc_method_handler(chat),
                    "Sum": grpc.stream_unary_rpc_method_handler(add),
                    "Fail": grpc.unary_unary_rpc_method_handler(fail),
                    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
                    "Hang": grpc.unary_unary_rpc_method_handler(hang),
                    "Endless": grpc.unary_stream_rpc_method_handler(endless),
                    "GivenUp": grpc.unary_unary_rpc_method_handler(how_many),
                },
            ),
        )
    )
    if secured:
        cert, key = (open(path, "rb").read() for path in secured)
        server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, cert)]))
    else:
        server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
