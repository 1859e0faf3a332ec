"""Room for large pictures: a limit on the megapixels that the processes of a pool hold at once.

A decoded picture takes 4 to 8 bytes a pixel, and up to 24 while Pillow decodes it: four pictures of 50 megapixels would
take 4.8 GB. Fractions of a megapixel are not counted, so most images never wait.
"""

from multiprocessing.context import SpawnContext
from typing import Any

MEGAPIXELS = 100
"""2.4 GB at most, of the 4 GB that containers get."""


class Room:
    """The megapixels that all processes of a pool may hold together."""

    def __init__(self, context: SpawnContext, megapixels: int = MEGAPIXELS) -> None:
        """Make a room for the processes that `context` starts."""
        self.megapixels = megapixels
        self._free: Any = context.Semaphore(megapixels)
        self._taking: Any = context.Lock()
        self._held = 0  # by this process

    def claim(self, megapixels: float) -> None:
        """Wait until there is room for a picture; it replaces the picture that this process held before."""
        wanted = min(int(megapixels), self.megapixels)
        if wanted > self._held:
            # Only one process takes room at a time, and a waiting process holds none. So all others finish, and this
            # process gets its part.
            self._release(self._held)
            with self._taking:
                for _ in range(wanted):
                    self._free.acquire()
            self._held = wanted
        else:
            self._release(self._held - wanted)

    def _release(self, megapixels: int) -> None:
        for _ in range(megapixels):
            self._free.release()
        self._held -= megapixels


_room: Room | None = None


def enter(room: Room) -> None:
    """Let this process share `room` with others from now on."""
    global _room
    _room = room


def claim(megapixels: float) -> None:
    """`Room.claim` of the room that this process has entered; a process that is alone never waits."""
    if _room:
        _room.claim(megapixels)
