"""Headless Chromium through its debugging pipe, without a package for it."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM = CHROMIUM or shutil.which("google-chrome")
WHY = "there is no Chromium (Debian's package: chromium)"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
FLAGS += ("--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars")
PATIENCE = 60.0  # seconds for an answer, on a busy machine


class Browser:
    """One tab. `events` holds everything that it reported: console, errors, requests."""

    def __init__(self, profile: Path):
        assert CHROMIUM
        (down, self._to), (self._from, up) = os.pipe(), os.pipe()
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{down} 4>&{up}', *words]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(shell, pass_fds=(down, up), stdout=quiet, stderr=quiet)
        os.close(down)
        os.close(up)
        self._held, self._number, self.events = b"", 0, list[dict[str, Any]]()
        self._session = ""
        target = self._first_page()
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _first_page(self) -> str:
        for _ in range(100):
            targets = self.call("Target.getTargets")["targetInfos"]
            if pages := [t["targetId"] for t in targets if t["type"] == "page"]:
                return str(pages[0])
            time.sleep(0.1)
        raise TimeoutError("no page")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command of the protocol."""
        self._number += 1
        sent: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            sent["sessionId"] = self._session
        os.write(self._to, json.dumps(sent).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)
        raise TimeoutError(method)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            read = os.read(self._from, 2**20)
            assert read, "the browser ended"
            self._held += read
        first, _, self._held = self._held.partition(b"\0")
        return dict(json.loads(first))

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, page: Path, width: int, dark: bool = False, ready: str = "true") -> None:
        """Load a file in a window of this width, and wait until an expression is true."""
        metrics: dict[str, Any] = {"width": width, "height": 900, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        until = time.monotonic() + PATIENCE
        while not self.run(f"document.readyState === 'complete' && ({ready})"):
            assert time.monotonic() < until, "the page is not ready"
            time.sleep(0.05)

    def picture(self, path: Path) -> Path:
        """The whole page as a PNG file."""
        made = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))
        return path

    def problems(self) -> list[str]:
        """What the console said, errors, and requests for anything but the page's own file."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                found.append(json.dumps(params)[:400])
            elif event.get("method") == "Log.entryAdded":
                found.append(params["entry"]["text"])
            elif event.get("method") == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("data:", "file:", "blob:", "about:")):
                    found.append(f"request: {url}")
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        os.close(self._to)
        os.close(self._from)
