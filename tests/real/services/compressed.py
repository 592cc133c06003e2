"""Compression in the way: nginx's gzip before the gateway, and Apache's `mod_deflate` behind it."""

import httpx

import apache
from lost_update import Held
from services import Service
from services.dav import Apache
from services.json_server import JsonServer
from services.notes import Notes
from stage import Stage, free_port

TAG_HEADER = "X-Resource-Version"


class GzipBeforeNotes(Notes):
    suite = "gzip-before"
    name = "nginx with `gzip`, then the gateway that makes the tags (Flask)"
    shows = 'strong ones become weak: `W/"x"`'
    guard = (*Notes.guard, 'comparison = "weak"')
    know = "The gateway's own tags are exact, and stay so when they are called weak."

    def before(self, stage: Stage, gateway: int) -> int:
        return start_gzip(stage, gateway)


class GzipBeforeFiles(Apache):
    suite = "gzip-before-dav"
    name = "nginx with `gzip`, then the gateway before strong tags (`mod_dav`)"
    shows = 'strong ones become weak: `W/"x"`'
    guard = ('comparison = "weak"', "forward_preconditions = false")
    know = "Apache compares for itself, and must not see the weak tag. Tags that it calls weak itself count as well."

    def before(self, stage: Stage, gateway: int) -> int:
        return start_gzip(stage, gateway)

    def read(self, client: httpx.Client, path: str) -> Held:
        return Service.read(self, client, path)


class GzipBeforeTagHeader(Apache):
    suite = "gzip-before-tag-header"
    name = "the same, with a copy of the tag that nginx leaves alone"
    shows = f"`{TAG_HEADER}` stays as it is"
    guard = (f'tag_header = "{TAG_HEADER}"',)
    know = (
        f"For clients that can be told to send it back, in `If-Match` or `{TAG_HEADER}`. The comparison stays strong."
    )

    def before(self, stage: Stage, gateway: int) -> int:
        return start_gzip(stage, gateway)

    def held(self, answer: httpx.Response) -> Held:
        return Held({TAG_HEADER: answer.headers.get(TAG_HEADER, answer.headers.get("etag", ""))}, answer.text)


class DeflateInDav(Apache):
    suite = "deflate-in-dav"
    name = "the gateway, then Apache with `mod_deflate` and `mod_dav`"
    shows = '`"x"` becomes `"x-gzip"`'
    guard = ("forward_preconditions = false",)
    know = "Apache itself refuses the tag that it has given, with 412: here writes work with the gateway alone."

    def start(self, stage: Stage, port: int) -> None:
        apache.start_dav(stage, "apache", port, "filter", "deflate", more="SetOutputFilter DEFLATE")


class DeflateBehind(JsonServer):
    suite = "deflate-behind"
    name = "the gateway, then Apache with `mod_deflate`, then json-server"
    shows = '`W/"x"` becomes `W/"x-gzip"`'
    know = "`encoding_suffixes`, which is on by default, knows the suffix."

    def behind(self, stage: Stage, store: int) -> int:
        return start_deflate(stage, store)


class DeflateBehindNotes(Notes):
    suite = "deflate-behind-flask"
    name = "the gateway that makes the tags, then Apache with `mod_deflate`, then Flask"
    shows = "none"
    know = (
        "What the gateway makes a tag of it asks for as it is, not compressed. Compress before the gateway, as above."
    )
    is_compressed = False

    def behind(self, stage: Stage, store: int) -> int:
        return start_deflate(stage, store)


def start_gzip(stage: Stage, gateway: int) -> int:
    """nginx that compresses all that passes it, and gives its port."""
    port = free_port()
    stage.nginx(
        "gzip",
        port,
        f"""
        gzip on; gzip_types *; gzip_min_length 1;
        server {{
            listen 127.0.0.1:{port} backlog=128;
            location / {{ proxy_pass http://127.0.0.1:{gateway}; proxy_http_version 1.1; }}
        }}""",
    )
    return port


def start_deflate(stage: Stage, store: int) -> int:
    """Apache as a proxy that compresses what the service says, and gives its port."""
    port = free_port()
    lines = f"SetOutputFilter DEFLATE\nProxyPass / http://127.0.0.1:{store}/"
    apache.start(stage, "deflate", port, ("proxy", "proxy_http", "filter", "deflate"), lines)
    return port


def compressed() -> list[Service]:
    """In the order of the table."""
    return [
        GzipBeforeNotes(),
        GzipBeforeFiles(),
        GzipBeforeTagHeader(),
        DeflateInDav(),
        DeflateBehind(),
        DeflateBehindNotes(),
    ]
