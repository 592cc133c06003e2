"""Node: fetch, the http2 module, and the package ws."""

import json
import os
import sys

from asking import Answer, Ask, try_verdicts
from checks import Checks
from stage import HERE, Stage, free_ports, run


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

    def node(program: str, *arguments) -> str:
        done = run(
            "node",
            HERE / "node" / program,
            *arguments,
            timeout=40,
            check=False,
            env={**os.environ, "NODE_EXTRA_CA_CERTS": str(authority.cert)},
        )
        return done.stdout.strip() or json.dumps({"error": done.stderr.strip()[-500:]})

    def asking(program: str, origin: str) -> Ask:
        def ask(method: str, path: str, fields: dict[str, str], body: bytes) -> Answer:
            request = {"url": f"{origin}{path}", "method": method, "fields": fields, "body": body.decode()}
            answer = json.loads(node(program, json.dumps(request)))
            if "error" in answer:
                return Answer(0, body=answer["error"].encode())
            return Answer(answer["status"], answer["fields"], answer["body"].encode())

        return ask

    for scheme, port in (("http", clear), ("https", tls)):
        origin = f"{scheme}://localhost:{port}"
        try_verdicts(checks, f"fetch over {scheme}", asking("fetch.mjs", origin), backend, f"/docs/fetch/{scheme}")
        try_verdicts(checks, f"http2 over {scheme}", asking("http2.mjs", origin), backend, f"/docs/http2/{scheme}")
        backend.put("/docs/large", "small")
        checks.equal(
            f"fetch over {scheme}: 5 MB with an old tag, 20 times: each is answered",
            "20",
            node("large.mjs", f"{origin}/docs/large"),
        )

    whole = {"handshake": 101, "protocol": "echo.v1", "text": "text", "large": True, "pong": True, "close": "1000 done"}
    for scheme, port in (("ws", clear), ("wss", tls)):
        checks.equal(f"ws over {scheme}://", whole, json.loads(node("ws.cjs", f"{scheme}://localhost:{port}")))
