"""A Weights & Biases server for benches and tests. It answers, never answers ("hangs"), or stops
answering when the run has begun ("hangs later").
"""

import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAYS = ("answers", "hangs", "hangs later")
METRICS = "/file_stream"  # where W&B sends them
ANSWERS = {  # what W&B's own process needs to know before a run begins
    "viewer": {"id": "x", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
    "serverInfo": {"features": []},
    "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []},
}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client gave up waiting
            super().handle_error(request, client_address)


class Server:
    """`with Server(way) as server:` serves at `server.url`.

    `asked`: the paths of all requests; `steps`: the steps whose metrics were accepted; `runs`: the
    ids of runs.
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

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._served.shutdown()
        self._served.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer to a request. A server that hangs gives none until it ends."""
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
            project = {"name": "twobounds", "entity": {"name": "me"}}
            bucket = {"id": "b", "name": self.runs[-1], "project": project}
            said["upsertBucket"] = {"bucket": bucket, "inserted": True}
        return {"data": said}

    @property
    def begun(self) -> bool:
        """Whether metrics have arrived."""
        return any(path.endswith(METRICS) for path in self.asked)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                packed = self.headers.get("Content-Encoding") == "gzip"
                answer = server.answer(self.path, gzip.decompress(body) if packed else body)
                said = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
