"""Numbers of a `Policy` that no store can keep to are refused when it is opened, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memos_core import InvalidArgument, MemOS, Policy


@pytest.mark.parametrize(
    ("name", "value"),
    [("lock_seconds", float("inf")), ("lock_seconds", -1), ("lock_seconds", "long"), ("lease_seconds", float("inf")), ("lease_seconds", 0.5)],
)  # fmt: skip
def test_a_span_that_nobody_can_wait_for_is_refused(name: str, value: Any, open_store: Callable[..., MemOS]) -> None:
    with pytest.raises(InvalidArgument, match=rf"Policy\.{name}"):
        open_store(policy=Policy(**{name: value}))
