"""What an operator uses: the sample files, the admin listener (read by Prometheus's parser), health checks, logs."""

import json
import shutil
import time
import urllib.error
import urllib.request

import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from asking import curl
from checks import Checks
from stage import ROOT, Stage, free_ports, run, stop

TRACE = "0af7651916cd43dd8448eb211c80319c"


def run_suite(stage: Stage, checks: Checks) -> None:
    checks.attempt("sample files", try_samples, stage, checks)
    checks.attempt("the admin listener", try_admin, stage, checks)


def try_samples(stage: Stage, checks: Checks) -> None:
    if shutil.which("systemd-analyze"):
        for name in ("ifmatch.service", "ifmatch.socket"):
            stage.write(name, (ROOT / "config" / name).read_text().replace("/usr/local/bin/ifmatch", stage.program))
            said = run("systemd-analyze", "verify", "--man=no", stage.folder / name, check=False)
            checks.equal(
                f"systemd-analyze verify {name}", (0, ""), (said.returncode, (said.stdout + said.stderr).strip())
            )
        said = run(
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=30",
            stage.folder / "ifmatch.service",
            check=False,
        )
        checks.equal("systemd-analyze security: exposed no more than 3.0 of 10", 0, said.returncode)
    else:
        checks.note("there is no systemd-analyze here")

    compose = yaml.safe_load((ROOT / "config/compose.yaml").read_text())
    checks.holds(
        "compose.yaml has services",
        isinstance(compose.get("services"), dict) and len(compose["services"]) > 1,
        "two services at least",
        compose,
    )
    for name in ("kubernetes-sidecar.yaml", "kubernetes-gateway.yaml"):
        documents = [each for each in yaml.safe_load_all((ROOT / "config" / name).read_text()) if each]
        checks.holds(
            f"{name}: each document says what it is",
            all(each.get("apiVersion") and each.get("kind") for each in documents),
            "apiVersion and kind",
            [each.get("kind") for each in documents],
        )
        for each in documents:
            for file, text in (each.get("data") or {}).items() if each["kind"] == "ConfigMap" else ():
                said = run(stage.program, "check", "--config", stage.write(file, text), check=False)
                checks.equal(f"{name}: {file} within it is in order", 0, said.returncode)


def try_admin(stage: Stage, checks: Checks) -> None:
    backend = stage.backend()
    port, admin = free_ports(2)
    gateway = stage.gateway(
        "gateway",
        f"""
        [[listeners]]
        address = "127.0.0.1:{port}"
        [upstreams.backend]
        servers = ["{backend.url}"]
        health = {{ path = "/empty", interval = "200ms", timeout = "500ms", healthy = 1, unhealthy = 2 }}
        [admin]
        address = "127.0.0.1:{admin}"
        [log]
        format = "json"
        access = true
        """,
        port,
    )
    origin, operator = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
    health = (stage.program, "health", "--config", stage.folder / "gateway.toml")
    checks.equal("/livez and /readyz", (200, 200), (ask(f"{operator}/livez")[0], ask(f"{operator}/readyz")[0]))
    checks.equal("ifmatch health", 0, run(*health, check=False).returncode)

    before = samples(checks, operator)
    tag = backend.put("/docs/a", "text")
    traced = curl(f"{origin}/inspect", fields={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    passed_on = dict(json.loads(traced.body)["fields"]).get("traceparent", "")
    checks.like("traceparent is passed on", f"00-{TRACE}-[0-9a-f]{{16}}-01", passed_on)
    begun = dict(json.loads(curl(f"{origin}/inspect").body)["fields"]).get("traceparent", "")
    checks.like("traceparent is begun", "00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", begun)
    for _ in range(3):
        curl(f"{origin}/docs/a")
    written = curl(f"{origin}/docs/a", method="PUT", fields={"If-Match": tag}, body=b"first")
    refused = curl(f"{origin}/docs/a", method="PUT", fields={"If-Match": tag}, body=b"second")
    checks.equal("a write, and one that is refused", (200, 409), (written.status, refused.status))
    after = samples(checks, operator)
    for name, labels, more in (
        ("ifmatch_requests_total", {}, 7),
        ("ifmatch_requests_total", {"method": "GET"}, 5),
        ("ifmatch_requests_total", {"method": "PUT", "status": "409"}, 1),
        ("ifmatch_verdicts_total", {"verdict": "stale"}, 1),
        ("ifmatch_turns_total", {}, 1),
    ):
        checks.equal(
            f"/metrics: {name} {labels or ''} grew by", more, total(after, name, labels) - total(before, name, labels)
        )
    checks.equal("/metrics: records", 1, total(after, "ifmatch_records", {}))

    status, _, text = ask(f"{operator}/records?target=/docs/a&host=127.0.0.1:{port}")
    checks.holds(
        "/records tells the tag that is known",
        status == 200 and written.fields["etag"] in json.dumps(json.loads(text)).replace('\\"', '"'),
        written.fields["etag"],
        (status, text),
    )
    status, _, text = ask(f"{operator}/records?target=/docs/a&host=127.0.0.1:{port}", "DELETE")
    checks.holds("DELETE of /records is taken", 200 <= status < 300, "2xx", (status, text))
    _, _, text = ask(f"{operator}/records?target=/docs/a&host=127.0.0.1:{port}")
    checks.holds(
        "and it is forgotten", written.fields["etag"] not in json.dumps(text).replace('\\"', '"'), "no tag", text
    )
    probes = backend.seen("HEAD", "/docs/a")
    curl(f"{origin}/docs/a", method="PUT", fields={"If-Match": tag}, body=b"third")
    checks.equal("so the backend is asked before the next write", probes + 1, backend.seen("HEAD", "/docs/a"))
    checks.equal("the admin listener serves nobody else's paths", 404, ask(f"{operator}/docs/a")[0])

    backend.process.kill()
    backend.process.wait()
    checks.equal("no healthy server: /readyz", 503, await_status(f"{operator}/readyz", 503))
    checks.equal("no healthy server: /livez", 200, ask(f"{operator}/livez")[0])
    checks.equal("no healthy server: ifmatch health", 1, run(*health, check=False).returncode)
    checks.equal("/metrics: upstream_healthy", 0, total(samples(checks, operator), "ifmatch_upstream_healthy", {}))
    stage.backend("backend", backend.port)
    checks.equal("it is back: /readyz", 200, await_status(f"{operator}/readyz", 200))
    checks.equal("SIGTERM: exit code", 0, stop(gateway, 10))
    checks.equal("nobody listens: ifmatch health", 1, run(*health, check=False).returncode)
    try_log(stage, checks, tag)


def try_log(stage: Stage, checks: Checks, tag: str) -> None:
    lines = [json.loads(line) for line in stage.log("gateway").read_text().splitlines() if line.startswith("{")]
    access = [line for line in lines if "status" in line and "target" in line]
    checks.equal("the access log has a line for each request", 8, len(access))
    refused = next((line for line in access if line["status"] == 409), {})
    expected = {"method": "PUT", "target": "/docs/a", "verdict": "stale", "if_match": tag}
    checks.equal("the line of the refusal", expected, {name: refused.get(name) for name in expected})
    checks.equal("the trace is told", 1, sum(TRACE in json.dumps(line) for line in access))


def samples(checks: Checks, operator: str) -> list:
    status, fields, text = ask(f"{operator}/metrics", accept="application/openmetrics-text; version=1.0.0")
    if status != 200 or "openmetrics" not in fields.get("content-type", ""):
        checks.fail("/metrics is OpenMetrics", f"saw {status} {fields.get('content-type')}")
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        checks.fail("Prometheus's parser reads /metrics", str(error))
        return []
    unnamed = [family.name for family in families if not family.documentation or not family.name.startswith("ifmatch")]
    checks.equal(f"/metrics: all of {len(families)} families say what they are", [], unnamed)
    return [sample for family in families for sample in family.samples]


def total(all_samples: list, name: str, labels: dict[str, str]) -> float | str:
    values = [
        sample.value
        for sample in all_samples
        if sample.name == name and all(sample.labels.get(label) == value for label, value in labels.items())
    ]
    return sum(values)


def ask(url: str, method: str = "GET", accept: str = "*/*") -> tuple[int, dict[str, str], str]:
    request = urllib.request.Request(url, method=method, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return (
                answer.status,
                {name.lower(): value for name, value in answer.headers.items()},
                answer.read().decode(),
            )
    except urllib.error.HTTPError as error:
        return error.code, {}, error.read().decode()


def await_status(url: str, wanted: int) -> int:
    deadline = time.monotonic() + 10
    while (status := ask(url)[0]) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return status
