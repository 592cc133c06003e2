"""Notes in SQLite behind Flask, as it is often written: no ETags, and the last writer wins.

    notes.py PORT DATABASE

POST /notes      makes one from {"text": ...}; 201 with its Location
GET /notes/N     {"id": N, "text": ..., "served_at": ...}, of which the last is another in every answer
PUT /notes/N     stores {"text": ...}; 200 and {"saved": true}
"""

import sqlite3
import sys
import time

from flask import Flask, abort, request

app = Flask(__name__)


def database() -> sqlite3.Connection:
    return sqlite3.connect(sys.argv[2], timeout=10)


@app.post("/notes")
def create():
    with database() as notes:
        number = notes.execute("INSERT INTO notes (text) VALUES (?)", [request.json["text"]]).lastrowid
    return {"id": number}, 201, {"Location": f"/notes/{number}"}


@app.get("/notes/<int:number>")
def show(number: int):
    row = database().execute("SELECT text FROM notes WHERE id = ?", [number]).fetchone()
    if row is None:
        abort(404)
    return {"id": number, "text": row[0], "served_at": time.time()}


@app.put("/notes/<int:number>")
def store(number: int):
    with database() as notes:
        changed = notes.execute("UPDATE notes SET text = ? WHERE id = ?", [request.json["text"], number]).rowcount
    if not changed:
        abort(404)
    return {"saved": True}


if __name__ == "__main__":
    with database() as made:
        made.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
