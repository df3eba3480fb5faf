"""A Ray cluster of three nodes and a bucket, on one machine, in a network namespace whose only way is loopback; one node is killed.

`unshare -rn python -m tests.ray_cluster FOLDER`. Workers on the cluster are asked for keys and values; the node of the first that begins to
build them is killed in the middle. Prints as JSON what came of it. Ray listens wherever it can, so it is given nowhere to listen.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

ADDRESS = "10.200.0.1"  # not 127.0.0.1, which Ray takes for another name of some interface
_SET_FLAGS, _SET_ADDRESS, _UP_AND_RUNNING = 0x8914, 0x8916, 0x41
_PATIENCE = 240  # seconds


def loopback() -> None:
    """Bring up the namespace's loopback, with one more address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line, _SET_FLAGS, struct.pack("16sH14s", b"lo", _UP_AND_RUNNING, b""))
        address = struct.pack("16sH2s4s8s", b"lo:0", socket.AF_INET, b"", socket.inet_aton(ADDRESS), b"")
        fcntl.ioctl(line, _SET_ADDRESS, address)


def main() -> None:
    folder = Path(sys.argv[1])
    loopback()
    from tests.buckets import serving

    with serving() as server:
        token = folder / "token"
        token.write_text("0" * 40)
        os.environ.update(
            server.environment, RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token),
            RAY_TMPDIR=str(folder),
        )  # fmt: skip
        print(json.dumps(run(server.url(folder), folder / "marker")))


def run(url: str, marker: Path) -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    from memos_core import workers
    from tests import working

    ids = working.wanted(url)
    # a GPU is for Ray a number that somebody said
    room = {"node_ip_address": ADDRESS, "object_store_memory": 80 << 20}
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**room, "num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "_system_config": quick},
    )
    nodes = [cluster.add_node(num_cpus=2, num_gpus=2, **room) for _ in range(2)]
    stop, ticks, killed = threading.Event(), list[workers.Ticked](), list[str]()
    end = time.monotonic() + _PATIENCE

    def kill() -> None:
        """The node of whoever began to build, while it is at it."""
        while not stop.is_set() and (not marker.exists() or not marker.read_text().endswith("\n")):
            time.sleep(0.05)
        killed.extend(marker.read_text().split())
        [node] = [n for n in nodes if n.node_id == killed[1]]
        cluster.remove_node(node, allow_graceful=False)

    def told(tick: workers.Ticked) -> None:
        ticks.append(tick)
        if time.monotonic() > end or (_both_live(ticks, killed) and any(t.done for t in ticks)):
            stop.set()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        worked = workers.ray(
            working.opening(url, marker), address=cluster.address, replicas=2, every=0.3, stop=stop, told=told
        )
    finally:
        stop.set()
        killer.join()
        cluster.shutdown()
    return {
        "asked": ids, "killed": killed[0], "gpus": killed[2], "restarts": [w.restarts for w in worked],
        "done": [[t.where.split(":")[1], d] for t in ticks for d in t.done], "failed": [f for t in ticks for f in t.failed],
        "living": sorted({t.worker for t in ticks if t.where.split(":")[1] != killed[0]}), "store": store(url),
    }  # fmt: skip


def _both_live(ticks: list[Any], killed: list[str]) -> bool:
    """Whether both workers ticked in processes other than the killed one, since it was killed."""
    return bool(killed) and len({t.worker for t in ticks if t.where.split(":")[1] != killed[0]}) == 2


def store(url: str) -> dict[str, Any]:
    """What is in it now."""
    from memos_core import MemOS
    from tests.words import WordsEmbedder

    with MemOS(url, embed=WordsEmbedder(), actor="ann") as memory:
        rows = memory._vault.rows("kind = 'activation' AND state = 'activated'")
        return {
            "texts": sorted(h.cube.id for h in memory.search("house", k=1_000)),
            "passages": [sorted(link.id for link in r.cube.lineage) for r in rows],
            "made": len(memory.log(verb="convert", limit=1_000)),
            "blobs": len(memory._vault.db.site.files.listed("blobs")),
            "held": len(memory._scheduler.leases.under_way()),
        }


if __name__ == "__main__":
    main()
