"""What a suite stands on: a temporary folder, loopback ports, certificates, and processes that end with it.

Nothing here judges anything. A process that can't be started is an exception, which fails the suite.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Stage:
    """What one suite started. As a context manager: all of it ends with the suite."""

    def __init__(self, gateway_program: str) -> None:
        self.program = gateway_program
        self._folder = tempfile.TemporaryDirectory(prefix="ifmatch-")
        self.folder = Path(self._folder.name)
        self.folder.chmod(0o755)  # nginx's workers run as another user
        self.processes: list[subprocess.Popen] = []

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 3
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    # ------------------------------------------------------------------------------------------ processes

    def start(
        self, name: str, *command, port: int | None = None, env: dict | None = None, **options
    ) -> subprocess.Popen:
        """Starts a process whose output goes to NAME.log, and waits until it listens on the port."""
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                **options,
            )
        self.processes.append(process)
        if port is not None:
            self.await_port(name, process, port)
        return process

    def await_port(self, name: str, process: subprocess.Popen, port: int, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not listens(port):
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}: {self.end_of_log(name)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not listen on {port}: {self.end_of_log(name)}")
            time.sleep(0.02)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def end_of_log(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")[-600:] if self.log(name).exists() else "no output"

    def gateway(self, name: str, configuration: str, port: int, env: dict | None = None, **options) -> subprocess.Popen:
        """The gateway with this file, once it listens on the port."""
        path = self.write(f"{name}.toml", configuration)
        return self.start(name, self.program, "run", "--config", path, port=port, env=env, **options)

    def backend(self, name: str = "backend", port: int | None = None) -> "Backend":
        port = port or free_port()
        process = self.start(name, sys.executable, HERE / "backend.py", port, name, port=port)
        return Backend(port, process)

    def nginx(self, name: str, port: int, http: str) -> subprocess.Popen:
        """nginx with these lines in its `http` block, once it listens on the port. `/` is `self.folder / name`."""
        for folder in (name, f"{name}-tmp"):
            path = self.folder / folder
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        temporary = self.folder / f"{name}-tmp"
        paths = "\n".join(
            f"{kind}_temp_path {temporary}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = self.write(
            f"{name}.conf",
            f"""
            daemon off; worker_processes 1; worker_rlimit_nofile 16384;
            pid {temporary}/pid; error_log {temporary}/error.log;
            events {{ worker_connections 4096; }}
            http {{
                {paths}
                log_format brief '$request_method $uri $status $server_protocol $http_if_match';
                access_log {temporary}/access.log brief;
                keepalive_requests 1000000;
                root {self.folder / name};
                {http}
            }}""",
        )
        return self.start(
            name, "nginx", "-p", temporary, "-e", f"{temporary}/error.log", "-c", configuration, port=port
        )

    def nginx_access_log(self, name: str) -> list[str]:
        return (self.folder / f"{name}-tmp" / "access.log").read_text().splitlines()

    # ------------------------------------------------------------------------------------------ files

    def write(self, name: str, text: str | bytes) -> Path:
        """Replaces the file in one step: nobody can read half of it."""
        path = self.folder / name
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(text.encode() if isinstance(text, str) else text)
        partial.rename(path)
        return path

    # ------------------------------------------------------------------------------------------ certificates

    def authority(self, name: str) -> "Authority":
        return Authority(self, name)


class Authority:
    """A private certificate authority, made with openssl."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.cert, self.key = self._make(name, "critical,CA:TRUE", "keyUsage = critical, keyCertSign")

    def certificate(self, name: str, *hosts: str, replacing: str | None = None) -> tuple[Path, Path]:
        """A certificate for these hosts, or for a client, with the paths of it and its key.

        With `replacing` it takes the place of that one, each of its two files in one step.
        """
        hosts = hosts or (name,)
        names = ",".join(f"IP:{host}" if host[0].isdigit() else f"DNS:{host}" for host in hosts)
        extensions = f"subjectAltName = {names}\nextendedKeyUsage = serverAuth, clientAuth"
        made = self._make(f"{self.name}-{name}", "critical,CA:FALSE", extensions, "-CA", self.cert, "-CAkey", self.key)
        if replacing is None:
            return made
        places = tuple(self.stage.folder / f"{self.name}-{replacing}.{kind}" for kind in ("pem", "key"))
        for new, place in zip(made, places):
            new.rename(place)
        return places

    def _make(self, name: str, basic: str, more: str, *signer) -> tuple[Path, Path]:
        subject = name.removeprefix(f"{self.name}-") or name
        configuration = self.stage.write(
            f"{name}.cnf",
            f"""
            [req]
            distinguished_name = subject
            x509_extensions = extensions
            prompt = no
            [subject]
            CN = {subject}
            [extensions]
            basicConstraints = {basic}
            subjectKeyIdentifier = hash
            authorityKeyIdentifier = keyid:always
            {more}
            """.replace("            ", ""),
        )
        cert, key = self.stage.folder / f"{name}.pem", self.stage.folder / f"{name}.key"
        run(
            "openssl",
            "req",
            "-x509",
            "-config",
            configuration,
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-days",
            "7",
            "-keyout",
            key,
            "-out",
            cert,
            *signer,
        )
        return cert, key


class Backend:
    """The running `backend.py`, asked directly: not through the gateway."""

    def __init__(self, port: int, process: subprocess.Popen) -> None:
        self.port = port
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def put(self, path: str, text: str) -> str:
        """Stores a document, and gives its tag."""
        request = urllib.request.Request(f"{self.url}{path}", text.encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.headers["ETag"]

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return answer.read().decode()

    def seen(self, method: str, path: str) -> int:
        """How many such requests came, those of `put` and `text` included."""
        return int(self.text(f"/seen?{method}+{path}"))

    def release(self) -> None:
        """Lets a stream of events go on."""
        self.text("/release")


def run(*command, timeout: float = 20, check: bool = True, **options) -> subprocess.CompletedProcess:
    """A command with its output as text (or bytes, with `text=False`)."""
    options = {"text": True, "capture_output": True, "stdin": subprocess.DEVNULL, **options}
    if "input" in options:
        del options["stdin"]
    done = subprocess.run([str(part) for part in command], timeout=timeout, **options)
    if check and done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """All different, since all are taken before the first is given back."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def free_port() -> int:
    return free_ports(1)[0]


def stop(process: subprocess.Popen, seconds: float) -> int | None:
    """Asks it to end, and gives its exit code; none if it does not end in that time."""
    process.send_signal(signal.SIGTERM)
    return exit_code(process, seconds)


def exit_code(process: subprocess.Popen, seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def memory(process: subprocess.Popen) -> float:
    """The most that it ever had resident, in MB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def open_files(process: subprocess.Popen) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
