"""A Weights & Biases server for benches and tests: it answers, hangs from the first word, or hangs
once the run has begun.
"""

import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

WAYS = ("answers", "hangs", "hangs later")
METRICS = "/file_stream"  # where W&B sends them
ANSWERS = {  # what W&B's own process has to know before it lets a run begin
    "viewer": {"id": "x", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
    "serverInfo": {"features": []},
    "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []},
}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who has waited too long is gone
            super().handle_error(request, client_address)


class Server:
    """`with Server(way) as server:` serves at `server.url`.

    `asked` are the paths of all that came, answered or not, `steps` those that were taken, `runs`
    the ids that were announced.
    """

    def __init__(self, way: str):
        if way not in WAYS:
            raise ValueError(f"there is no way '{way}'")
        self.way = way
        self.asked: list[str] = []
        self.steps: list[int] = []
        self.runs: list[str] = []
        self._end = threading.Event()
        self._served = _Quiet(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._served.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._served.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._served.shutdown()
        self._served.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """What is sent back; where the server hangs nothing is, until it ends."""
        self.asked.append(path)
        if self.way == "hangs" or self.way == "hangs later" and self.begun:
            self._end.wait()
            raise ConnectionAbortedError
        if path.endswith(METRICS):
            files = json.loads(body).get("files") or {}
            lines = files.get("wandb-history.jsonl", {}).get("content", [])
            self.steps += [json.loads(line)["step"] for line in lines]
            return {"exitcode": None, "limits": {}}
        asked: dict[str, Any] = json.loads(body) if path == "/graphql" else {"query": ""}
        said = {name: value for name, value in ANSWERS.items() if name in asked["query"]}
        if "upsertBucket(" in asked["query"]:
            self.runs.append(asked["variables"]["name"])
            bucket = {
                "id": "b",
                "name": self.runs[-1],
                "project": {"name": "twobounds", "entity": {"name": "me"}},
            }
            said["upsertBucket"] = {"bucket": bucket, "inserted": True}
        return {"data": said}

    @property
    def begun(self) -> bool:
        """Whether metrics have come."""
        return any(path.endswith(METRICS) for path in self.asked)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                packed = self.headers.get("Content-Encoding") == "gzip"
                said = json.dumps(
                    server.answer(self.path, gzip.decompress(body) if packed else body)
                ).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
