"""Batches read ahead, by processes of their own that may die or stall without taking the training
with them.

PyTorch's `DataLoader` hands batches over in shared memory. A container has 64 MB of it by default,
a batch that finds no room is lost, and the loader waits for it for ever. Here batches come through
sockets, in a third of the time, and a batch that does not come is read by the training itself.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from progdtd.data import Batches
from progdtd.machine import cores, ending

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds without a batch after which that is said."""


def loader(
    batches: Batches,
    steps: range,
    workers: int | None,
    device: torch.device | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[Tensor, None, None]:
    """Yield the batches of the given steps, in order, whatever becomes of the processes that read.

    Args:
        batches: what to read.
        steps: of which to yield the batches.
        workers: processes that read. None: one a core, at most eight; of cached images two for a
            GPU, else none.
        device: where batches are going; those for a GPU are put into pinned memory.
        stopped: asked every second while no batch is there; if it says so, the batches end here.

    Raises:
        OSError: no process can be started.
    """
    gpu = device is not None and device.type == "cuda"
    if workers is None:
        cached = 2 if gpu else 0
        workers = cached if batches.cached else min(8, cores())
    readers: list[Reader] = []
    for first in range(workers):
        readers.append(Reader(batches, steps[first::workers], readers))
    ready: queue.Queue[Tensor | BaseException] = queue.Queue(1)
    ended = threading.Event()

    def feed() -> None:
        try:
            if gpu:
                torch.cuda.set_device(device)
            for index, step in enumerate(steps):
                pixels = torch.empty(batches.shape, dtype=torch.uint8, pin_memory=gpu)
                read = workers and readers[index % workers].read(pixels)
                if ended.is_set():
                    break
                if not read:
                    pixels.copy_(batches[step].permute(0, 2, 3, 1))
                ready.put(pixels.permute(0, 3, 1, 2))
        except BaseException as error:
            if not ended.is_set():
                ready.put(error)
        for reader in readers:
            reader.end()

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        for _ in steps:
            batch = _wait(ready, stopped)
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        ended.set()
        for reader in readers:
            reader.kill()
        with contextlib.suppress(queue.Empty):
            ready.get_nowait()
        thread.join(2)  # a process within a read that never ends cannot even be killed


def _wait(
    ready: "queue.Queue[Tensor | BaseException]", stopped: Callable[[], bool]
) -> Tensor | BaseException | None:
    """What comes next, or None if told to stop before it has come."""
    since, said = time.monotonic(), False
    while True:
        try:
            return ready.get(timeout=1)
        except queue.Empty:
            if stopped():
                return None
            if not said and time.monotonic() - since > PATIENCE:
                said = True
                log.warning(
                    "No images have come for %.0f s: the disk that has them is slow or out of "
                    "reach. The training goes on as soon as they come; Ctrl-C or SIGTERM saves a "
                    "checkpoint.",
                    PATIENCE,
                )


class Reader:
    """A process that reads the batches of some steps.

    Args:
        batches, steps: what it reads.
        others: those started before, whose sockets it is not to keep open.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, batches: Batches, steps: Sequence[int], others: "Sequence[Reader]") -> None:
        self.socket, connection = socket.socketpair()
        with connection:
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    for reader in (self, *others):
                        reader.socket.close()
                    _send(batches, steps, connection)
                    os._exit(0)
                finally:
                    os._exit(1)
        self.here = self.wanted = True

    def read(self, pixels: Tensor) -> bool:
        """Fill a tensor with the next batch; False if the process is gone, which is said once."""
        rest = memoryview(pixels.view(-1).numpy())  # type: ignore[arg-type]
        while self.here and len(rest):
            count = self.socket.recv_into(rest, flags=socket.MSG_WAITALL)
            rest = rest[count:]
            if not count:
                code = self.end()
                if self.wanted:
                    log.warning(
                        "A process that reads images is gone (%s): the training reads its share "
                        "itself. Fewer dataset.workers, or a smaller dataset.cache_gib, need less "
                        "memory.",
                        ending(code),
                    )
        return self.here

    def kill(self) -> None:
        """Have the process, which ignores signals that ask for it, end at once."""
        self.wanted = False
        if self.here:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait for the process to be gone; its exit code, or minus the signal that killed it."""
        if not self.here:
            return 0
        self.here = False
        self.socket.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _send(batches: Batches, steps: Sequence[int], connection: socket.socket) -> None:
    """What the process does. SIGTERM and Ctrl-C often come to all processes of a job: the main one
    is to save its checkpoint first, and ends the others."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # the others are the training's, and a copied process has none of them
    for step in steps:
        connection.sendall(batches[step].permute(0, 2, 3, 1).numpy())  # type: ignore[arg-type]
