"""Download files so that an interruption costs nothing and a wrong byte is noticed.

Vimeo-90k is 33 GB: the libraries for verified downloads start over where a connection breaks.
"""

import hashlib
import os
import re
import time
from pathlib import Path

import requests
from tqdm import tqdm

from progdtd.errors import UserError

CHUNK = 1 << 16
ATTEMPTS = 5  # in a row that bring nothing
TIMEOUT_S = 30
PAUSE_S = 1.0  # before the second attempt, and as much longer before each that follows

MOMENTARY = (408, 429)
"""Answers that blame the request and yet may be another one in a while."""


def fetch(url: str, path: Path, sha256: str | None = None) -> None:
    """Download `url` to `path` with a progress bar, going on where an earlier attempt stopped.

    What has arrived is kept in `<path>.part` and renamed once it is complete and verified; a file
    that is already there and right is left alone.

    Args:
        url: http or https.
        path: where the file goes.
        sha256: its expected hexadecimal digest; None: only its length is checked.

    Raises:
        UserError: no such file, no connection after several attempts, or a wrong checksum or none.
    """
    if sha256 is not None:
        sha256 = sha256.strip().lower()
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UserError(f"{sha256} is no SHA-256: that has 64 hexadecimal digits.")
    if path.exists() and (sha256 is None or digest(path) == sha256):
        return
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    attempts, had = 0, 0
    while why := _attempt(url, part):
        have = part.stat().st_size if part.exists() else 0
        attempts, had = (0 if have > had else attempts + 1), have
        if attempts == ATTEMPTS:
            raise UserError(
                f"{url} could not be downloaded ({why}). The same command goes on where it stopped."
            )
        time.sleep(attempts * PAUSE_S)
    if sha256 is not None and digest(part) != sha256:
        part.unlink()
        raise UserError(
            f"{url} arrived with another checksum than {sha256}, so it was thrown away. "
            "Start the same command again; if it stays, the file there has changed."
        )
    os.replace(part, path)


def _attempt(url: str, part: Path) -> str:
    """Go on with `part`; returns why it is not whole yet, empty once it is.

    Raises:
        UserError: another attempt would not help.
    """
    try:
        return "" if _continue(url, part) else "it is not as long as the server says"
    except requests.RequestException as error:
        if isinstance(error, ValueError):
            raise UserError(f"{url} is no address ({error}).") from error
        answer = error.response
        return type(error).__name__ if answer is None else f"{answer.status_code} {answer.reason}"
    except OSError as error:
        raise UserError(
            f"{part} cannot be written ({error.strerror}). Make room; the same command "
            "goes on where it stopped."
        ) from error


def _continue(url: str, part: Path) -> bool:
    """Append what is missing of `url` to `part`; True once it is whole."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:  # nothing is left, or the file there is shorter
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if total.isdigit() and int(total) == have:
                return True
            part.unlink(missing_ok=True)
            return False
        status = response.status_code
        if 400 <= status < 500 and status not in MOMENTARY:
            raise UserError(f"{url}: {status} {response.reason}. Check the address.")
        response.raise_for_status()
        if response.status_code != 206:  # the server starts over
            have = 0
        length = response.headers.get("Content-Length")
        total_bytes = have + int(length) if length else None
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                total=total_bytes,
                initial=have,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                disable=None,
                leave=False,
            ) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total_bytes is None or part.stat().st_size == total_bytes


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
