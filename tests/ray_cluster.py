"""A Ray cluster of three nodes on one machine, in a network namespace whose only way is loopback; one node is killed.

`unshare -rn python -m tests.ray_cluster FOLDER [bucket]`. Workers on the cluster are asked for keys and values, of a store in the folder or in
a bucket; the node of the first that begins to build them is killed in the middle. Prints as JSON what came of it. Ray listens wherever it
can, so it is given nowhere to listen.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ADDRESS = "10.200.0.1"  # not 127.0.0.1, which Ray takes for another name of some interface
_SET_FLAGS, _SET_ADDRESS, _UP_AND_RUNNING = 0x8914, 0x8916, 0x41
_PATIENCE = 150  # seconds until it is given up


def loopback() -> None:
    """Bring up the namespace's loopback, with one more address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line, _SET_FLAGS, struct.pack("16sH14s", b"lo", _UP_AND_RUNNING, b""))
        address = struct.pack("16sH2s4s8s", b"lo:0", socket.AF_INET, b"", socket.inet_aton(ADDRESS), b"")
        fcntl.ioctl(line, _SET_ADDRESS, address)


def main() -> None:
    folder = Path(sys.argv[1])
    loopback()
    token = folder / "token"
    token.write_text("0" * 40)
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_TMPDIR=str(folder)
    )
    if sys.argv[2:] == ["bucket"]:
        from tests.buckets import serving

        with serving() as server:
            os.environ.update(server.environment)
            print(json.dumps(run(server.url(folder), folder / "marker")))
    else:
        print(json.dumps(run(str(folder / "store"), folder / "marker")))


def begun() -> tuple[Any, list[Any]]:
    """A cluster: a head that runs nothing, and two nodes of which each has room for both workers. It has no more processes than it needs."""
    from ray.cluster_utils import Cluster

    room = {"node_ip_address": ADDRESS, "object_store_memory": 80 << 20, "include_log_monitor": False}
    bare = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "no_monitor": True}
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(initialize_head=True, head_node_args={**room, **bare, "_system_config": quick})
    # a GPU is for Ray a number that somebody said
    return cluster, [cluster.add_node(num_cpus=1, num_gpus=2, **room) for _ in range(2)]


def run(path: str, marker: Path) -> dict[str, Any]:
    from memos_core import workers
    from tests import working

    with ThreadPoolExecutor(1) as beside:  # starting the cluster is waiting, mostly
        asked = beside.submit(working.wanted, path)
        cluster, nodes = begun()
        ids = asked.result()
    stop, ticks, killed = threading.Event(), list[workers.Ticked](), list[str]()

    def kill() -> None:
        """The node of whoever began to build, while it is at it."""
        while not marker.exists() or not marker.read_text().endswith("\n"):
            if stop.wait(0.05):
                return
        killed.extend(marker.read_text().split())
        [node] = [n for n in nodes if n.node_id == killed[1]]
        cluster.remove_node(node, allow_graceful=False)

    def told(tick: workers.Ticked) -> None:
        ticks.append(tick)
        if _both_live(ticks, killed) and any(d.startswith("build") for t in ticks for d in t.done):
            stop.set()

    killer, end = threading.Thread(target=kill), threading.Timer(_PATIENCE, stop.set)
    killer.start()
    end.start()
    try:
        worked = workers.ray(
            working.opening(path, marker),
            address=cluster.address,
            replicas=2,
            cpus=0.5,
            every=0.3,
            stop=stop,
            told=told,
        )
    finally:
        stop.set()
        end.cancel()
        killer.join()
        cluster.shutdown()
    assert killed, f"nobody began to build in {_PATIENCE} s"
    return {
        "asked": ids, "killed": killed[0], "gpus": killed[2], "restarts": [w.restarts for w in worked],
        "done": [[t.where.split(":")[1], d] for t in ticks for d in t.done], "failed": [f for t in ticks for f in t.failed],
        "living": sorted({t.worker for t in ticks if t.where.split(":")[1] != killed[0]}), "store": store(path),
    }  # fmt: skip


def _both_live(ticks: list[Any], killed: list[str]) -> bool:
    """Whether both workers ticked in processes other than the killed one, since it was killed."""
    return bool(killed) and len({t.worker for t in ticks if t.where.split(":")[1] != killed[0]}) == 2


def store(path: str) -> dict[str, Any]:
    """What is in it now."""
    from memos_core import MemOS
    from tests.words import WordsEmbedder

    with MemOS(path, embed=WordsEmbedder(), actor="ann") as memory:
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
