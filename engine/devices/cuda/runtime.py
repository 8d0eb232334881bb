"""What the CUDA device asks of CUDA: memory, kernels, launches in order, graphs of them.

All of it goes through `Runtime`, so that what is launched can be recorded, or carried out elsewhere, where there is no GPU.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from engine.devices.cuda import probe
from engine.devices.cuda.prepare import COMMAND, prepare
from engine.errors import DeviceError
from engine.kernels import grid

Kind = tuple[str, str]
"""A kernel's name and its number type."""


class Graph(Protocol):
    """Launches that were recorded, to be made again together."""

    def launch(self) -> None: ...


class Runtime(Protocol):
    """One GPU with one queue: whatever is asked is done in that order, but for what is sent beside it. Pointers are whole numbers.

    DeviceError where something fails, MemoryError where there is no room.

    arch, processors   compute capability (90 for 9.0), multiprocessors
    stream             the handle of the queue, or of the graph that is being recorded
    """

    arch: int
    processors: int

    @property
    def stream(self) -> int: ...

    def unused(self) -> int:
        """Bytes of memory that are free."""
        ...

    def allocate(self, nbytes: int) -> int: ...

    def free(self, pointer: int) -> None: ...

    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes of the host that the GPU can copy from while other things go on."""
        ...

    def write(self, pointer: int, array: np.ndarray) -> None:
        """Copy a C-contiguous array to the GPU; it may be changed as soon as this returns."""
        ...

    def send(self, pointer: int, array: np.ndarray) -> None:
        """Copy pinned bytes to the GPU beside the queue, after what was sent before; they may be changed when a later `mark` is passed."""
        ...

    def mark(self) -> Any:
        """The moment when all that was sent so far is there."""
        ...

    def heed(self, mark: Any) -> None:
        """Let what is asked of the queue from now on begin after that moment."""
        ...

    def settle(self, mark: Any) -> None:
        """Wait for that moment."""
        ...

    def read(self, pointer: int, array: np.ndarray) -> None:
        """Wait for everything before, and fill a C-contiguous array."""
        ...

    def load(self, kernels: Collection[Kind]) -> Mapping[Kind, Any]:
        """Kernels of the library, ready to be launched."""
        ...

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: tuple[int, ...]) -> None: ...

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Record what `enqueue` launches; nothing of it is done yet."""
        ...

    def wait(self, what: str) -> None:
        """Until everything is done. Errors of launches show up here at the latest; `what` was under way."""
        ...


class Room:
    """Pieces of a GPU's memory, all given back when this is forgotten."""

    def __init__(self, runtime: Runtime):
        self._runtime, self._pieces = runtime, list[int]()
        weakref.finalize(self, _give_back, runtime, self._pieces).atexit = False

    def take(self, nbytes: int) -> int:
        """The address of a new piece. Raises MemoryError where there is no room for it."""
        self._pieces.append(self._runtime.allocate(nbytes))
        return self._pieces[-1]

    def hold(self, array: np.ndarray) -> int:
        """The address of a copy of an array."""
        at = self.take(array.nbytes)
        self._runtime.write(at, array)
        return at


def _give_back(runtime: Runtime, pieces: list[int]) -> None:
    for piece in pieces:
        with suppress(DeviceError):     # where the GPU has failed, nothing is left to give back
            runtime.free(piece)


def _unpin(driver: Any, beside: Any, pointer: int) -> None:
    with suppress(Exception):       # where the GPU has failed, no copy is under way
        beside.sync()
    driver.cuMemFreeHost(pointer)


@contextmanager
def failing(what: str) -> Iterator[None]:
    """Tell what went wrong by a DeviceError: CUDA's packages raise several kinds."""
    try:
        yield
    except Exception as error:
        raise DeviceError(f"{what}: {error}") from error


class Cuda:
    """The GPU at hand, through `cuda.core`. Made only after the probe has found one."""

    def __init__(self, gpu: probe.Gpu):
        self._core: Any = import_module("cuda.core")
        self._driver: Any = import_module("cuda.bindings.driver")
        self._thread = threading.local()
        self._device = self._core.Device(gpu.index)
        self._here()
        self.arch, self.processors = gpu.capability, int(self._device.properties.multiprocessor_count)
        self._queue = self._device.create_stream()
        self._target = self._queue      # a graph builder, while a graph is recorded
        self._beside = self._device.create_stream()
        self._config = cache(lambda blocks, threads: self._core.LaunchConfig(grid=blocks, block=threads))

    def _here(self) -> None:
        """Let this thread speak to the GPU."""
        if not hasattr(self._thread, "there"):
            self._device.set_current()
            self._thread.there = True

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver. Raises DeviceError with its name and the error's, MemoryError where it had no room."""
        self._here()
        status, *found = getattr(self._driver, name)(*arguments)
        if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
            raise MemoryError(f"{name} failed: {status.name}")
        if int(status) != 0:
            raise DeviceError(f"{name} failed: {status.name}")
        return found[0] if len(found) == 1 else found

    @property
    def stream(self) -> int:
        return int(getattr(self._target, "stream", self._target).handle)

    # ---------------------------------------------------------------- memory

    def unused(self) -> int:
        return int(self._ask("cuMemGetInfo")[0])

    def allocate(self, nbytes: int) -> int:
        for attempt in range(2):
            try:
                return int(self._ask("cuMemAlloc", max(nbytes, 1)))
            except MemoryError:
                if attempt:
                    raise MemoryError(f"the GPU has no room for {nbytes / 1e6:,.0f} MB: {self.unused() / 1e6:,.0f} MB are free") from None
                gc.collect()        # an earlier run's memory may only wait to be given back
        raise AssertionError

    def free(self, pointer: int) -> None:
        self._ask("cuMemFree", pointer)

    def pinned(self, nbytes: int) -> np.ndarray:
        pointer = int(self._ask("cuMemHostAlloc", max(nbytes, 1), 0))
        room = (ctypes.c_uint8 * max(nbytes, 1)).from_address(pointer)
        weakref.finalize(room, _unpin, self._driver, self._beside, pointer).atexit = False
        return np.ctypeslib.as_array(room)[:nbytes]

    def write(self, pointer: int, array: np.ndarray) -> None:
        if array.nbytes:
            self._ask("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, self._queue.handle)
            self.wait("a copy to the GPU")

    def send(self, pointer: int, array: np.ndarray) -> None:
        if array.nbytes:
            self._ask("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, self._beside.handle)

    def mark(self) -> Any:
        self._here()
        with failing("a copy to the GPU cannot be followed"):
            return self._beside.record()

    def heed(self, mark: Any) -> None:
        self._here()
        with failing("the GPU cannot wait for a copy to it"):
            self._queue.wait(mark)

    def settle(self, mark: Any) -> None:
        self._here()
        with failing("the GPU failed during a copy to it"):
            mark.sync()

    def read(self, pointer: int, array: np.ndarray) -> None:
        if array.nbytes:
            self._ask("cuMemcpyDtoHAsync", array.ctypes.data, pointer, array.nbytes, self._queue.handle)
            self.wait("a copy from the GPU")

    # ---------------------------------------------------------------- kernels

    def load(self, kernels: Collection[Kind]) -> Mapping[Kind, Any]:
        absent = sorted(name for name, _ in kernels if not grid.exists(name))
        if absent:
            raise DeviceError(f"there is no kernel for a GPU called {absent[0]}")
        self._here()
        prepare(kernels, self.arch)
        return {(name, dtype): _loaded(name, dtype, self.arch) for name, dtype in kernels}

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: tuple[int, ...]) -> None:
        self._here()
        try:
            self._core.launch(self._target, self._config(blocks, threads), kernel, *arguments)
        except Exception as error:      # of several kinds
            raise DeviceError(f"a launch failed: {error}") from error

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        self._here()
        builder = self._queue.create_graph_builder()
        builder.begin_building()        # relaxed: other threads may do as they like
        self._target = builder
        try:
            enqueue()
        except BaseException:
            with suppress(Exception):       # what went wrong first is what counts
                builder.end_building()
            raise
        finally:
            self._target = self._queue
        with failing("a graph could not be recorded"):
            return _Captured(builder.end_building().complete(), self._queue)

    def wait(self, what: str) -> None:
        self._here()
        with failing(f"the GPU failed during {what}"):
            self._queue.sync()


class _Captured:
    def __init__(self, graph: Any, queue: Any):
        self._graph, self._queue = graph, queue
        graph.upload(queue)

    def launch(self) -> None:
        with failing("a graph could not be launched"):
            self._graph.launch(self._queue)


@cache
def _loaded(kernel: str, dtype: str, arch: int) -> Any:
    """A kernel in the memory of the process's GPU."""
    core: Any = import_module("cuda.core")
    cubin = import_module(COMMAND).build(kernel, dtype, arch)
    with failing(f"kernel {kernel}.{dtype} cannot be loaded"):
        return core.ObjectCode.from_cubin(cubin.code).get_kernel(cubin.entry)


def open_gpu() -> Runtime:
    """The GPU at hand, with a queue of its own. Raises DeviceError where none can be used."""
    reason = probe.reason()
    if reason:
        raise DeviceError(f"there is no GPU to train on: {reason}")
    try:
        return Cuda(probe.chosen())
    except DeviceError:
        raise
    except Exception as error:      # also of imports: a library that a package needs may be missing
        raise DeviceError(f"the GPU {probe.chosen().name} does not start: {error}") from error
