"""nghttp and h2load: h2 as its own library speaks it, many streams at once, and one tag in the hands of many."""

import re

from asking import Answer, Ask, parse_fields, try_verdicts
from checks import Checks
from stage import Stage, free_ports, run


def run_suite(stage: Stage, checks: Checks) -> None:
    backend = stage.backend()
    clear, tls, wide, files = free_ports(4)
    authority = stage.authority("authority")
    cert, key = authority.certificate("gateway", "localhost")
    stage.nginx("files", files, f"server {{ listen 127.0.0.1:{files}; }}")
    stage.write("files/page", "x" * 1000)
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
        [upstreams.files]
        servers = ["http://127.0.0.1:{files}"]
        [[routes]]
        path = "/page"
        upstream = "files"
        [[routes]]
        upstream = "backend"
        """,
        clear,
    )
    stage.gateway(
        "wide",
        f"""
        [limits]
        streams_per_connection = 1000
        [[listeners]]
        address = "127.0.0.1:{wide}"
        [upstreams.backend]
        servers = ["{backend.url}"]
        """,
        wide,
    )

    for scheme, port in (("http", clear), ("https", tls)):
        origin = f"{scheme}://localhost:{port}"
        try_verdicts(checks, f"nghttp over {scheme}", asking_with_nghttp(stage, origin), backend, f"/docs/{scheme}")

        for what, options in {
            "1000 requests, 100 streams at once": ("-n1000", "-c1", "-m100"),
            "2000 requests, a thousand streams at once over 10 connections": ("-n2000", "-c10", "-m100"),
            "2000 requests, 100 connections by HTTP/1.1": ("-n2000", "-c100", "--h1"),
        }.items():
            wanted = int(options[0][2:])
            said = h2load(f"{origin}/page", *options)
            checks.equal(f"h2load over {scheme}: {what}", f"{wanted} succeeded, {wanted} 2xx", said)

    said = h2load(f"http://localhost:{wide}/docs/http", "-n1000", "-c1", "-m1000", "-H", "x-pause: 1")
    checks.equal(
        "h2load: a thousand streams of one connection, each waiting for a slow backend",
        "1000 succeeded, 1000 2xx",
        said,
    )

    body = stage.write("sent", "x")
    for scheme, port, options in (
        ("http", clear, ("-c4", "-m50")),
        ("https", tls, ("-c4", "-m50")),
        ("http", clear, ("-c50", "--h1")),
        ("https", tls, ("-c50", "--h1")),
    ):
        tag = backend.put("/docs/guarded", "before")
        run("curl", "--silent", "--cacert", authority.cert, f"{scheme}://localhost:{port}/docs/guarded")
        written = backend.seen("PUT", "/docs/guarded")
        said = h2load(
            f"{scheme}://localhost:{port}/docs/guarded",
            "-n200",
            *options,
            "-d",
            body,
            "-H",
            ":method: PUT",
            "-H",
            f"if-match: {tag}",
        )
        what = f"h2load over {scheme} {' '.join(options)}: 200 writes with one tag"
        checks.equal(what, "1 succeeded, 1 2xx, 199 4xx", said)
        checks.equal(f"{what}: one reached the backend", written + 1, backend.seen("PUT", "/docs/guarded"))


def asking_with_nghttp(stage: Stage, origin: str) -> Ask:
    def ask(method: str, path: str, fields: dict[str, str], body: bytes) -> Answer:
        command = ["nghttp", "--verbose", "--no-verify-peer", "--timeout=15", "-H", f":method: {method}"]
        for name, value in fields.items():
            command += ["-H", f"{name.lower()}: {value}"]
        if body:
            command += ["-d", stage.write("nghttp-body", body)]
        said = run(*command, f"{origin}{path}", check=False).stdout
        lines = re.findall(r"recv \(stream_id=\d+(?:, sensitive)?\) (:?[^:\s]+: .*)", said)
        fields_seen = parse_fields([line for line in lines if not line.startswith(":")])
        status = next((int(line.split()[1]) for line in lines if line.startswith(":status")), 0)
        # The body stands between the lines about frames, which begin with a time.
        content = "".join(
            line
            for line in said.splitlines()
            if line and line[0] not in "[ " and not line.startswith("The negotiated protocol")
        )
        return Answer(status, fields_seen, re.sub(r"\[ *\d+\.\d+\].*", "", content).encode())

    return ask


def h2load(url: str, *options) -> str:
    """What came of the requests: "N succeeded, N 2xx, N 4xx", with what failed where something did."""
    done = run("h2load", *options, url, timeout=30, check=False)
    said = done.stdout + done.stderr
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    statuses = re.search(r"status codes: (\d+ 2xx), (\d+ 3xx), (\d+ 4xx), (\d+ 5xx)", said)
    if not counts or not statuses:
        return said[-300:]
    errors = [f"{counts[group]} {name}" for group, name in ((3, "errored"), (4, "timed out")) if counts[group] != "0"]
    return ", ".join([f"{counts[1]} succeeded", *errors, *(each for each in statuses.groups() if each[0] != "0")])
