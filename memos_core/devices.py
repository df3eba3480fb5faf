"""Where a model runs, and in which numbers."""

from __future__ import annotations

import torch

from .errors import InvalidArgument


def device_of(device: str | torch.device | None) -> torch.device:
    """A torch device, or its name; None is a GPU if there is one. Raises InvalidArgument."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)  # which tells whether it is there
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise InvalidArgument(f"device: {device!r} is none that is here: {str(error)[:200]}") from None
    return found


def dtype_of(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A floating-point type of torch, or its name. Raises InvalidArgument."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise InvalidArgument(f"dtype: {dtype!r} is no floating-point type of torch")
    return found
