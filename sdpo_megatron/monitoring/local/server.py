"""Serves the page on this machine, with the steps as they come."""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.exit_codes import DONE
from sdpo_megatron.monitoring.local.content import data, page

__all__ = ["main", "serve"]

ADDRESS = "127.0.0.1"


def main(arguments: Sequence[str]) -> int:
    """``sdpo dashboard RUN``."""
    parser = argparse.ArgumentParser(
        prog="sdpo dashboard",
        description="Plots of a run, live or finished, in a browser on this machine.",
    )
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--port", type=int, default=0, help="to listen on; 0: a free one")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the page, serve nothing")
    parsed = parser.parse_args(arguments)
    if parsed.save:
        parsed.save.write_text(page(parsed.run), encoding="utf-8")
        print(f"{parsed.save} holds the page; it needs no network")
        return DONE
    data(parsed.run)  # a wrong folder is told at once
    with serve(parsed.run, parsed.port) as server:
        url = f"http://{ADDRESS}:{server.server_port}/"
        print(f"{parsed.run}: {url} (Ctrl-C ends it)", flush=True)
        if not parsed.no_browser:
            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("", file=sys.stderr)
    return DONE


def serve(run: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server that is bound, and not running yet.

    Raises:
        ConfigError: The port is taken.
    """

    class Handler(_Handler):
        folder = run

    try:
        return ThreadingHTTPServer((ADDRESS, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: {error.strerror}; choose another, or 0 for a free one"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    """``/`` is the page and ``/data.json`` what changes of it."""

    folder: Path

    def do_GET(self) -> None:
        try:
            if self.path == "/":
                self._answer(200, "text/html; charset=utf-8", page(self.folder))
            elif self.path == "/data.json":
                self._answer(200, "application/json", json.dumps(data(self.folder)))
            else:
                self._answer(404, "text/plain", "there are / and /data.json\n")
        except ConfigError as error:  # the folder was removed meanwhile, say
            self._answer(500, "text/plain", f"{error}\n")

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a page that refreshes would fill the terminal."""
