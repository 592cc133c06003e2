"""A service with SQLite and no unique index: sign-ups at once, addresses from before, and lost answers."""

import http.client
import json
import sqlite3
import sys
import threading
from pathlib import Path

from checks import Checks
from stage import HERE, Stage, free_ports

AT_ONCE = 10


def run_suite(stage: Stage, checks: Checks) -> None:
    direct, through = free_ports(2)
    database = stage.folder / "users.sqlite"
    stage.start("users", sys.executable, HERE / "users.py", direct, database, port=direct)
    before = sign_up(direct, "before@example.com")
    checks.equal("the service alone: a sign-up", 201, before.status)
    stage.gateway(
        "gateway",
        f"""
        [[listeners]]
        address = "127.0.0.1:{through}"
        [upstreams.users]
        servers = ["http://127.0.0.1:{direct}"]
        [[routes]]
        path = "/users/{{number}}"
        guard = {{ replay = "30s", settle = "300ms" }}
        [[routes]]
        guard = {{ unique = ["/email"], unique_lookup = "/users?email={{/email}}", idempotency = "1h", settle = "300ms" }}
        """,
        through,
    )
    checks.attempt("sign-ups at once", try_at_once, checks, direct, through, database)
    checks.attempt("an address from before", try_before, checks, through, database)
    checks.attempt("keys", try_keys, checks, through, database)
    checks.attempt("lost answers", try_lost_answers, checks, through, database)


def try_at_once(checks: Checks, direct: int, through: int, database: Path) -> None:
    answers = all_at_once(direct, "two@example.com", 2)
    checks.equal("the service alone: two sign-ups at once", [201, 201], sorted(answer.status for answer in answers))
    checks.equal("and there are two users with one address", 2, users(database, "two@example.com"))

    answers = all_at_once(through, "one@example.com", AT_ONCE)
    statuses = sorted(answer.status for answer in answers)
    checks.equal(f"{AT_ONCE} sign-ups at once", [201] + [409] * (AT_ONCE - 1), statuses)
    checks.equal("and there is one user with that address", 1, users(database, "one@example.com"))
    kinds = {json.loads(answer.body)["type"] for answer in answers if answer.status == 409}
    checks.equal("the others are told why", {"urn:ifmatch:duplicate"}, kinds)
    created = next(answer.fields["location"] for answer in answers if answer.status == 201)
    refused = next(answer for answer in answers if answer.status == 409)
    checks.contains("and where it is", f"<{created}>", refused.fields.get("link", ""))

    deleted = ask(through, "DELETE", created)
    checks.equal("the user is deleted", 204, deleted.status)
    checks.equal("after which the address is free", 201, sign_up(through, "one@example.com").status)
    checks.equal("for one", 1, users(database, "one@example.com"))


def try_before(checks: Checks, through: int, database: Path) -> None:
    answer = sign_up(through, "before@example.com")
    checks.equal("an address that was there before the gateway", 409, answer.status)
    checks.equal("is the gateway's refusal", "urn:ifmatch:duplicate", json.loads(answer.body)["type"])
    checks.contains("with where to look", "</users?email=before%40example.com>", answer.fields.get("link", ""))
    checks.equal("and is there once", 1, users(database, "before@example.com"))


def try_keys(checks: Checks, through: int, database: Path) -> None:
    key = {"Idempotency-Key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}
    first = sign_up(through, "key@example.com", **key)
    again = sign_up(through, "key@example.com", **key)
    checks.equal("with a key: the first and the second", (201, 201), (first.status, again.status))
    checks.equal("have the same answer", (first.body, first.fields["location"]), (again.body, again.fields["location"]))
    checks.equal("which says that it was given before", 'ifmatch; details="replayed"', again.fields.get("proxy-status"))
    checks.equal("and there is one user", 1, users(database, "key@example.com"))
    checks.equal("with another payload", 422, sign_up(through, "other@example.com", **key).status)


def try_lost_answers(checks: Checks, through: int, database: Path) -> None:
    lost = sign_up(through, "lost@example.com", path="/lost")
    checks.equal("a sign-up whose connection breaks behind the gateway", 502, lost.status)
    again = sign_up(through, "lost@example.com")
    checks.equal("once it comes again it is found by asking", 409, again.status)
    checks.equal("and there is one user", 1, users(database, "lost@example.com"))

    user = sign_up(through, "put@example.com").fields["location"]
    tag = ask(through, "GET", user).fields["etag"]
    body = {"email": "new@example.com"}
    connection = http.client.HTTPConnection("127.0.0.1", through, timeout=15)
    connection.request("PUT", user, json.dumps(body), {"If-Match": tag, "Content-Type": "application/json"})
    connection.sock.recv(1)  # the answer is on its way, and the rest of it is lost
    connection.close()
    again = ask(through, "PUT", user, body, **{"If-Match": tag})
    checks.equal("a PUT whose answer the client lost, once more", 200, again.status)
    checks.equal("was applied once", [(2,)], rows(database, "SELECT version FROM users WHERE email = 'new@example.com'"))
    other = ask(through, "PUT", user, body, **{"If-Match": tag, "Authorization": "Bearer other"})
    checks.equal("the same by somebody else", 409, other.status)


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.fields = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()


def ask(port: int, method: str, path: str, body: dict | None = None, **fields: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    content = None if body is None else json.dumps(body)
    if content is not None:
        fields["Content-Type"] = "application/json"
    connection.request(method, path, content, fields)
    answer = Answer(connection.getresponse())
    connection.close()
    return answer


def sign_up(port: int, email: str, path: str = "/users", **fields: str) -> Answer:
    return ask(port, "POST", path, {"email": email}, **fields)


def all_at_once(port: int, email: str, count: int) -> list[Answer]:
    answers: list[Answer] = []
    start = threading.Barrier(count)

    def one() -> None:
        start.wait()
        answers.append(sign_up(port, email))

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def users(database: Path, email: str) -> int:
    return rows(database, "SELECT count(*) FROM users WHERE email = ?", email)[0][0]


def rows(database: Path, query: str, *values) -> list:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()
