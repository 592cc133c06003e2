"""curl by every protocol that it speaks with a proxy: HTTP/1.1, h2 by ALPN, h2c, and with a client certificate."""

from asking import asking_with_curl, check_stale, curl, try_verdicts
from checks import Checks
from stage import Stage, free_ports, run


def run_suite(stage: Stage, checks: Checks) -> None:
    backend = stage.backend()
    authority, other = stage.authority("authority"), stage.authority("other")
    cert, key = authority.certificate("gateway", "localhost")
    clear, tls, mutual = free_ports(3)
    stage.gateway(
        "gateway",
        f"""
        [[listeners]]
        address = "127.0.0.1:{clear}"
        [[listeners]]
        address = "127.0.0.1:{tls}"
        tls = {{ cert = "{cert}", key = "{key}" }}
        [[listeners]]
        address = "127.0.0.1:{mutual}"
        tls = {{ cert = "{cert}", key = "{key}", client_ca = "{authority.cert}" }}
        [upstreams.backend]
        servers = ["{backend.url}"]
        """,
        clear,
    )
    client_cert, client_key = authority.certificate("client")
    trusting = ("--cacert", authority.cert)
    known = (*trusting, "--cert", client_cert, "--key", client_key)
    ways = {
        "HTTP/1.1": (f"http://localhost:{clear}", "1.1", ("--http1.1",)),
        "h2c": (f"http://localhost:{clear}", "2", ("--http2-prior-knowledge",)),
        "an upgrade to h2c that is not taken": (f"http://localhost:{clear}", "1.1", ("--http2",)),
        "HTTP/1.1 over TLS": (f"https://localhost:{tls}", "1.1", ("--http1.1", *trusting)),
        "HTTP/1.1 over TLS 1.2": (f"https://localhost:{tls}", "1.1", ("--http1.1", "--tls-max", "1.2", *trusting)),
        "h2 by ALPN": (f"https://localhost:{tls}", "2", ("--http2", *trusting)),
        "h2 by ALPN over TLS 1.2": (f"https://localhost:{tls}", "2", ("--http2", "--tls-max", "1.2", *trusting)),
        "HTTP/1.1 with a client certificate": (f"https://localhost:{mutual}", "1.1", ("--http1.1", *known)),
        "h2 with a client certificate": (f"https://localhost:{mutual}", "2", ("--http2", *known)),
    }
    for number, (way, (origin, version, options)) in enumerate(ways.items()):
        read = curl(f"{origin}/inspect", *options)
        checks.equal(f"{way}: spoken", (200, version), (read.status, read.version))
        try_verdicts(checks, way, asking_with_curl(origin, *options), backend, f"/docs/{number}")
    try_client_certificates(stage, checks, other, f"https://localhost:{mutual}/inspect", trusting)

    backend.put("/docs/large", "small")
    for way in ("HTTP/1.1", "HTTP/1.1 over TLS", "h2 by ALPN"):
        origin, _, options = ways[way]
        try_large(stage, checks, way, f"{origin}/docs/large", options)
    for way in ("HTTP/1.1", "HTTP/1.1 over TLS", "h2 by ALPN"):  # h2c it can't use twice: it breaks off by itself
        origin, _, options = ways[way]
        try_one_connection(checks, way, origin, options)


def try_client_certificates(stage: Stage, checks: Checks, other, url: str, trusting: tuple) -> None:
    for http in ("--http1.1", "--http2"):
        none = curl(url, http, *trusting)
        checks.holds(
            f"{http}, no client certificate where one is asked for: no answer",
            none.status == 0 and none.exit != 0,
            "status 0",
            (none.status, none.exit),
        )
        cert, key = other.certificate(f"client{http[-1]}")
        wrong = curl(url, http, *trusting, "--cert", cert, "--key", key)
        checks.holds(
            f"{http}, a client certificate of another authority: no answer",
            wrong.status == 0 and wrong.exit != 0,
            "status 0",
            (wrong.status, wrong.exit),
        )


def try_large(stage: Stage, checks: Checks, way: str, url: str, options: tuple) -> None:
    large = stage.write("large", bytes(5_000_000))
    stale = curl(url, *options).fields.get("etag", "")
    written = curl(url, *options, method="PUT", fields={"If-Match": stale}, body=b"newer")
    current = written.fields.get("etag", "")
    refused = curl(url, *options, method="PUT", fields={"If-Match": stale, "Expect": "100-continue"}, body=large)
    check_stale(checks, f"{way}: 5 MB with the old tag and Expect: 100-continue", refused, current)
    if refused.version == "1.1":  # by h2 curl does not wait for 100 Continue
        checks.equal(f"{way}: of which nothing was uploaded", 0, refused.uploaded)
    answered = sum(
        curl(url, *options, "--header", "Expect:", method="PUT", fields={"If-Match": stale}, body=large).status == 409
        for _ in range(5)
    )
    checks.equal(f"{way}: the same without Expect, 5 times: each is answered", 5, answered)
    taken = curl(url, *options, method="PUT", fields={"If-Match": current, "Expect": "100-continue"}, body=large)
    checks.equal(f"{way}: 5 MB with the current tag", (200, 5_000_000), (taken.status, taken.uploaded))


def try_one_connection(checks: Checks, way: str, origin: str, options: tuple) -> None:
    """On one connection nothing of one request is taken for another, a refused body included."""
    each = (
        "--silent",
        "--max-time",
        "10",
        *options,
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} %{num_connects}, ",
    )
    done = run(
        "curl",
        *each,
        f"{origin}/docs/large",
        "--next",
        *each,
        "--request",
        "PUT",
        "--header",
        'If-Match: "none"',
        "--data",
        "GET /smuggled HTTP/1.1\r\n\r\n",
        f"{origin}/docs/large",
        "--next",
        *each,
        f"{origin}/empty",
        "--next",
        *each,
        "--header",
        'If-None-Match: "same"',
        f"{origin}/same",
        "--next",
        *each,
        "--head",
        f"{origin}/docs/large",
        "--next",
        *each,
        f"{origin}/docs/large",
        check=False,
    )
    checks.equal(
        f"{way}: a read, a refused write, 204, 304, HEAD and a read by one connection",
        "200 1, 409 0, 204 0, 304 0, 200 0, 200 0",
        done.stdout.strip(" ,"),
    )
