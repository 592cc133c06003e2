"""A WebSocket server that sends back what it gets.

    ws_echo.py PORT

It speaks the subprotocol `echo.v1` with who offers it. The text `close CODE REASON` makes it close so. The path
`/forbidden` is refused with 403, and `/greeting` says hello before anything was asked.
"""

import asyncio
import http
import sys

from websockets.asyncio.server import serve


async def echo(connection) -> None:
    if connection.request.path.endswith("/greeting"):
        await connection.send("hello")
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await connection.close(int(code), reason)
        else:
            await connection.send(message)


def refuse(connection, request):
    if request.path.endswith("/forbidden"):
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not you\n")
    return None


def choose(_, offered):
    return "echo.v1" if "echo.v1" in offered else None


async def main() -> None:
    async with serve(
        echo, "127.0.0.1", int(sys.argv[1]), max_size=2**26, select_subprotocol=choose, process_request=refuse
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
