"""The processes that share a benchmark: as `accelerate launch`, torchrun or SLURM started them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from dogerm.errors import DeviceError, DogermError

T = TypeVar("T")
# One process may be done long before the others; it waits for them, as long as it takes.
PATIENCE = timedelta(days=30)


class Group:
    """This process among those that share its work; alone, unless it was launched otherwise.

    They exchange small Python objects over gloo, which needs no GPU, so that the same
    code runs on any machine. What is large stays where it is.

    Args:
        environ: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun and
            accelerate set them.

    Raises:
        DeviceError: the other processes cannot be reached.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ):
        self.rank = int(environ.get("RANK", 0))
        self.size = int(environ.get("WORLD_SIZE", 1))
        self.local_rank = int(environ.get("LOCAL_RANK", 0))
        if self.size > 1:
            with self._errors():
                dist.init_process_group("gloo", timeout=PATIENCE)
        # What accelerate leaves when it was asked for several and, with --cpu, starts one.
        self.meant_several = self.size == 1 and "MASTER_ADDR" in environ

    def gather(self, own: T) -> list[T]:
        """What every process gives, by rank. All of them must call it."""
        if self.size == 1:
            return [own]
        found: list[T | None] = [None] * self.size
        with self._errors():
            dist.all_gather_object(found, own)
        return found

    def collect(self, own: T) -> list[T]:
        """What every process gives, by rank, for the first process; nothing for the others."""
        if self.size == 1:
            return [own]
        found = [None] * self.size if self.rank == 0 else None
        with self._errors():
            dist.gather_object(own, found)
        return found or []

    def raise_any(self, failure: Exception | None) -> None:
        """Raise a failure of any process in all of them, so that none waits for it.

        It is for the first process to say.
        """
        for found in self.gather(failure):
            if found:
                found.is_said_elsewhere = self.rank > 0
                self.leave()
                raise found

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails in all processes, with the same error, if it does in any.

        All must enter it, and none waits for another before its end.
        """
        failure = None
        try:
            yield
        except (DogermError, OSError) as error:
            failure = error
        self.raise_any(failure)

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them; none goes on before it is there."""
        found: list[T | None] = [None]
        with self.together():
            if self.rank == 0:
                found = [make()]
        if self.size > 1:
            with self._errors():
                dist.broadcast_object_list(found)
        return found[0]

    def device(self, asked: str) -> str:
        """Where this process runs its model: of several on a machine, each has its own GPU."""
        several = self.size > 1 and torch.cuda.is_available()
        return (
            f"cuda:{self.local_rank}"
            if several and asked in ("auto", "cuda")
            else asked
        )

    def leave(self) -> None:
        """Leave together, if the others are there still.

        One that is gone while another's last message is under way makes gloo abort there.
        """
        if self.size > 1:
            with suppress(RuntimeError):
                dist.monitored_barrier(timeout=timedelta(seconds=5))
            with suppress(RuntimeError):
                dist.destroy_process_group()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            failure = DeviceError(
                "the other processes of this run are out of reach: one could not be "
                f"started, or has stopped and said why ({reason:.120}). What was scored "
                "is safe; start all of them again with --resume."
            )
            failure.is_said_elsewhere = self.local_rank > 0  # by one on each machine
            raise failure from None
