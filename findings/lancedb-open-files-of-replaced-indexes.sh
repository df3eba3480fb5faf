#!/usr/bin/env bash
# LanceDB bounds its index cache by bytes alone. A full-text index that is replaced stays in the cache, and with it its file stays open, also
# after the file is removed from the disk. Expected: a table that holds one index at a time holds a steady number of files open. Seen: the
# number grows with each replacement that was searched, until the session ends, whatever small size the cache is given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lancedb==0.40.0 pyarrow==26.0.1
"$folder/venv/bin/python" - "$folder/store" <<'PY'
import os
import sys
from datetime import timedelta
from importlib.metadata import version

import lancedb
import pyarrow as pa
from lancedb.index import FTS

print("lancedb", version("lancedb"), "pyarrow", version("pyarrow"))
ROUNDS = 12


def open_files(path: str) -> tuple[int, int]:
    """Files of the store that are open, and those of them that are not on the disk any more."""
    links = [f"/proc/self/fd/{one}" for one in os.listdir("/proc/self/fd")]
    found = [os.readlink(one) for one in links if os.path.islink(one)]
    ours = [one for one in found if path in one]
    return len(ours), sum(one.endswith("(deleted)") for one in ours)


session = lancedb.Session(index_cache_size_bytes=64 * 2**20, metadata_cache_size_bytes=16 * 2**20)
db = lancedb.connect(sys.argv[1], session=session, read_consistency_interval=timedelta(0))
table = db.create_table("notes", schema=pa.schema([("id", pa.int64()), ("text", pa.string())]))
seen = []
for turn in range(ROUNDS):
    table.add([{"id": turn * 100 + n, "text": f"tea with lemon {turn} {n}"} for n in range(100)])
    table.create_index("text", config=FTS(), replace=True)
    table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
    assert table.search("lemon", query_type="fts").limit(3).to_list()
    seen.append(open_files(sys.argv[1]))
print("open files of the table, and of them removed from the disk, after each replacement:", seen)
growth = seen[-1][0] - seen[1][0]
assert growth >= ROUNDS // 2, f"the number of open files no longer grows: {seen}"
assert seen[-1][1] > 0, f"no removed file is held open any more: {seen}"
print(f"as found: {growth} more files open after {ROUNDS - 2} more replacements of one index")
PY
