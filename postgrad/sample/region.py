"""GPU memory that keeps its address while it is given back: CUDA graphs point at addresses.

The address range is reserved once; physical memory is mapped under it for as long as sampling lasts, and unmapped for training
(the driver's virtual memory calls, cuMemAddressReserve to cuMemRelease). What was in it is lost; it comes back as zeros.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

_PINNED, _DEVICE, _READ_WRITE, _RECOMMENDED = 1, 1, 3, 1


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Properties(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location", _Location),
        ("windows_handle", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class _Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


class Region:
    def __init__(self, size: int, device: torch.device) -> None:
        """Reserves addresses for `size` bytes and takes no memory yet."""
        self._driver = ctypes.CDLL("libcuda.so.1")
        self.device = device
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.synchronize(device)  # makes the device's context, where nothing has yet
        self._properties = _Properties(type=_PINNED, location=_Location(_DEVICE, index))
        grain = ctypes.c_size_t()
        self._call("cuMemGetAllocationGranularity", ctypes.byref(grain), ctypes.byref(self._properties), _RECOMMENDED)
        self.size = -(-size // grain.value) * grain.value
        self._address = ctypes.c_uint64()
        sizes = ctypes.c_size_t(self.size)
        self._call("cuMemAddressReserve", ctypes.byref(self._address), sizes, ctypes.c_size_t(0), ctypes.c_uint64(0), ctypes.c_uint64(0))  # fmt: skip
        self._handle: ctypes.c_uint64 | None = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.size,), "typestr": "|u1", "data": (self._address.value, False), "version": 2}

    def take(self) -> Tensor:
        """All of it as bytes, zero. Raises torch.OutOfMemoryError where the device has not that much."""
        if self._handle is None:
            torch.cuda.empty_cache()
            handle, size = ctypes.c_uint64(), ctypes.c_size_t(self.size)
            self._call("cuMemCreate", ctypes.byref(handle), size, ctypes.byref(self._properties), ctypes.c_uint64(0))
            self._handle = handle
            self._call("cuMemMap", self._address, size, ctypes.c_size_t(0), handle, ctypes.c_uint64(0))
            access = _Access(self._properties.location, _READ_WRITE)
            self._call("cuMemSetAccess", self._address, size, ctypes.byref(access), ctypes.c_size_t(1))
        return torch.as_tensor(self, device=self.device).zero_()

    def give_back(self) -> None:
        if self._handle is not None:
            # Nothing may still be reading it.
            torch.cuda.synchronize(self.device)
            self._call("cuMemUnmap", self._address, ctypes.c_size_t(self.size))
            self._call("cuMemRelease", self._handle)
            self._handle = None

    def close(self) -> None:
        self.give_back()
        if self._address.value:
            self._call("cuMemAddressFree", self._address, ctypes.c_size_t(self.size))
            self._address = ctypes.c_uint64(0)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code == 2:
            free = torch.cuda.mem_get_info(self.device)[0] / 2**30
            raise torch.OutOfMemoryError(
                f"the cache of sampling wants {self.size / 2**30:.1f} GiB of GPU memory and {free:.1f} GiB are free"
            )
        if code:
            raise RuntimeError(f"{name} of the CUDA driver failed with code {code}")
