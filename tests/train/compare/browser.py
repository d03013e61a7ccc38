"""A headless Chromium, driven through chromedriver's WebDriver protocol with the standard library.

https://www.w3.org/TR/webdriver2/ has the commands.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's key of an element reference


class Browser:
    """One window; use in a `with` block."""

    def __init__(self, *, width: int = 1000, height: int = 1400, dark: bool = False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        arguments = ["--headless=new", "--disable-gpu", f"--window-size={width},{height}"]
        if dark:
            arguments.append("--blink-settings=preferredColorScheme=0")
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # chromium refuses to sandbox for root
        capabilities = {
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        try:
            self._wait()
            answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        except BaseException:
            self.process.kill()
            raise
        self.session = f"/session/{answer['sessionId']}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._ask("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.wait(10)

    def open(self, url: str) -> None:
        self._ask("POST", f"{self.session}/url", {"url": url})

    def run(self, script: str, *args):
        """The value that the body of a function returns in the page."""
        return self._ask(
            "POST", f"{self.session}/execute/sync", {"script": script, "args": list(args)}
        )

    def click(self, selector: str, index: int = 0) -> None:
        """Clicks like a user: the element must be visible and not covered."""
        found = self._ask(
            "POST", f"{self.session}/elements", {"using": "css selector", "value": selector}
        )
        assert len(found) > index, f"{len(found)} elements match {selector}"
        self._ask("POST", f"{self.session}/element/{found[index][ELEMENT]}/click", {})

    def hover(self, selector: str) -> None:
        """Moves the mouse to the middle of an element."""
        found = self._ask(
            "POST", f"{self.session}/element", {"using": "css selector", "value": selector}
        )
        self.run("arguments[0].scrollIntoView({block: 'center'})", found)
        move = {"type": "pointerMove", "duration": 0, "origin": found, "x": 0, "y": 0}
        mouse = {"type": "pointer", "id": "mouse", "actions": [move]}
        self._ask("POST", f"{self.session}/actions", {"actions": [mouse]})

    def log(self, kind: str) -> list[dict]:
        """Entries since the last call: "browser" (console) or "performance" (network events)."""
        return self._ask("POST", f"{self.session}/se/log", {"type": kind})

    def screenshot(self, path: Path) -> None:
        Path(path).write_bytes(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                if self._ask("GET", "/status")["ready"]:
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def _ask(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error
