"""A page of Chromium with transformers.js, served on this machine alone."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("page.html")
MINUTES_10 = 600_000


class _Handler(SimpleHTTPRequestHandler):
    """Serves the page, the library, the package and the images."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, *arguments: Any, modules: Path, folder: Path, **named: Any) -> None:
        self._places = {"/modules/": modules, "/models/": folder, "/job/": folder, "/": PAGE.parent}
        super().__init__(*arguments, **named)

    def translate_path(self, path: str) -> str:
        """The file of an address; nothing outside the places is served."""
        path = path.partition("?")[0]
        start = next(start for start in self._places if path.startswith(start))
        root = self._places[start].resolve()
        found = (root / path.removeprefix(start)).resolve()
        return str(found if found.is_relative_to(root) else root / "none")

    def log_message(self, *_: object) -> None:
        """Print nothing for each request."""


def in_chromium(job: dict[str, Any], folder: Path, modules: Path, program: str | None) -> dict[str, Any]:
    """Run a job in a page. Addresses of other machines are refused, so that nothing comes from a network."""
    from playwright.sync_api import sync_playwright

    handler = partial(_Handler, modules=modules, folder=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    home = f"http://127.0.0.1:{server.server_port}/"
    own = job | {
        "tensors": f"/job/{job['tensors']}",
        "images": [f"{home}job/{name}" for name in job["images"]],
        "session": {},
    }
    outside: list[str] = []

    def only_here(route: Any) -> None:
        address = route.request.url
        if address.startswith((home, "blob:", "data:")):
            route.continue_()
        else:
            outside.append(address)
            route.abort()

    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page()
            page.set_default_timeout(MINUTES_10)
            page.route("**/*", only_here)
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(f"{home}page.html")
            try:
                page.wait_for_function("window.measure !== undefined", timeout=60_000)
                found: dict[str, Any] = page.evaluate("job => window.measure(job)", own)
            except Exception as error:
                raise RuntimeError(f"the page failed: {error}; it said {said[-5:]}; refused: {outside}") from error
            found["runtime"] = f"Chromium {browser.version}"
            browser.close()
    finally:
        server.shutdown()
    if outside:
        raise RuntimeError(f"the page asked for {outside[0]}, which is not on this machine")
    return found
