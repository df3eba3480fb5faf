"""A bucket for tests: the server of `s3_server` in a process of its own, started once and shared."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.s3_server import BUCKET, KEY, SECRET

_NEEDED = ("s3fs", "moto", "flask", "flask_cors", "werkzeug")


@dataclass(frozen=True)
class Server:
    """Where it is. `options` are MemOS's storage_options for it, `environment` says the same by AWS's own names."""

    port: int
    process: subprocess.Popen[str]

    @property
    def options(self) -> dict[str, str]:
        return {"access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1", "endpoint": self._endpoint}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self._endpoint,
        }  # fmt: skip

    def url(self, path: Path) -> str:
        """A place for the store of a test that has a folder of its own."""
        return f"s3://{BUCKET}/{path.name}/store"

    def tell(self, word: str) -> None:
        """ "down" or "up"."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert _line(self.process.stdout) == "done"

    @property
    def _endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving() -> Iterator[Server]:
    """A server until the end of the block; skips the test where what it needs is not installed."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"the bucket of the tests needs {', '.join(missing)}: pip install -e '.[s3,dev]'")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.s3_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    try:
        yield Server(int(_line(process.stdout)), process)
    finally:
        process.kill()
        process.communicate()


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()
