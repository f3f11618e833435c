"""Who sees which photographs: one session for each open page, none sees another's."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from radio.viewer.photos import Photo

MAX_SESSIONS = 16
"""Open pages; the one that was used least recently ends for another."""

MAX_PHOTOS = 12
"""Photographs that a page may add."""


class SessionEnded(LookupError):
    """There is no such session: it made room for others, or the viewer was started anew."""


@dataclass
class Session:
    """One open page.

    Attributes:
        id: Random; who knows it, sees its photographs.
        photos: By id, in the order in which they came.
        shared: Which of them every page has, so that they do not end with this one.
    """

    id: str
    photos: dict[str, Photo]
    shared: frozenset[str] = field(default_factory=frozenset)

    @property
    def own(self) -> list[str]:
        """Ids of the photographs that this page added."""
        return [number for number in self.photos if number not in self.shared]

    def add(self, photo: Photo) -> None:
        """Keep a photograph.

        Raises:
            ValueError: The session has as many as it may have.
        """
        self.check_room()
        self.photos[photo.id] = photo

    def check_room(self) -> None:
        """Whether another photograph may come.

        Raises:
            ValueError: The session has as many as it may have.
        """
        if len(self.own) >= MAX_PHOTOS:
            raise ValueError(f"there are {MAX_PHOTOS} added photos already; remove one first")


class Sessions:
    """The open pages, a bounded number.

    Args:
        photos: Those that every session starts with.
    """

    def __init__(self, photos: Sequence[Photo] = ()) -> None:
        self._start = {photo.id: photo for photo in photos}
        self._open: OrderedDict[str, Session] = OrderedDict()

    def start(self, number: str = "") -> tuple[Session, list[str]]:
        """The open session of an id or a new one, and the ids of the photographs that ended with an old one."""
        if number in self._open:
            return self.get(number), []
        ended: list[str] = []
        while len(self._open) >= MAX_SESSIONS:
            ended += self._open.popitem(last=False)[1].own
        session = Session(secrets.token_urlsafe(24), dict(self._start), frozenset(self._start))
        self._open[session.id] = session
        return session, ended

    def get(self, number: str) -> Session:
        """An open session.

        Raises:
            SessionEnded: There is none of that id.
        """
        if number not in self._open:
            raise SessionEnded("this page's session has ended; reload the page")
        self._open.move_to_end(number)
        return self._open[number]
