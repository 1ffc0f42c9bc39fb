"""The errors that trbert raises for its users.

    TrbertError
    ├── InputError        (ValueError)      a wrong argument, setting, file, column or label
    ├── UnsupportedModel  (ValueError)      a model that is no encoder of a supported family
    ├── ModelNotFound     (OSError)         a model that is neither a folder nor on a hub that can be reached
    ├── DamagedCheckpoint (OSError)         a saved model whose files are missing, cut off, or do not fit together
    ├── Diverged          (ArithmeticError) learning that gave numbers that are not finite
    ├── OutOfMemory       (MemoryError)     too little memory for a document, a model or a process
    └── RunFolderError    (OSError)         a run folder that exists, is missing, or cannot be written

A message names the thing, the rule, the value received and the remedy. Every error takes one string, so that it can
be pickled: Ray sends errors from one process to another.
"""


class TrbertError(Exception):
    """An error that the user can put right. The command line prints it without a traceback."""


class InputError(TrbertError, ValueError):
    """An argument, a setting, a file, a column or a label breaks a rule that the message names."""


class UnsupportedModel(TrbertError, ValueError):
    """The model is not an encoder, or `trbert.packed.families` does not describe its family."""


class ModelNotFound(TrbertError, OSError):
    """The model is not a local folder, and could not be fetched by its name."""


class DamagedCheckpoint(TrbertError, OSError):
    """The files of a saved model are missing or cut off, or do not fit together."""


class Diverged(TrbertError, ArithmeticError):
    """Learning gave numbers that are not finite, or the model that was learned does."""


class OutOfMemory(TrbertError, MemoryError):
    """There is too little memory for one document, for the model, or for a process."""


class RunFolderError(TrbertError, OSError):
    """The run folder exists already, is missing, or cannot be written."""
