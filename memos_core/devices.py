"""Where a model runs, and in which numbers."""

from __future__ import annotations

import torch

from .errors import InvalidArgument


def device_of(device: str | torch.device | None) -> torch.device:
    """A torch device, or its name; None is a GPU if there is one. Raises InvalidArgument."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidArgument(f"device: {device!r} is none: {error}") from None


def dtype_of(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A floating-point type of torch, or its name. Raises InvalidArgument."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise InvalidArgument(f"dtype: {dtype!r} is no floating-point type of torch")
    return found
