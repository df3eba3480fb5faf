"""A server of S3's protocol on loopback: `python -m tests.s3_server`. Prints its port, makes the bucket "memories", serves until killed.

Moto keeps the objects; here requests are answered one at a time, since it does not check a condition and write in one step, and only
with the one access key.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable
from typing import Any

KEY, SECRET, BUCKET = "tests", "secret-of-the-tests", "memories"
_REFUSED = b"<Error><Code>InvalidAccessKeyId</Code><Message>The access key does not exist in our records.</Message></Error>"


def main() -> None:
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        key = re.search(r"Credential=([^/]*)/", environ.get("HTTP_AUTHORIZATION", ""))
        if key is None or key[1] != KEY:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(_REFUSED)))])
            return [_REFUSED]
        with one_at_a_time:
            return list(application(environ, start))

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.server_port}", **options).create_bucket(Bucket=BUCKET)
    print(server.server_port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
