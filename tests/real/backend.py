"""A service that overwrites blindly: any path is a document with a strong ETag, preconditions are not looked at.

    backend.py PORT NAME

`X-Pause: SECONDS` in a request delays its effect and its answer. Further paths:

    /seen?METHOD+PATH  how many such requests came
    /inspect           what came, as JSON: fields, trailers, the body's length and SHA-256
    /trailers          an answer with trailers
    /events            server-sent events: the second comes only after somebody asked for /release
    /hints             103 Early Hints before the answer
    /empty, /same      204; 304 whatever was asked
    /large?BYTES       that many bytes, with their length; /chunks?BYTES in chunks
    /status?CODE       that status
"""

import asyncio
import collections
import hashlib
import json
import sys

import h11

NAME = sys.argv[2].encode()
CHUNK = bytes(range(256)) * 256

documents: dict[str, tuple[int, bytes]] = {}
versions = 0
seen: collections.Counter[str] = collections.Counter()
released = asyncio.Event()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await Connection(reader, writer).serve()
    except (ConnectionError, h11.RemoteProtocolError):
        pass
    finally:
        writer.close()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        while isinstance(request := await self.next_event(), h11.Request):
            method, target = request.method.decode(), request.target.decode()
            if method != "GET" or not target.startswith("/seen"):
                seen[f"{method} {target}"] += 1
            body, length, digest, trailers = await self.body()
            pause = dict(request.headers).get(b"x-pause")
            if pause:
                await asyncio.sleep(float(pause))
            path, _, query = target.partition("?")
            special = SPECIAL.get(path)
            if special:
                await special(self, request, query, length, digest, trailers)
            else:
                await self.document(method, target, body)
            if self.http.our_state is h11.MUST_CLOSE or self.http.their_state is h11.MUST_CLOSE:
                return
            self.http.start_next_cycle()

    async def next_event(self):
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            self.http.receive_data(await self.reader.read(65536))
        return event

    async def body(self) -> tuple[bytes, int, str, list]:
        """What of it a document keeps, its length and digest, and the trailers."""
        kept, length, digest = [], 0, hashlib.sha256()
        while isinstance(event := await self.next_event(), h11.Data):
            if length < 1_000_000:
                kept.append(bytes(event.data))
            length += len(event.data)
            digest.update(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionError("the body broke off")
        return b"".join(kept), length, digest.hexdigest(), list(event.headers)

    async def send(self, *events) -> None:
        """In one piece: an answer that is killed in its midst can't be had from another server."""
        self.writer.write(b"".join(self.http.send(event) or b"" for event in events))
        await self.writer.drain()

    async def answer(self, status: int, body: bytes = b"", fields: list | None = None, head: bool = False) -> None:
        fields = [(b"X-Served-By", NAME), *(fields or [])]
        if status not in (204, 304):
            fields.append((b"Content-Length", str(len(body)).encode()))
        data = [] if head or not body else [h11.Data(data=body)]
        await self.send(h11.Response(status_code=status, headers=fields), *data, h11.EndOfMessage())

    async def document(self, method: str, path: str, body: bytes) -> None:
        global versions
        known = documents.get(path)
        if method in ("GET", "HEAD"):
            if known is None:
                await self.answer(404, b"not found", head=method == "HEAD")
            else:
                await self.answer(200, known[1], tagged(known[0]), head=method == "HEAD")
        elif method in ("PUT", "PATCH"):
            versions += 1
            documents[path] = (versions, body)
            await self.answer(200 if known else 201, b"stored", tagged(versions))
        elif method == "DELETE":
            documents.pop(path, None)
            await self.answer(204)
        else:
            await self.answer(200, b"done")

    # ------------------------------------------------------------------------------------------ other paths

    async def count(self, request, query, *_) -> None:
        await self.answer(200, str(seen[query.replace("+", " ", 1)]).encode())

    async def inspect(self, request, query, length, digest, trailers) -> None:
        def pairs(fields):
            return [[name.decode(), value.decode("latin-1")] for name, value in fields]

        seen_now = {
            "method": request.method.decode(),
            "version": request.http_version.decode(),
            "fields": pairs(request.headers),
            "length": length,
            "sha256": digest,
            "trailers": pairs(trailers),
        }
        await self.answer(200, json.dumps(seen_now).encode(), [(b"Content-Type", b"application/json")])

    async def trailers(self, request, *_) -> None:
        await self.send(
            h11.Response(status_code=200, headers=[(b"Transfer-Encoding", b"chunked"), (b"Trailer", b"X-Checksum")]),
            h11.Data(data=b"body"),
            h11.EndOfMessage(headers=[(b"X-Checksum", b"abc")]),
        )

    async def events(self, request, *_) -> None:
        released.clear()
        fields = [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache")]
        await self.send(h11.Response(status_code=200, headers=fields), h11.Data(data=b"data: first\n\n"))
        await asyncio.wait_for(released.wait(), 30)
        await self.send(h11.Data(data=b"data: second\n\n"), h11.EndOfMessage())

    async def release(self, *_) -> None:
        released.set()
        await self.answer(204)

    async def hints(self, *_) -> None:
        link = [(b"Link", b"</style.css>; rel=preload; as=style")]
        await self.send(h11.InformationalResponse(status_code=103, headers=link))
        await self.answer(200, b"hinted", link)

    async def empty(self, *_) -> None:
        await self.answer(204)

    async def same(self, *_) -> None:
        await self.answer(304, fields=[(b"ETag", b'"same"')])

    async def status(self, request, query, *_) -> None:
        await self.answer(int(query), b"as asked")

    async def large(self, request, query, *_) -> None:
        await self.stream(int(query), [(b"Content-Length", query.encode())])

    async def chunks(self, request, query, *_) -> None:
        await self.stream(int(query), [])

    async def stream(self, left: int, fields: list) -> None:
        await self.send(h11.Response(status_code=200, headers=fields))
        while left:
            part = CHUNK[:left]
            await self.send(h11.Data(data=part))
            left -= len(part)
        await self.send(h11.EndOfMessage())


SPECIAL = {
    "/seen": Connection.count,
    "/inspect": Connection.inspect,
    "/trailers": Connection.trailers,
    "/events": Connection.events,
    "/release": Connection.release,
    "/hints": Connection.hints,
    "/empty": Connection.empty,
    "/same": Connection.same,
    "/status": Connection.status,
    "/large": Connection.large,
    "/chunks": Connection.chunks,
}


def tagged(version: int) -> list:
    return [(b"ETag", b'"v%d"' % version), (b"Content-Type", b"text/plain")]


if __name__ == "__main__":
    asyncio.run(main())
