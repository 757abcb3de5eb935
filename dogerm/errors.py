"""What can go wrong, said for people: every message names what was found, where, and what to do next."""


class DogermError(Exception):
    """Base of all errors that are shown to a user as one sentence, without a traceback."""

    # Whether another process of the same run says it.
    is_said_elsewhere = False


class RecipeError(DogermError):
    """A recipe that cannot be meant: λ outside [0, 1], shares that are all zero, an unknown method."""


class FamilyError(DogermError):
    """A family that is not there or whose file cannot be read."""


class CheckpointError(DogermError):
    """A checkpoint that is missing, truncated or of a kind that is not read."""


class CheckpointMismatch(CheckpointError):
    """Two checkpoints that were not fine-tuned from the same base, or do not look like it."""


class DeviceError(DogermError):
    """A device that is not there, or that has run out of memory."""


class OutOfMemory(DeviceError):
    """The device's memory ran out while loading, merging or scoring."""


class InputError(DogermError):
    """Text or rows that cannot be scored as they are."""


class TooLong(InputError):
    """A conversation with more tokens than the model reads."""


class StoreError(DogermError):
    """A store of results that cannot be used: of another run, in use, or damaged."""


class ServeError(DogermError):
    """A page that cannot be served as it was asked for."""


class PeerError(DogermError):
    """Another program that dogerm is measured against, and that cannot be run."""


class RecordingError(DogermError):
    """A recording that is none, of another version, damaged, or of other weights."""
