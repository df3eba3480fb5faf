"""Workers on Ray: a node that is killed in the middle of a build; and what is refused before anything runs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from memos_core import InvalidArgument, MissingPackage, WorkersUnavailable, workers
from memos_core.workers import Opening

ROOT = Path(__file__).parent.parent
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install -e '.[ray]'")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short path: Ray makes sockets in it."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as found:
        yield Path(found)


@needs_ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", [[], pytest.param(["bucket"], marks=pytest.mark.slow)], ids=["folder", "bucket"])
def test_what_a_killed_node_was_building_is_built_once_by_another_node(folder: Path, where: list[str]) -> None:
    alone = [shutil.which("unshare") or "unshare", "-rn"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here, and Ray would listen beyond loopback")
    run = subprocess.Popen(
        [*alone, sys.executable, "-W", "ignore", "-m", "tests.ray_cluster", str(folder), *where],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, complained = run.communicate(timeout=240)
    finally:
        with suppress(ProcessLookupError):  # as it should be: nothing of Ray's is left
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 0, complained[-3_000:]
    found = json.loads(said.splitlines()[-1])
    [where] = [process for process, did in found["done"] if did.startswith("build activation")]
    assert found["gpus"] == "1"
    assert where != found["killed"]
    assert found["failed"] == []
    assert found["living"] == [0, 1]
    assert sorted(found["restarts"]) == [0, 1]
    asked = sorted(found["asked"])
    assert found["store"] == {"texts": asked, "passages": [asked], "made": 1, "blobs": 1, "held": 0}


@needs_ray
def test_no_ray_at_an_address_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(WorkersUnavailable, match="no Ray at 127"):
            workers.ray(Opening("nowhere"), address=f"127.0.0.1:{taken.getsockname()[1]}", replicas=1)


@needs_ray
@pytest.mark.parametrize("host", [".", "a" * 64])
def test_what_can_be_nobodys_name_is_no_address_of_ray(host: str) -> None:
    with pytest.raises(WorkersUnavailable, match="no Ray at"):
        workers.ray(Opening("nowhere"), address=f"{host}:6379", replicas=1)


@needs_ray
def test_what_is_no_ray_is_told_from_one() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with pytest.raises(WorkersUnavailable, match="is no Ray head"):
            workers.ray(Opening("nowhere"), address=f"127.0.0.1:{server.server_port}", replicas=1)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@needs_ray
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("address", wrong) for wrong in ("somewhere", "host:port", "127.0.0.1:99999", "127.0.0.1:0", "127.0.0.1:²", 6379)),
        ("replicas", 0), ("every", 0), ("cpus", -1), ("cpus", float("nan")), ("gpus", -1), ("gpus", 1.5), ("gpus", "one"),
    ],
)  # fmt: skip
def test_an_argument_that_is_none_is_refused(name: str, value: Any) -> None:
    given = {"address": "127.0.0.1:1", "replicas": 1, name: value}
    with pytest.raises(InvalidArgument, match=name):
        workers.ray(Opening("nowhere"), **given)


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(MissingPackage, match=r"memos-adapters\[ray\]"):
        workers.ray(Opening("nowhere"), address="127.0.0.1:1", replicas=1)


def test_a_worker_takes_a_gpu_where_there_are_any_and_no_more_than_there_are() -> None:
    eight, two = [{"CPU": 4.0}, {"CPU": 4.0}], [{"CPU": 8.0, "GPU": 2.0}]
    assert workers.placed(eight, 8, 1.0, None) == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert workers.placed([{}, *two], 2, 1.0, None) == {"num_cpus": 1.0, "num_gpus": 1.0}
    assert workers.placed(two, 4, 1.0, 0.5) == {"num_cpus": 1.0, "num_gpus": 0.5}
    assert workers.placed(two, 4, 1.0, 0.0) == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert workers.placed([{"CPU": 1.0}], 10, 0.1, None) == {"num_cpus": 0.1, "num_gpus": 0.0}
    assert workers.placed(two, 99, 0.0, 0.0) == {"num_cpus": 0.0, "num_gpus": 0.0}
    with pytest.raises(InvalidArgument, match=r"4 workers of 1 CPU and 1 GPU each .* which is 2"):
        workers.placed(two, 4, 1.0, None)
    with pytest.raises(InvalidArgument, match=r"9 workers of 1 CPU each .* which is 8"):
        workers.placed(eight, 9, 1.0, None)


def test_what_no_one_node_has_is_not_waited_for_though_all_together_have_it() -> None:
    with pytest.raises(InvalidArgument, match=r"1 workers of 2 GPU each .* which is 0"):
        workers.placed([{"CPU": 8.0, "GPU": 1.0}] * 2, 1, 0.0, 2.0)
