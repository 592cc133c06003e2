"""One request by one client, and the verdicts that every client must get alike."""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from checks import Checks
from stage import Backend, run


@dataclass
class Answer:
    """The final answer; `status` is 0 where none came. Field names are in lower case."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    version: str = ""
    uploaded: int = 0
    interim: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    exit: int = 0
    error: str = ""

    def problem(self, member: str) -> str:
        try:
            value = json.loads(self.body)[member]
        except (ValueError, KeyError, TypeError):
            return f"no {member} in {self.body[:200]!r}"
        return ", ".join(value) if isinstance(value, list) else str(value)

    def text(self) -> str:
        return self.body.decode(errors="replace")


# Sends (method, path, fields, body) to where it was made for.
Ask = Callable[[str, str, dict[str, str], bytes], Answer]


def curl(
    url: str,
    *options,
    method: str = "GET",
    fields: dict[str, str] | None = None,
    body: bytes | Path | None = None,
    timeout: float = 15,
) -> Answer:
    """Asks with curl. `fields` with an empty value are sent so."""
    with tempfile.TemporaryDirectory() as folder:
        head, content, sent = (Path(folder) / name for name in ("head", "body", "sent"))
        command = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            timeout,
            "--path-as-is",
            "--dump-header",
            head,
            "--output",
            content,
            "--write-out",
            "%{json}",
        ]
        command += ["--head"] if method == "HEAD" else ["--request", method]
        for name, value in (fields or {}).items():
            command += ["--header", f"{name}: {value}" if value else f"{name};"]
        if body is not None:
            if isinstance(body, bytes):
                sent.write_bytes(body)
                body = sent
            command += ["--header", "Content-Type: text/plain", "--data-binary", f"@{body}"]
        done = run(*command, *options, url, timeout=timeout + 5, check=False)
        report = json.loads(done.stdout)
        answer = Answer(
            report["http_code"],
            version=report["http_version"],
            uploaded=report["size_upload"],
            exit=done.returncode,
            error=done.stderr.strip(),
        )
        # With --head curl writes the head to where the body would go.
        answer.body = content.read_bytes() if content.exists() and report["size_download"] else b""
        if head.exists():
            read_blocks(head.read_text(errors="replace"), answer)
        return answer


def read_blocks(text: str, answer: Answer) -> None:
    """What curl dumps: heads in the order in which they came, each with an empty line after it, then trailers."""
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line for line in block.split("\n") if line]
        if not lines:
            continue
        if not lines[0].startswith("HTTP/"):
            answer.trailers = parse_fields(lines)
        elif lines[0].split()[1].startswith("1") and lines[0].split()[1] != "101":
            answer.interim.append((int(lines[0].split()[1]), parse_fields(lines[1:])))
        else:
            answer.fields = parse_fields(lines[1:])


def parse_fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.strip().lower()
        fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    return fields


def asking_with_curl(origin: str, *options) -> Ask:
    def ask(method: str, path: str, fields: dict[str, str], body: bytes) -> Answer:
        return curl(f"{origin}{path}", *options, method=method, fields=fields, body=body or None)

    return ask


def try_verdicts(checks: Checks, client: str, ask: Ask, backend: Backend, path: str) -> None:
    """What all of this is for, as this client sees it: the second writer with one tag is refused, and told why."""
    backend.put(path, "before")
    read = ask("GET", path, {}, b"")
    checks.equal(f"{client}: a read passes", (200, b"before"), (read.status, read.body))
    tag = read.fields.get("etag", "")
    first = ask("PUT", path, {"If-Match": tag}, b"first")
    checks.equal(f"{client}: a write with the tag it read", 200, first.status)
    checks.like(f"{client}: its answer has the new tag", '"v[0-9]+"', first.fields.get("etag", ""))
    written = backend.seen("PUT", path)
    second = ask("PUT", path, {"If-Match": tag}, b"second")
    check_stale(checks, f"{client}: a second write with the same tag", second, first.fields.get("etag", ""))
    checks.equal(f"{client}: did not reach the backend", written, backend.seen("PUT", path))
    checks.equal(f"{client}: the first writer's work is kept", "first", backend.text(path))
    third = ask("PUT", path, {"If-Match": second.fields.get("etag", "")}, b"third")
    checks.equal(f"{client}: with the tag that the refusal named the write succeeds", 200, third.status)
    malformed = ask("PUT", path, {"If-Match": '"abc'}, b"fourth")
    checks.equal(
        f"{client}: a malformed precondition",
        (400, "urn:ifmatch:malformed-precondition"),
        (malformed.status, malformed.problem("type")),
    )
    checks.equal(f"{client}: and that is stored", "third", backend.text(path))


def check_stale(checks: Checks, description: str, answer: Answer, current: str) -> None:
    """One check for all parts of the refusal, so that each client adds one line."""
    seen = {
        "status": answer.status,
        "type": answer.problem("type"),
        "content type": answer.fields.get("content-type"),
        "status in the body": answer.problem("status"),
        "message": answer.problem("error")[:8],
        "cache control": answer.fields.get("cache-control"),
        "current tag": answer.problem("current_etags"),
        "ETag": answer.fields.get("etag"),
        "Proxy-Status": bool(answer.fields.get("proxy-status")),
    }
    expected = {
        "status": 409,
        "type": "urn:ifmatch:stale",
        "content type": "application/problem+json",
        "status in the body": "409",
        "message": "Conflict",
        "cache control": "no-store",
        "current tag": current,
        "ETag": current,
        "Proxy-Status": True,
    }
    wrong = {part for part in expected if expected[part] != seen[part]}
    checks.holds(
        f"{description} is refused, with all that it needs",
        not wrong,
        {part: expected[part] for part in sorted(wrong)},
        {part: seen[part] for part in sorted(wrong)},
    )
