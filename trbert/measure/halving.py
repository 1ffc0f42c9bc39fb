"""Computes something for many documents at once or, when memory runs out, for halves of them."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from trbert.errors import OutOfMemory
from trbert.wording import first_line

Result = TypeVar("Result")

_ALLOCATORS = ("DefaultCPUAllocator: ", "std::bad_alloc", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What a RuntimeError of torch contains when an allocation failed. All but the last two were seen on a processor."""
_ONEDNN = ("could not create a primitive", "could not create a memory object")
"""The whole text of a RuntimeError of oneDNN that had no memory. The first was seen in bfloat16. With other words after
it, the text is about something else."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory ran out, on a GPU or on a processor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).strip()
    return isinstance(error, RuntimeError) and (text in _ONEDNN or any(each in text for each in _ALLOCATORS))


def halved(act: Callable[[Tensor], Result], documents: Tensor) -> Iterator[Result]:
    """Yields the result of `act` on all documents at once or, when memory runs out, its results on halves of them.

    Args:
        act: computes something for some documents.
        documents: their indices.

    Raises:
        OutOfMemory: There is too little memory for one document.
    """
    found = _attempt(act, documents)
    if found is not None:
        yield found[0]
        return
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    middle = len(documents) // 2
    yield from halved(act, documents[:middle])
    yield from halved(act, documents[middle:])


def _attempt(act: Callable[[Tensor], Result], documents: Tensor) -> tuple[Result] | None:
    """Returns the result in a tuple, or None if memory ran out and the documents can be halved.

    The caller halves them, after this function has returned. While an error is handled, its traceback keeps the tensors
    of the attempt in memory.
    """
    try:
        return (act(documents),)
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        if len(documents) > 1:
            return None
        why = first_line(error)
    raise OutOfMemory(
        f"memory must be enough for one document at a time, and is not ({why}): cut the documents shorter "
        "(--max-length), sample fewer trajectories of each (--set select.samples=2 --set joint.fastest=0), use a "
        "smaller model, or free some memory"
    )
