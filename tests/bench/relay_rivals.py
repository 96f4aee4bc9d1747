"""What else moves bytes from one TCP connection to another: HAProxy, nginx's stream module, socat and Syncthing's relay
server, each as a child process with one thread, and as large pipes and buffers as ours."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.ports import free_port
from tests.interop.providers import end_process, wait_until
from tests.interop.relay_world import listening

PACKAGES = {
    "haproxy": "haproxy", "nginx": "nginx-light libnginx-mod-stream", "socat": "socat", "strelaysrv": "syncthing-relaysrv",
}  # fmt: skip


def lacking() -> str:
    """How to install what is not there; "" where all is."""
    packages = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    return f"apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""


@contextlib.contextmanager
def child(argv: list[str], port: int, folder: Path) -> Iterator[int]:
    """A server, from the time when it listens; -> its process id."""
    with (folder / f"{Path(argv[0]).name}-{port}.log").open("wb") as log:
        # A session of its own, as ours has: Linux schedules by session first (sched(7), autogroup), and who shares the
        # load's has 6 µs less for a round trip.
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )

    def listens() -> bool:
        assert process.poll() is None, f"{argv}: {(folder / f'{Path(argv[0]).name}-{port}.log').read_text()}"
        return listening(port, process.pid)

    try:
        wait_until(listens, f"{argv[0]} listens")
        yield process.pid
    finally:
        end_process(process)


def haproxy(folder: Path, to: int, *, splice: bool, certificate: Path | None = None) -> tuple[list[str], int]:
    """-> (argv, port). With a certificate (PEM, key too) its side speaks TLS 1.3."""
    port = free_port()
    file = folder / f"haproxy-{port}.cfg"
    option = "option splice-auto" if splice else "no option splice-auto"
    tls = f" ssl crt {certificate} ssl-min-ver TLSv1.3" if certificate else ""
    file.write_text(
        "global\n nbthread 1\n maxconn 6000\n maxpipes 500\n tune.pipesize 1048576\n tune.maxpollevents 256\n"
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n"
        f" {option}\n"
        f"listen a\n bind 127.0.0.1:{port}{tls} backlog 4096\n server s 127.0.0.1:{to}\n"
    )
    return ["haproxy", "-db", "-f", str(file)], port


def nginx(folder: Path, to: int) -> tuple[list[str], int]:
    port = free_port()
    file = folder / f"nginx-{port}.conf"
    file.write_text(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n"
        f"daemon off; worker_processes 1; pid {folder}/nginx-{port}.pid; error_log stderr crit; worker_rlimit_nofile 20000;\n"
        "events { worker_connections 8000; }\n"
        f"stream {{ proxy_buffer_size 64k; server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{to}; "
        "proxy_timeout 1h; } }\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(file)], port


def socat(folder: Path, to: int) -> tuple[list[str], int]:
    port = free_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=4096"
    return ["socat", "-b", "65536", listen, f"TCP:127.0.0.1:{to},nodelay"], port
