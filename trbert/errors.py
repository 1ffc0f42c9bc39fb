"""The errors that trbert raises for its users.

    TrbertError
    ├── InputError        (ValueError)    a wrong argument, setting, file, column or label
    ├── UnsupportedModel  (ValueError)    a model that no adapter describes
    ├── ModelNotFound     (OSError)       a model that is neither a folder nor reachable
    ├── DamagedCheckpoint (OSError)       a folder whose files do not fit together
    ├── Diverged          (ArithmeticError) learning that left the finite numbers
    └── RunFolderError    (OSError)       a run folder that exists, is missing, or cannot be written

A message names the thing, the rule, the value received and the remedy. Every error takes one string, so that it
pickles: Ray carries errors between processes.
"""


class TrbertError(Exception):
    """Any error whose cause and remedy are the user's; the command line prints it without a traceback."""


class InputError(TrbertError, ValueError):
    """An argument, setting, file, column or label is not what it has to be."""


class UnsupportedModel(TrbertError, ValueError):
    """The model is no encoder, or of a family that no adapter describes."""


class ModelNotFound(TrbertError, OSError):
    """The model is neither a local folder nor reachable by name."""


class DamagedCheckpoint(TrbertError, OSError):
    """A saved model's files are missing, truncated or do not fit together."""


class Diverged(TrbertError, ArithmeticError):
    """Learning left the finite numbers, or what was learned gives none."""


class RunFolderError(TrbertError, OSError):
    """A run folder exists already, is missing, or cannot be written."""
