"""Shows a page on this machine, to nobody else."""

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from progdtd.errors import UserError

TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
}
"""What browsers insist on, and not every machine knows."""


class Handler(SimpleHTTPRequestHandler):
    """Files of the page, isolated from other origins, which lets its engine use several threads."""

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        return TYPES.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of every file."""


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a page on 127.0.0.1, at a free port if none is given.

    Raises:
        UserError: the port is taken, or is none.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise UserError(f"Port {port} of 127.0.0.1 cannot be used ({error}).") from error
