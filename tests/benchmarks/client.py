"""How much longer a client sleeps than it is told, for docs/calibration.md: `python -m tests.benchmarks.client`.

The client of ParM's artifact sleeps for an exponential gap, hands the query to a pool of threads, and sleeps again; the
threads compete with it for Python's lock. `--work` adds CPU seconds to each query, as a slower machine would. Needs
`requests`.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

PICTURE = 22_000
"""Bytes of a query before base64."""


def answer(connection: socket.socket) -> None:
    """Read a query, take 20 ms, and answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, body = data.split(b"\r\n\r\n", 1)
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    time.sleep(0.02)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    connection.close()


def serve() -> None:
    """Answer on a free port, which is printed, until the process is ended."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        print(listener.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def send(port: int, rate: float, seconds: float, work: float) -> float:
    """Return the seconds that a client at `rate` queries per second sleeps longer than it is told, for each query."""
    import requests

    picture = base64.b64encode(os.urandom(PICTURE)).decode()

    def ask() -> None:
        until = time.thread_time() + work
        while time.thread_time() < until:
            pass
        body = json.dumps({"input": picture})
        requests.post(f"http://127.0.0.1:{port}/", headers={"Content-type": "application/json"}, data=body, timeout=60)

    gaps = np.random.default_rng(1).exponential(1 / rate, int(rate * seconds))
    began = time.time()
    with ThreadPoolExecutor(max_workers=int(10 * rate)) as pool:
        for gap in gaps.tolist():
            time.sleep(gap)
            pool.submit(ask)
        taken = time.time() - began
    return float(taken / len(gaps) - gaps.mean())


def main() -> None:
    """Print a line for each rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[37, 52, 67, 82, 97])
    parser.add_argument("--seconds", type=float, default=9)
    parser.add_argument("--work", type=float, default=0.0, help="CPU seconds that each query takes more")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    words = [sys.executable, "-m", "tests.benchmarks.client", "--serve"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for rate in options.rates:
            longer = send(port, rate, options.seconds, options.work)
            print(f"{rate:g} queries/s: {1e3 * longer:.2f} ms longer", flush=True)
        server.terminate()


if __name__ == "__main__":
    main()
