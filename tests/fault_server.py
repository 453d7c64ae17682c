"""A server of chat completions on this machine that fails as it is told to, and counts what it answered."""

from __future__ import annotations

import hashlib
import json
import math
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("yes", "no", "red", "a cat")


def stands_for(body: dict[str, Any]) -> str:
    """What the model of this server sees: pictures, text and how to decode."""
    seen = [body["messages"], body.get("temperature"), body.get("seed")]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def completion(body: dict[str, Any], fingerprint: str = "fp-1") -> dict[str, Any]:
    """The answer, drawn from what is asked; with log-probabilities where they are asked for."""
    draw = int(stands_for(body)[:8], 16)
    word = WORDS[draw % len(WORDS)]
    prob = 0.6 + 0.3 * (draw % 97) / 97
    top = [{"token": word, "logprob": math.log(prob)}, {"token": "other", "logprob": math.log(1 - prob)}]
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": word},
    }
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top[: body["top_logprobs"]]}]}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"] + "-2026",
        "system_fingerprint": fingerprint,
        "choices": [choice],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
    }


class FaultServer:
    """`faults` are met by the next requests, one each, in the order in which they come; then all goes well.

    429 (wait `pause` seconds), 500, cut (half a body), json (no JSON), html, other (JSON of another kind),
    stall (`stall` seconds), ok; a dict is the body of a 400, a tuple (status, body) anything else.
    """

    def __init__(self, pause: float = 0.05, stall: float = 1.5) -> None:
        self.pause, self.stall = pause, stall
        self.fingerprint = "fp-1"
        self.faults: deque[Any] = deque()
        self.always: Any = None
        """What every request meets, whatever `faults` say."""
        self.hold_after = math.inf
        """Requests beyond this many answers wait until `release`."""
        self.released = threading.Event()
        self.answered: Counter[str] = Counter()
        self.arrived: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self._lock = threading.Lock()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """On the same port as before."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:  # clients that are killed
                pass

        self._down = False
        self._http = Server(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """As if it were killed: no more connections, and those that are open are cut."""
        self._down = True
        self._http.shutdown()
        self._http.server_close()

    def reset(self, faults: Iterable[Any] = ()) -> None:
        self.faults = deque(faults)
        self.always, self.hold_after = None, math.inf
        self.answered, self.arrived, self.bodies = Counter(), [], []
        self.keys = set()
        self.released.clear()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            self.arrived.append(time.monotonic())
            self.bodies.append(body)
            self.keys.add(handler.headers.get("authorization", ""))
            fault = self.always or (self.faults.popleft() if self.faults else "ok")
            held = sum(self.answered.values()) >= self.hold_after and not self.released.is_set()
            if fault == "ok" and not held and not self._down:
                self.answered[stands_for(body)] += 1
        if held:
            self.released.wait(30)
        if self._down or held:
            self._cut(handler)
        elif fault == "ok":
            self._send(handler, 200, completion(body, self.fingerprint))
        elif fault == 429:
            self._send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": str(self.pause)})
        elif fault == 500:
            self._send(handler, 500, {"error": {"message": "out of luck"}})
        elif fault == "cut":
            self._send(handler, 200, completion(body), cut=True)
        elif fault == "json":
            self._send(handler, 200, '{"id": "1", "choices": [{"mess')
        elif fault == "html":
            self._send(handler, 200, "<!doctype html><title>Hello</title>", kind="text/html")
        elif fault == "other":
            self._send(handler, 200, {"status": "ok"})
        elif fault == "stall":
            time.sleep(self.stall)
            self._cut(handler)
        elif isinstance(fault, tuple):
            self._send(handler, *fault)
        else:
            self._send(handler, 400, fault)

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        content: Any,
        headers: dict[str, str] | None = None,
        kind: str = "application/json",
        cut: bool = False,
    ) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        handler.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._cut(handler)

    @staticmethod
    def _cut(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        try:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
