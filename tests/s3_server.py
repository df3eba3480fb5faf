"""A server of S3's protocol on loopback: `python -m tests.s3_server`. Prints its port, and serves the bucket "memories" until it is killed.

Moto keeps the objects; here requests are answered one at a time, since it does not check a condition and write in one step, and only
with the one access key. The lines "down" and "up" on stdin take it off the port and back; it says "done". What lies below "careless/"
is written whatever the condition; of the writes below "forgetful/" each first answer about a turn is lost.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterable
from typing import Any

KEY, SECRET, BUCKET = "tests", "secret-of-the-tests", "memories"
_ERROR = "<Error><Code>{}</Code><Message>as the tests want it</Message></Error>"


def main() -> None:
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()
    written: set[str] = set()

    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        key = re.search(r"Credential=([^/]*)/", environ.get("HTTP_AUTHORIZATION", ""))
        if key is None or key[1] != KEY:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return refused("403 Forbidden", "InvalidAccessKeyId", start)
        if "/careless/" in path:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)
        with one_at_a_time:
            found = list(application(environ, start))
            if "/forgetful/.turns/write" in path and environ["REQUEST_METHOD"] == "PUT" and path not in written:
                written.add(path)
                return refused("503 Service Unavailable", "ServiceUnavailable", start)
            return found

    def refused(status: str, code: str, start: Any) -> list[bytes]:
        body = _ERROR.format(code).encode()
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def serve(port: int) -> Any:
        server = make_server("127.0.0.1", port, answer, threaded=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    server = serve(0)
    port = server.server_port
    options = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **options).create_bucket(Bucket=BUCKET)
    print(port, flush=True)
    for line in sys.stdin:
        if line == "down\n":
            server.shutdown()
            server.server_close()
        else:
            server = serve(port)
        print("done", flush=True)


if __name__ == "__main__":
    main()
