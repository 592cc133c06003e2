"""A service with users and their e-mail addresses, in SQLite: as it is often written, and without a unique index.

    users.py PORT DATABASE

GET /users?email=ADDRESS   the users with this address, as a JSON array
POST /users                creates one from {"email": ...}; 201 with its Location
GET, PUT, DELETE /users/N  one of them; PUT checks no precondition, and each change gives it another ETag
POST /lost                 as POST /users, but the connection breaks once it is stored
PUT /lost/N                as PUT /users/N, likewise

A sign-up looks whether the address is taken, thinks for a while, and stores it. Two at once both find that it is free.
"""

import http.server
import json
import sqlite3
import sys
import threading
import time
import urllib.parse

LOCK = threading.Lock()


class Users(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    database: sqlite3.Connection

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/users":
            email = urllib.parse.parse_qs(url.query)["email"][0]
            found = self.rows("SELECT number, email FROM users WHERE email = ?", email)
            return self.answer(200, [{"id": number, "email": email} for number, email in found])
        found = self.rows("SELECT email, version FROM users WHERE number = ?", url.path.rsplit("/", 1)[-1])
        if not found:
            return self.answer(404, None)
        return self.answer(200, {"email": found[0][0]}, ETag=f'"{found[0][1]}"')

    def do_POST(self) -> None:
        email = self.document()["email"]
        if self.rows("SELECT number FROM users WHERE email = ?", email):
            return self.answer(409, {"error": "the service says: taken"})
        time.sleep(0.1)
        number = self.change("INSERT INTO users (email, version) VALUES (?, 1)", email)
        if self.path.startswith("/lost"):
            return self.break_off()
        return self.answer(201, {"id": number}, Location=f"/users/{number}", ETag='"1"')

    def do_PUT(self) -> None:
        number = self.path.rsplit("/", 1)[-1]
        self.change("UPDATE users SET email = ?, version = version + 1 WHERE number = ?", self.document()["email"], number)
        if self.path.startswith("/lost"):
            return self.break_off()
        version = self.rows("SELECT version FROM users WHERE number = ?", number)[0][0]
        return self.answer(200, {"id": int(number)}, ETag=f'"{version}"')

    def do_DELETE(self) -> None:
        self.change("DELETE FROM users WHERE number = ?", self.path.rsplit("/", 1)[-1])
        self.answer(204, None)

    def document(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def rows(self, query: str, *values) -> list:
        with LOCK:
            return self.database.execute(query, values).fetchall()

    def change(self, query: str, *values) -> int:
        with LOCK, self.database:
            return self.database.execute(query, values).lastrowid

    def break_off(self) -> None:
        self.close_connection = True
        self.connection.close()

    def answer(self, status: int, body, **fields) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


def main() -> None:
    Users.database = sqlite3.connect(sys.argv[2], check_same_thread=False)
    Users.database.execute(
        "CREATE TABLE IF NOT EXISTS users (number INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT, version INTEGER)"
    )
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Users).serve_forever()


if __name__ == "__main__":
    main()
