"""A pppd in software, for hosts whose kernel has no PPP: a program that the root helper starts as it would the real one.

It reads the options file that it is given with pppd's own rules of quoting, writes down what it got, and plays a part:
`ip` makes a network device (a bridge, in whatever network namespace it runs) with the addresses of a call.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python} -IS
import json, os, re, signal, socket, subprocess, sys, termios, time
here = {here!r}
part = json.load(open(here + "/part"))
options = open(sys.argv[2], "rb").read()
words = re.findall(rb'"(?:[^"\\\\\\\\]|\\\\\\\\.)*"|[^ \\n]+', options)
device = words[words.index(b"ifname") + 1].decode()
json.dump({{
    "argv": sys.argv, "options": options.decode("latin-1"), "environment": dict(os.environ), "uid": os.getuid(),
    "port": os.ttyname(0), "folder": sorted(os.listdir("/etc/ppp")) if os.path.isdir("/etc/ppp") else None,
    "open": sorted(os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2
                   and os.path.exists("/proc/self/fd/" + fd)),
}}, open(here + "/got", "w"))
stopped = []
def stop(signum, frame):
    stopped.append(signum)
    if not part.get("ignores"):
        end(part.get("stop_code", 5))
def end(code):
    if part.get("up"):
        subprocess.run(["ip", "link", "del", device], check=False)
    sys.stderr.flush()
    os._exit(code)
signal.signal(signal.SIGTERM, stop)
for line in part.get("log", ()):
    sys.stderr.write(line)
sys.stderr.flush()
if part.get("spoils"):  # as a killed pppd leaves the port
    attributes = termios.tcgetattr(0)
    attributes[2] ^= termios.CLOCAL | termios.HUPCL
    attributes[6][termios.VMIN] = 0
    termios.tcsetattr(0, termios.TCSANOW, attributes)
time.sleep(part.get("wait", 0))
if part.get("up"):
    ours, peer = part["up"]
    if part.get("dns") is not None:
        open("/etc/ppp/resolv.conf", "w").write(part["dns"])
    for command in ("link add {{0}} type bridge", "addr add {{1}} peer {{2}} dev {{0}}", "link set {{0}} up"):
        subprocess.run(["ip", *command.format(device, ours, peer).split()], check=True)
open(here + "/settled", "w").close()
if "code" in part:
    time.sleep(part.get("lives", 0))
    end(part["code"])
while True:
    time.sleep(1000)
"""


def install(folder: Path) -> Path:
    """Writes the program; `folder/part` is what it plays, `folder/got` what it was given."""
    program = folder / "pppd"
    program.write_text(PROGRAM.format(python=sys.executable, here=str(folder)))
    program.chmod(0o755)
    return program
