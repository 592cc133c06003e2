"""nginx as the backend: its files with WebDAV, and as a server by TLS and h2 that shows and asks for certificates."""

import asyncio

import httpx

from asking import asking_with_curl, check_stale, curl
from checks import Checks
from stage import Stage, free_ports

WRITERS = 20


def run_suite(stage: Stage, checks: Checks) -> None:
    files, gateway = free_ports(2)
    stage.nginx(
        "files",
        files,
        f"""
        server {{
            listen 127.0.0.1:{files};
            client_max_body_size 0;
            location / {{ dav_methods PUT DELETE MOVE COPY; create_full_put_path on; }}
        }}""",
    )
    stage.gateway(
        "gateway",
        f"""
        [[listeners]]
        address = "127.0.0.1:{gateway}"
        [upstreams.files]
        servers = ["http://127.0.0.1:{files}"]
        """,
        gateway,
    )
    checks.attempt("files", try_files, stage, checks, f"http://127.0.0.1:{gateway}")
    checks.attempt("TLS", try_secured, stage, checks)


def try_files(stage: Stage, checks: Checks, origin: str) -> None:
    """nginx makes a file's tag of its time, in seconds, and its size: each body here has a size of its own."""
    ask = asking_with_curl(origin)
    made = ask("PUT", "/a", {"If-None-Match": "*"}, b"made")
    checks.equal("files: PUT with If-None-Match: * makes one", 201, made.status)
    again = ask("PUT", "/a", {"If-None-Match": "*"}, b"made again")
    checks.equal("files: but only once", (409, "urn:ifmatch:exists"), (again.status, again.problem("type")))
    stale = ask("GET", "/a", {}, b"").fields.get("etag", "")
    checks.like("files: its tags are strong", '"[^"]+"', stale)
    first = ask("PUT", "/a", {"If-Match": stale}, b"the first writer's")
    checks.equal("files: a write with the tag it read", 204, first.status)
    current = ask("GET", "/a", {}, b"").fields.get("etag", "")
    before = writes_seen(stage)
    second = ask("PUT", "/a", {"If-Match": stale}, b"the second writer's work")
    check_stale(checks, "files: a second write with the same tag", second, current)
    deleted = ask("DELETE", "/a", {"If-Match": stale}, b"")
    check_stale(checks, "files: a DELETE with the old tag", deleted, current)
    checks.equal("files: neither reached nginx", before, writes_seen(stage))
    checks.equal("files: the first writer's work is kept", "the first writer's", (stage.folder / "files/a").read_text())

    asyncio.run(race(stage, checks, origin, current))
    current = ask("GET", "/a", {}, b"").fields.get("etag", "")
    large = stage.write("large", bytes(5_000_000))
    refused = curl(f"{origin}/a", method="PUT", fields={"If-Match": stale, "Expect": "100-continue"}, body=large)
    checks.equal(
        "files: 5 MB with the old tag and Expect: 100-continue, nothing uploaded",
        (409, 0),
        (refused.status, refused.uploaded),
    )
    taken = curl(f"{origin}/a", method="PUT", fields={"If-Match": current, "Expect": "100-continue"}, body=large)
    checks.equal(
        "files: 5 MB with the current tag", (204, 5_000_000), (taken.status, (stage.folder / "files/a").stat().st_size)
    )
    current = ask("GET", "/a", {}, b"").fields.get("etag", "")
    part = curl(f"{origin}/a", "--range", "10-19")
    checks.equal("files: a range", (206, 10), (part.status, len(part.body)))
    same = ask("GET", "/a", {"If-None-Match": current}, b"")
    checks.equal("files: a read of what is known", (304, b""), (same.status, same.body))
    moved = ask("MOVE", "/a", {"Destination": f"{origin}/b"}, b"")
    checks.equal("files: MOVE", 204, moved.status)
    refused = ask("PUT", "/a", {"If-Match": current}, b"to where it was")
    checks.equal(
        "files: a write to where it was", (409, "urn:ifmatch:stale"), (refused.status, refused.problem("type"))
    )
    tag = ask("GET", "/b", {}, b"").fields.get("etag", "")
    checks.equal("files: a DELETE with the current tag", 204, ask("DELETE", "/b", {"If-Match": tag}, b"").status)
    gone = ask("PUT", "/b", {"If-Match": tag}, b"from the dead")
    checks.equal("files: a write to what is gone", (409, False), (gone.status, (stage.folder / "files/b").exists()))


async def race(stage: Stage, checks: Checks, origin: str, tag: str) -> None:
    before = writes_seen(stage)
    async with httpx.AsyncClient(base_url=origin, timeout=15, trust_env=False) as client:
        bodies = [f"writer {n} " + "x" * n for n in range(WRITERS)]
        answers = await asyncio.gather(*(client.put("/a", headers={"If-Match": tag}, content=body) for body in bodies))
    statuses = sorted(answer.status_code for answer in answers)
    checks.equal(f"files: {WRITERS} writers with one tag", [204] + [409] * (WRITERS - 1), statuses)
    checks.equal("files: nginx saw one of them", before + 1, writes_seen(stage))
    winners = [body for body, answer in zip(bodies, answers) if answer.status_code == 204]
    checks.equal("files: what is stored is the winner's", winners, [(stage.folder / "files/a").read_text()])


def writes_seen(stage: Stage) -> int:
    return sum(line.startswith(("PUT", "DELETE", "MOVE")) for line in stage.nginx_access_log("files"))


# ---------------------------------------------------------------------------------------------- TLS and h2


def try_secured(stage: Stage, checks: Checks) -> None:
    authority, other = stage.authority("authority"), stage.authority("other")
    cert, key = authority.certificate("server", "backend.internal", "127.0.0.1")
    client_cert, client_key = authority.certificate("client")
    h1, both, h2c, mutual = free_ports(4)
    tls = f"ssl_certificate {cert}; ssl_certificate_key {key};"
    dav = "client_max_body_size 0; location / { dav_methods PUT DELETE; }"
    stage.nginx(
        "secured",
        h1,
        f"""
        server {{ listen 127.0.0.1:{h1} ssl; {tls} {dav} }}
        server {{ listen 127.0.0.1:{both} ssl http2; {tls} {dav} }}
        server {{ listen 127.0.0.1:{h2c} http2; {dav} }}
        server {{
            listen 127.0.0.1:{mutual} ssl; {tls} {dav}
            ssl_client_certificate {authority.cert}; ssl_verify_client on;
        }}
        """,
    )
    right = f'ca = "{authority.cert}"'
    cases = [
        ("https", f"https://127.0.0.1:{h1}", "auto", right, "HTTP/1.1"),
        ("https that speaks h2, auto", f"https://127.0.0.1:{both}", "auto", right, "HTTP/2.0"),
        ("https that speaks h2, h2", f"https://127.0.0.1:{both}", "h2", right, "HTTP/2.0"),
        ("https that speaks h2, http1", f"https://127.0.0.1:{both}", "http1", right, "HTTP/1.1"),
        ("h2 with prior knowledge", f"http://127.0.0.1:{h2c}", "h2", None, "HTTP/2.0"),
        (
            "https for a name",
            f"https://127.0.0.1:{h1}",
            "auto",
            f'{right}, server_name = "backend.internal"',
            "HTTP/1.1",
        ),
        (
            "https with a client certificate",
            f"https://127.0.0.1:{mutual}",
            "auto",
            f'{right}, cert = "{client_cert}", key = "{client_key}"',
            "HTTP/1.1",
        ),
        ("https of an authority that is not believed", f"https://127.0.0.1:{h1}", "auto", f'ca = "{other.cert}"', None),
        ("https with the system's authorities", f"https://127.0.0.1:{h1}", "auto", None, None),
        ("https for another name", f"https://127.0.0.1:{h1}", "auto", f'{right}, server_name = "other.internal"', None),
        ("clear text to a TLS port", f"http://127.0.0.1:{h1}", "auto", None, "400"),
        ("https to a port in clear text", f"https://127.0.0.1:{h2c}", "auto", right, None),
        ("h2 where only HTTP/1.1 is spoken", f"https://127.0.0.1:{h1}", "h2", right, None),
    ]
    ports = free_ports(len(cases))
    text = ""
    for number, (_, server, protocol, secured, _) in enumerate(cases):
        tls = f"tls = {{ {secured} }}" if secured else ""
        text += f"""
            [[listeners]]
            address = "127.0.0.1:{ports[number]}"
            [upstreams.u{number}]
            servers = ["{server}"]
            protocol = "{protocol}"
            {tls}
            [[routes]]
            host = "u{number}.test"
            upstream = "u{number}"
            """
    stage.gateway("secured-gateway", text, ports[0])
    for number, (name, _, _, _, expected) in enumerate(cases):
        try_case(
            stage,
            checks,
            name,
            f"http://u{number}.test:{ports[number]}",
            number,
            expected,
            ("--resolve", f"*:{ports[number]}:127.0.0.1"),
        )


def try_case(
    stage: Stage, checks: Checks, name: str, origin: str, number: int, expected: str | None, options: tuple
) -> None:
    """`expected`: the protocol that nginx sees, or "400" for its own answer, or none where the gateway answers 502."""
    ask = asking_with_curl(origin, *options)
    path = f"/{number}"
    (stage.folder / "secured" / str(number)).write_text("before")
    (stage.folder / "secured" / str(number)).chmod(0o666)
    read = ask("GET", path, {}, b"")
    if expected is None:
        checks.equal(
            f"{name}: 502, from the gateway",
            (502, "application/problem+json"),
            (read.status, read.fields.get("content-type")),
        )
        checks.contains(f"{name}: it names itself in Proxy-Status", "ifmatch", read.fields.get("proxy-status", ""))
        written = ask("PUT", path, {"If-Match": '"x"'}, b"not sent")
        checks.holds(
            f"{name}: a write is not forwarded",
            written.status in (409, 502) and (stage.folder / "secured" / str(number)).read_text() == "before",
            "409 or 502",
            written.status,
        )
        return
    if expected == "400":
        checks.equal(f"{name}: nginx's own answer", 400, read.status)
        return
    checks.equal(f"{name}: a read", (200, b"before"), (read.status, read.body))
    tag = read.fields.get("etag", "")
    first = ask("PUT", path, {"If-Match": tag}, b"the first")
    checks.equal(f"{name}: a write with the tag it read", 204, first.status)
    second = ask("PUT", path, {"If-Match": tag}, b"the second writer's")
    checks.equal(
        f"{name}: a second with the same tag", (409, "urn:ifmatch:stale"), (second.status, second.problem("type"))
    )
    large = stage.write("large", bytes(3_000_000))
    tag = ask("GET", path, {}, b"").fields.get("etag", "")
    third = curl(f"{origin}{path}", *options, method="PUT", fields={"If-Match": tag}, body=large)
    checks.equal(
        f"{name}: 3 MB with the current tag",
        (204, 3_000_000),
        (third.status, (stage.folder / "secured" / str(number)).stat().st_size),
    )
    checks.equal(f"{name}: 3 MB are read", 3_000_000, len(ask("GET", path, {}, b"").body))
    spoken = {line.split()[3] for line in stage.nginx_access_log("secured") if line.split()[1] == path}
    checks.equal(f"{name}: spoken with nginx", {expected}, spoken)
