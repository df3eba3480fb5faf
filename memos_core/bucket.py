"""A store in a bucket of object storage: its files, and whose turn it is to write. With `sites`, all that knows fsspec.

Any store that speaks S3's protocol and keeps to the conditions of a write (If-None-Match, If-Match) will do; one that ignores them is
refused at opening, because writes would be lost on it without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from .disk import fault
from .errors import Conflict, InvalidArgument, MissingPackage, StoreError, StoreUnavailable
from .files import Files, Listed
from .turns import Entry, LeasedTurn, Turn
from .types import Policy

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[^/?#\0]+/)*[^/?#\0]+)/*")
_OPTIONS = ("access_key_id", "secret_access_key", "session_token", "region", "endpoint")
_TRIES = 4  # how often a request is tried, the later times after a wait that grows
_CONNECT, _ANSWER = 5, 30  # seconds that a connection and an answer may take
_MANY = 1_000  # objects that one request deletes
_OTHERS = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")  # somebody else wrote


class Bucket:
    """A store under a prefix of a bucket.

    storage_options: access_key_id, secret_access_key, session_token, region, endpoint, each also with "aws_" before it. What is not
        said is taken as usual: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION,
        AWS_ENDPOINT_URL, the profile, the machine's role.

    Raises InvalidArgument for a URL or an option that is none, MissingPackage without the extra `s3`.
    """

    is_shared = True

    def __init__(self, url: str, policy: Policy = Policy(), storage_options: Mapping[str, str] | None = None) -> None:
        found = _URL.fullmatch(url)
        if found is None or ".." in found[2].split("/"):
            raise InvalidArgument(f"path: s3://BUCKET/PATH is needed, not {url!r}")
        self._bucket, self._prefix = found[1], found[2]
        self.path = f"s3://{self._bucket}/{self._prefix}"
        self._options = _checked(storage_options)
        self._policy = policy
        self._objects = _Objects(self._bucket, self.path, _file_system(self._options))
        self.files: Files = _BucketFiles(self._objects, self._prefix)

    def claim(self) -> None:
        """See that the bucket is there, may be written, and keeps to the conditions of a write."""
        key = f"{self._prefix}/.turns/probe"
        never = Entry("", '"00000000000000000000000000000000"')
        self._objects.put(key, b"", None)  # unless another process did it before
        if self._objects.put(key, b"", None) is not None or self._objects.put(key, b"", never) is not None:
            raise StoreUnavailable(
                f"{self.path}: this object storage ignores the conditions of a write (If-None-Match, If-Match), so writers could not "
                "take turns and memories would be lost: use one that keeps to them"
            )

    def holds_store(self) -> bool:
        """Whether there is a store."""
        return bool(self._objects.names(f"{self._prefix}/meta.lance/", most=1))

    def strangers(self) -> list[str]:
        """What lies there that is none of ours."""
        return [
            n
            for n in self._objects.folders(f"{self._prefix}/")
            if n[0] != "." and not n.endswith(".lance") and n != "audit"
        ]

    def connection(self) -> dict[str, Any]:
        """What the database has to be told to open it."""
        limits = {"client_max_retries": str(_TRIES - 1), "client_retry_timeout": str(_ANSWER),
                  "connect_timeout": f"{_CONNECT}s", "timeout": f"{_ANSWER}s"}  # fmt: skip
        # plain http is for endpoints that say so themselves
        options = {**limits, "allow_http": "true", **{f"aws_{n}": v for n, v in self._options.items()}}
        return {"uri": self.path, "storage_options": options}

    def turn(self, name: str) -> Turn:
        """A lease, which lapses `Policy.lease_seconds` after a killed process renewed it last."""
        return LeasedTurn(_Register(self._objects, f"{self._prefix}/.turns/{name}"), self._policy.lease_seconds)

    def flush(self, table: str) -> None:
        """Nothing: what object storage acknowledged is stored."""

    def fault(self, error: Exception, table: str) -> StoreError | Conflict:
        """The error to raise for one that the database raised while it worked on a table."""
        return fault(error, self.path, table)


class _Objects:
    """Requests to one bucket, bounded in time; what goes wrong comes out as StoreUnavailable, or FileNotFoundError."""

    def __init__(self, bucket: str, path: str, system: Any) -> None:
        self.bucket = bucket
        self._path = path
        self._system = system

    def put(self, key: str, data: bytes, before: Entry | None) -> str | None:
        """Write an object if it is in a state, or if there is none; its tag. None if it is not."""
        condition = {"IfNoneMatch": "*"} if before is None else {"IfMatch": before.tag}
        with self.reached():
            try:
                return str(self._call("put_object", Key=key, Body=data, **condition)["ETag"])
            except OSError as error:
                if _code(error) in _OTHERS or (before is not None and _code(error) == "NoSuchKey"):
                    return None
                raise

    def get(self, key: str) -> tuple[bytes, str, float] | None:
        """An object's bytes, its tag, and its age in seconds by the clock of the store; None if there is none."""
        from fsspec.asyn import sync

        async def fetched() -> tuple[Any, bytes]:
            answer = await self._system._call_s3("get_object", Bucket=self.bucket, Key=key)
            async with answer["Body"] as body:
                return answer, await body.read()

        with self.reached():
            try:
                answer, data = sync(self._system.loop, fetched)
            except FileNotFoundError:
                return None
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return data, str(answer["ETag"]), (now - answer["LastModified"]).total_seconds()

    def names(self, prefix: str, most: int = _MANY) -> list[str]:
        """Keys that begin with a prefix."""
        with self.reached():
            found = self._call("list_objects_v2", Prefix=prefix, MaxKeys=most)
        return [o["Key"] for o in found.get("Contents", ())]

    def folders(self, prefix: str) -> list[str]:
        """What lies right below a prefix."""
        with self.reached():
            found = self._call("list_objects_v2", Prefix=prefix, Delimiter="/")
        keys = [o["Key"] for o in found.get("Contents", ())] + [o["Prefix"] for o in found.get("CommonPrefixes", ())]
        return [k[len(prefix) :].rstrip("/") for k in keys]

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is no error."""
        for start in range(0, len(keys), _MANY):
            some = [{"Key": k} for k in keys[start : start + _MANY]]
            with self.reached():
                self._call("delete_objects", Delete={"Objects": some, "Quiet": True})

    @contextmanager
    def reached(self) -> Iterator[Any]:
        """The file system; what it raises comes out as ours, naming the store."""
        from botocore.exceptions import BotoCoreError, NoCredentialsError

        try:
            yield self._system
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise StoreUnavailable(f"{self._path}: there is no bucket {self.bucket!r}: make it first") from error
            raise
        except (PermissionError, NoCredentialsError) as error:
            raise StoreUnavailable(
                f"{self._path}: the credentials were refused: {_code(error)} {_brief(error)}. They come from storage_options, or from AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (OSError, BotoCoreError) as error:
            raise StoreUnavailable(
                f"{self._path} cannot be reached: {_brief(error)}. What was acknowledged before is stored"
            ) from error
        except ValueError as error:  # of an endpoint that is no URL
            raise InvalidArgument(
                f"storage_options: {self._path} cannot be asked for: {_brief(error)}: they, or AWS_ENDPOINT_URL, say where it is"
            ) from error

    def _call(self, verb: str, **options: Any) -> Any:
        return self._system.call_s3(verb, Bucket=self.bucket, **options)


class _Register:
    """A `turns.Register` that is an object."""

    def __init__(self, objects: _Objects, key: str) -> None:
        self.name = f"s3://{objects.bucket}/{key}"
        self._objects = objects
        self._key = key

    def read(self) -> Entry | None:
        found = self._objects.get(self._key)
        return None if found is None else Entry(found[0].decode(errors="replace"), found[1], found[2])

    def write(self, said: str, before: Entry | None) -> Entry | None:
        tag = self._objects.put(self._key, said.encode(), before)
        if tag is not None:
            return Entry(said, tag)
        now = self.read()  # an answer may be lost on the way: then the second try meets what the first one wrote
        return now if now is not None and now.said == said else None


class _BucketFiles:
    """The `files.Files` of a store in a bucket."""

    def __init__(self, objects: _Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix
        self._root = f"{objects.bucket}/{prefix}"

    def where(self, name: str) -> str:
        return f"s3://{self._root}/{name}"

    def local(self, name: str) -> None:
        return None

    def has(self, name: str) -> bool:
        with self._objects.reached() as system:
            return bool(system.exists(f"{self._root}/{name}"))

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytearray:
        end = None if size is None else start + size
        with self._objects.reached() as system:
            try:
                return bytearray(
                    system.cat_file(f"{self._root}/{name}", start=start or None, end=end) if size != 0 else b""
                )
            except OSError as error:
                if _code(error) == "InvalidRange":  # it ends before
                    return bytearray()
                raise

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        with (
            self._objects.reached() as system
        ):  # whole or not at all: parts of an upload are joined by its last request
            system.pipe_file(f"{self._root}/{name}", parts[0] if len(parts) == 1 else b"".join(parts))

    def remove(self, names: Iterable[str]) -> None:
        self._objects.delete([f"{self._prefix}/{name}" for name in names])

    def listed(self, folder: str) -> dict[str, Listed]:
        with self._objects.reached() as system:
            found = system.find(f"{self._root}/{folder}", detail=True, refresh=True)
        return {
            path.rsplit("/", 1)[-1]: Listed(info["size"], info["LastModified"].timestamp())
            for path, info in found.items()
        }

    def sweep(self, folder: str, wanted: Iterable[str]) -> int:
        keep = set(wanted)
        gone = [f"{folder}/{name}" for name in self.listed(folder) if name not in keep]
        self.remove(gone)
        return len(gone)


def _file_system(options: Mapping[str, str]) -> Any:
    try:
        import s3fs
    except ImportError:
        raise MissingPackage("a store in a bucket needs s3fs: pip install 'memos-adapters[s3]'") from None
    names = {
        "access_key_id": "key",
        "secret_access_key": "secret",
        "session_token": "token",
        "endpoint": "endpoint_url",
    }
    given: dict[str, Any] = {names[n]: v for n, v in options.items() if n in names}
    if "region" in options:
        given["client_kwargs"] = {"region_name": options["region"]}
    limits = {
        "connect_timeout": _CONNECT,
        "read_timeout": _ANSWER,
        "retries": {"total_max_attempts": _TRIES, "mode": "standard"},
    }
    return s3fs.S3FileSystem(**given, config_kwargs=limits, use_listings_cache=False, skip_instance_cache=True)


def _checked(options: Mapping[str, str] | None) -> dict[str, str]:
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(v, str) and v for v in options.values()):
        raise InvalidArgument("storage_options: a mapping of names to strings is needed")
    found = {str(name).removeprefix("aws_"): value for name, value in options.items()}
    if unknown := sorted(set(found) - set(_OPTIONS)):
        raise InvalidArgument(f"storage_options: {unknown[0]!r} is none of {', '.join(_OPTIONS)}")
    return found


def _code(error: BaseException) -> str:
    """S3's own name for what went wrong."""
    response = getattr(error.__cause__ or error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
