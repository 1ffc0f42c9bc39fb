"""The runner that captures the stages of a reduced pass, and repeats them: as CUDA graphs on a GPU."""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trbert.runners.eager import Eager
from trbert.runners.places import Places

Work = Callable[[], None]
"""Work of fixed sizes, on tensors that stay where they are in memory."""

MOST_GRAPHS = 256
"""How many captured stages are kept. A stage of BERT-base is some 200 kernels, which take about 2 MiB of a GPU."""


class Graphed(Eager):
    """Captures the stages of a reduced pass at first use, and repeats them on later rows of the same size.

    A pass that is launched kernel by kernel leaves a GPU waiting for Python. A captured stage is launched as one. What
    is captured belongs to the weights where they lie: if they are moved or replaced, it is dropped and captured anew.

    On a CPU there is nothing to capture, so the stages are called. Layers run eagerly where a gradient is wanted, where
    attention is listened to, under autocast and in training mode.

    A copy of a model gets a new runner, with nothing captured.

    Attributes:
        places: where the weights lie.
        unfit: the arithmetic in which the model was found to have a layer that cannot be captured; None if in none.

    Args:
        most: how many captured stages are kept; the one that was not used for longest is dropped first.
    """

    name = "graphed"

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        self.most = most
        self._lock = threading.RLock()
        self.places = Places()
        self.unfit: torch.dtype | None = None
        self._captured: OrderedDict[Hashable, Work] = OrderedDict()
        self._identity: Hashable = None
        self._owners: dict[Hashable, Any] = {}
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None
        self._last: torch.cuda.Stream | None = None

    def __reduce__(self) -> tuple[type["Graphed"], tuple[int]]:
        return Graphed, (self.most,)

    def __len__(self) -> int:
        return len(self._captured)

    @contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        """Gives a pass its turn, because all passes use the same memory.

        Passes of other threads wait. A thread may have a stream of its own, on which the device does what this thread
        launches, in that order. So the device also finishes the last pass first.

        Args:
            device: the device of the model.
        """
        with self._lock:
            stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
            if stream is not None and self._last is not None and stream != self._last:
                stream.wait_stream(self._last)
            self._last = stream
            yield

    def kept_for(self, identity: Hashable, name: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what `make` returned for this name. For another identity than the last one all is made anew.

        Args:
            identity: of the weights, and of what else captured work depends on.
            name: of what is made. Several things of one identity are kept beside each other.
            make: makes what captured work reads and writes.
        """
        if self._identity != identity:
            self.forget()
            self._identity = identity
        if name not in self._owners:
            self._owners[name] = make()
        return self._owners[name]

    def forget(self) -> None:
        """Drops all that was captured, with its memory."""
        self._captured.clear()
        self._owners.clear()
        self._identity = self._pool = None

    def repeat(self, key: Hashable, work: Work, device: torch.device) -> None:
        """Does the work, which is captured at the first use of its key.

        Where memory does not suffice to capture it, it is done as it is, with one warning.

        Args:
            key: says which work it is; the same key means the same work on the same tensors.
            work: reads and writes tensors that stay where they are, so that it can be done twice.
            device: the device of those tensors.
        """
        if key in self._captured:
            self._captured.move_to_end(key)
        else:
            self._captured[key] = self._capture(work, device)
            while len(self._captured) > self.most:
                self._captured.popitem(last=False)
        self._captured[key]()

    def _capture(self, work: Work, device: torch.device) -> Work:
        if device.type != "cuda":
            return work
        # Not in inference mode: what PyTorch keeps for all graphs of a process would then be of that mode, and it could
        # be written to in that mode alone. So a later capture outside it would fail.
        with torch.cuda.device(device), torch.inference_mode(False), torch.no_grad():
            work()  # The first time it may compile kernels, and take memory that is to stay. No graph may do that.
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            if self._stream is None or self._stream.device != device:
                # PyTorch's own stream for captures lies on the device of the first capture of the process. There is one
                # for all captures of this runner, because the libraries keep memory for each stream that they see.
                self._stream = torch.cuda.Stream()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    work()
            except torch.OutOfMemoryError:
                warnings.warn(
                    "a GPU should have memory for the captured stages, and has too little: this stage runs without "
                    "being captured; use smaller batches",
                    stacklevel=2,
                )
                return work
        replay: Work = graph.replay
        return replay
