"""Who says so: Ed25519 signatures over what is published. Knows keys; not what is signed.

An asymmetric key, because a reader who never met the writer can check it and cannot forge it, which a shared secret does not give. A
private key is a PEM file (PKCS8), as OpenSSL makes and reads it; a public one is written as 64 hexadecimal digits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import DumpRefused, InvalidArgument, MissingPackage


def new_key(path: str | os.PathLike[str]) -> str:
    """Make a key and write it to a new file that only its owner may read; its public half."""
    keys, serialization = _ed25519()
    made = keys.Ed25519PrivateKey.generate()
    text = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidArgument(f"key: {os.fspath(path)}: {error.strerror or error}") from None
    with os.fdopen(handle, "wb") as file:
        file.write(text)
    return _public(made)


def public_key(path: str | os.PathLike[str]) -> str:
    """The public half of a key in a file."""
    return _public(_read(path))


def signed(body: bytes, key: str | os.PathLike[str]) -> dict[str, str]:
    """A signature by the key in a file."""
    private = _read(key)
    return {"key": _public(private), "value": private.sign(body).hex()}


def require_signed(body: bytes, signature: Mapping[str, str], where: str) -> None:
    """Raise DumpRefused unless whoever is named signed just this."""
    keys, _ = _ed25519()
    from cryptography.exceptions import InvalidSignature

    try:
        public = keys.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["key"]))
        public.verify(bytes.fromhex(signature["value"]), body)
    except (InvalidSignature, ValueError):
        raise DumpRefused(f"{where}: its signature is not by the key that it names") from None


def _read(path: str | os.PathLike[str]) -> Any:
    keys, serialization = _ed25519()
    try:
        found = serialization.load_pem_private_key(Path(path).read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgument(f"key: {os.fspath(path)} is no private key: {error}") from None
    if not isinstance(found, keys.Ed25519PrivateKey):
        raise InvalidArgument(f"key: {os.fspath(path)} is no Ed25519 key")
    return found


def _public(private: Any) -> str:
    _, serialization = _ed25519()
    raw: bytes = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw.hex()


def _ed25519() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingPackage("signatures need cryptography: pip install 'memos-adapters[exchange]'") from None
    return ed25519, serialization
