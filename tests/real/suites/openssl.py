"""openssl s_client: TLS versions, ALPN, which certificate, and what is refused."""

import re

from asking import curl
from checks import Checks
from stage import Stage, free_ports, run

REQUEST = "GET /docs/a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"


def run_suite(stage: Stage, checks: Checks) -> None:
    backend = stage.backend()
    backend.put("/docs/a", "text")
    authority = stage.authority("authority")
    first = authority.certificate("a.test", "a.test")
    second = authority.certificate("b.test", "b.test", "*.c.test")
    port, old = free_ports(2)
    stage.gateway(
        "gateway",
        f"""
        [[listeners]]
        address = "127.0.0.1:{port}"
        tls = {{ certificates = [
            {{ cert = "{first[0]}", key = "{first[1]}" }},
            {{ cert = "{second[0]}", key = "{second[1]}" }},
        ] }}
        [upstreams.backend]
        servers = ["{backend.url}"]
        """,
        port,
    )

    def handshake(*options, request: str = "", to: int = port) -> str:
        """All that s_client says, with what came back."""
        waiting = ("-ign_eof",) if request else ()
        done = run(
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{to}",
            "-CAfile",
            authority.cert,
            *waiting,
            *options,
            input=request,
            check=False,
        )
        return done.stdout + done.stderr

    for version, name in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
        said = handshake(version, "-servername", "a.test", request=REQUEST)
        checks.like(f"{name} is spoken", f".*New, {name}.*", said)
        checks.like(f"{name}: the chain is verified", r".*subject=CN ?= ?a\.test.*Verify return code: 0 \(ok\).*", said)
        checks.like(f"{name}: and answered, with what is stored", r".*HTTP/1\.1 200 OK.*text.*", said)
        checks.contains(f"{name}: without ALPN, HTTP/1.1 is spoken", "No ALPN negotiated", said)
        for offered, taken in (("h2,http/1.1", "h2"), ("http/1.1,h2", "h2"), ("http/1.1", "http/1.1"), ("h2", "h2")):
            said = handshake(version, "-servername", "a.test", "-alpn", offered)
            checks.equal(f"{name}: ALPN {offered}", [taken], re.findall(r"ALPN protocol: (\S+)", said))

    for host, subject in (
        ("a.test", "a.test"),
        ("b.test", "b.test"),
        ("x.c.test", "b.test"),
        ("B.TEST", "b.test"),
        ("other.test", "a.test"),
        (None, "a.test"),
    ):
        named = ("-servername", host) if host else ("-noservername",)
        for version in ("-tls1_2", "-tls1_3"):
            said = handshake(version, *named)
            checks.equal(
                f"{version}: the certificate for {host or 'no name'}",
                [subject],
                re.findall(r"subject=CN ?= ?(\S+)", said),
            )

    said = handshake("-tls1_3", "-servername", "a.test", request=REQUEST)
    checks.equal("no ticket allows early data", {"0"}, {"0", *re.findall(r"Max Early Data: (\d+)", said)})

    weak = ("-cipher", "DEFAULT@SECLEVEL=0")
    stage.start(
        "old",
        "openssl",
        "s_server",
        "-accept",
        f"127.0.0.1:{old}",
        "-cert",
        first[0],
        "-key",
        first[1],
        *weak,
        "-naccept",
        "20",
        "-quiet",
        port=old,
    )
    for version in ("-tls1", "-tls1_1"):
        said = handshake(version, *weak, to=old)
        checks.contains(f"{version}: this client can speak it", "New, TLSv1", said)
        said = handshake(version, *weak)
        checks.like(f"{version} is refused", ".*alert (protocol version|handshake failure).*", said)
    said = handshake("-tls1_2", "-cipher", "AES128-SHA:AES256-SHA:ECDHE-RSA-AES128-SHA@SECLEVEL=0")
    checks.contains("ciphers of old are refused", "alert handshake failure", said)

    plain = curl(f"http://127.0.0.1:{port}/docs/a")
    checks.holds("clear text to a TLS port is not served", plain.status in (0, 400), "400 or nothing", plain.status)
