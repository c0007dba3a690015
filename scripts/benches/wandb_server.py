"""A Weights & Biases server for benches and tests: it answers, hangs from the first word, or hangs once the run has begun."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

WAYS = ("answers", "hangs", "hangs later")
ANSWERS = {  # what W&B's own process has to know before it lets a run begin
    "viewer": {"id": "x", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
    "serverInfo": {"features": []},
    "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []},
}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who has waited too long is gone."""


class Server:
    """`with Server(way) as server:` serves at `server.url`; `asked` counts what came, `steps` are those taken, `runs` the ids by name."""

    def __init__(self, way: str):
        if way not in WAYS:
            raise ValueError(f"there is no way '{way}'")
        self.way, self.asked = way, 0
        self.steps: list[int] = []
        self.runs: list[str] = []
        self._end = threading.Event()
        self._served = _Quiet(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._served.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._served.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._served.shutdown()
        self._served.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """What is sent back; does not return before the end where the server hangs."""
        self.asked += 1
        begun = path.endswith("/file_stream")
        if self.way == "hangs" or self.way == "hangs later" and begun:
            self._end.wait()
        if begun:
            files = json.loads(body).get("files") or {}
            lines = files.get("wandb-history.jsonl", {}).get("content", [])
            self.steps += [json.loads(line)["step"] for line in lines]
            return {"exitcode": None, "limits": {}}
        asked: dict[str, Any] = json.loads(body) if path == "/graphql" else {"query": ""}
        said = {name: value for name, value in ANSWERS.items() if name in asked["query"]}
        if "upsertBucket(" in asked["query"]:
            self.runs.append(asked["variables"]["name"])
            bucket = {"id": "b", "name": self.runs[-1], "project": {"name": "twobounds", "entity": {"name": "me"}}}
            said["upsertBucket"] = {"bucket": bucket, "inserted": True}
        return {"data": said}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                packed = self.headers.get("Content-Encoding") == "gzip"
                said = json.dumps(server.answer(self.path, gzip.decompress(body) if packed else body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
