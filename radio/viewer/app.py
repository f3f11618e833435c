"""What the viewer answers: the page, its session's photographs, and maps of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from radio.drawing.pictures import HEAT
from radio.errors import RadioError, printable
from radio.model import RADIOModel
from radio.viewer import maps
from radio.viewer.guard import LocalOnly
from radio.viewer.photos import MAX_PHOTO_PIXELS, MAX_UPLOAD, Photo, read_photo
from radio.viewer.sessions import MAX_PHOTOS, Session, SessionEnded, Sessions
from radio.viewer.studio import BACKBONE, Source, Studio
from radio.viewer.worker import Worker

MAX_LABELS = 16
LONGEST_LABEL = 80
_LARGEST_JSON = 2**16
_MOST_AT_ONCE = 8
_LONGEST_MESSAGE = 600
_LOOK_EVERY = 0.25
"""Seconds."""

T = TypeVar("T")

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class _Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: Of HTTP.
        message: Why, for the user.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Viewer:
    """The answers of one viewer.

    Args:
        models: By name, in the order in which the page offers them.
        photos: Those that every page starts with.

    Attributes:
        ending: Whether the server is about to end, so that nothing is waited for any more.
    """

    def __init__(self, models: Mapping[str, RADIOModel[Any]], photos: Sequence[Photo] = ()) -> None:
        self.ending: Callable[[], bool] = lambda: False
        self.studio = Studio(models)
        self.sessions = Sessions(photos)
        self.worker = Worker()

    def application(self) -> Starlette:
        """The web application."""
        return Starlette(
            routes=[
                *_pages(),
                Route("/api/session", self.start, methods=["POST"]),
                Route("/api/photos", self.photos, methods=["GET"]),
                Route("/api/photos", self.add_photo, methods=["POST"]),
                Route("/api/photos/{photo}", self.photo, methods=["GET"]),
                Route("/api/photos/{photo}", self.remove_photo, methods=["DELETE"]),
                Route("/api/features", self.features),
                Route("/api/colors", self.colors),
                Route("/api/foreground", self.foreground),
                Route("/api/attention", self.attention),
                Route("/api/merged", self.merged),
                Route("/api/matches", self.matches),
                Route("/api/sizes", self.sizes),
                Route("/api/words", self.words, methods=["POST"]),
            ],
            middleware=[Middleware(LocalOnly)],
            exception_handlers={
                _Refused: _refuse,
                SessionEnded: _session_ended,
                ClientDisconnect: _nobody,
                RadioError: _user_error,
                ValueError: _user_error,
                Exception: _failure,
            },
        )

    async def start(self, request: Request) -> Response:
        """A session, that which the tab has already or a new one, and all that the page needs to know."""
        session, ended = self.sessions.start(request.headers.get("radio-session", ""))
        if ended:
            await self.worker.run(lambda: self.studio.forget(ended))
        return JSONResponse(
            {
                "session": session.id,
                "models": [model.describe() for model in self.studio.models.values()],
                "backbone": BACKBONE,
                "heat": HEAT,
                "limits": {
                    "bytes": MAX_UPLOAD,
                    "pixels": MAX_PHOTO_PIXELS,
                    "photos": MAX_PHOTOS,
                    "labels": MAX_LABELS,
                },
            }
        )

    async def photos(self, request: Request) -> Response:
        """The session's photographs."""
        session = self._session(request)
        return JSONResponse([_described(session, photo) for photo in session.photos.values()])

    async def add_photo(self, request: Request) -> Response:
        """A photograph, whose file is the request's body."""
        session = self._session(request)
        session.check_room()
        name = request.query_params.get("name", "photo")
        content = await _body(request, MAX_UPLOAD, "the photo")
        photo = await self._compute(request, lambda: read_photo(content, name))
        session.add(photo)
        return JSONResponse(_described(session, photo), status_code=201)

    async def photo(self, request: Request) -> Response:
        """A photograph as JPEG."""
        photo = _photo(self._session(request), request.path_params["photo"])
        return Response(photo.preview, media_type="image/jpeg")

    async def remove_photo(self, request: Request) -> Response:
        """The session without a photograph."""
        session = self._session(request)
        photo = _photo(session, request.path_params["photo"])
        del session.photos[photo.id]
        if photo.id not in session.shared:
            await self.worker.run(lambda: self.studio.forget([photo.id]))
        return Response(status_code=204)

    async def features(self, request: Request) -> Response:
        """Unit vectors of all patches as float16; their number and width in the header ``Radio-Shape``."""
        source = self._source(request)
        features = await self._compute(request, lambda: self.studio.features(source))
        height, width = features.shape[-2:]
        return Response(
            maps.unit_halves(features),
            media_type="application/octet-stream",
            headers={"Radio-Shape": f"{height},{width},{features.shape[0]}"},
        )

    async def colors(self, request: Request) -> Response:
        """Colors of photographs, which share one PCA."""
        sources = self._sources(request)
        only_foreground = request.query_params.get("only") == "foreground"
        return await self._answer(
            request,
            lambda: maps.colors([self.studio.features(source) for source in sources], only_foreground),
        )

    async def foreground(self, request: Request) -> Response:
        """What stands out from the ground."""
        source = self._source(request)
        return await self._answer(request, lambda: maps.foreground(self.studio.features(source)))

    async def attention(self, request: Request) -> Response:
        """What a class token attends to, in every head of a block."""
        source = self._source(request)
        described = self.studio.models[source.model].describe()
        block = _number(request, "block", described["blocks"])
        token = _number(request, "token", range(len(described["tokens"])))
        return await self._answer(request, lambda: maps.heads(self.studio.attention(source, block)[token]))

    async def merged(self, request: Request) -> Response:
        """Which patches merge when so many tokens stay."""
        source = self._source(request)
        keep = _number(request, "keep", range(1, 2**20))
        return await self._answer(request, lambda: maps.merged(self.studio.features(source), keep))

    async def matches(self, request: Request) -> Response:
        """Patches of two photographs that are each other's best match."""
        sources = self._sources(request)
        if len(sources) != 2:
            raise _Refused(422, "matches are between two photos")
        return await self._answer(
            request, lambda: maps.matches(*(self.studio.features(each) for each in sources))
        )

    async def sizes(self, request: Request) -> Response:
        """A photograph at every size of the model's ladder: colors that share one PCA, and how alike they are."""
        source = self._source(request)
        ladder = self.studio.models[source.model].ladder

        def compute() -> dict[str, Any]:
            found = [self.studio.features(source._replace(size=size)) for size in ladder]
            return {"colors": maps.colors(found), "alike": maps.likeness_over_sizes(found)}

        return await self._answer(request, compute)

    async def words(self, request: Request) -> Response:
        """A photograph compared with labels."""
        asked = await _json(request)
        labels = asked.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise _Refused(422, "labels are a list of words")
        labels = [
            label for label in dict.fromkeys(label.strip()[:LONGEST_LABEL] for label in labels) if label
        ]
        if not 0 < len(labels) <= MAX_LABELS:
            raise _Refused(422, f"give 1 to {MAX_LABELS} labels, with commas between them")
        source = self._source(request)
        if source.adaptor not in self.studio.models[source.model].text_adaptors:
            raise _Refused(422, "words need an adaptor that knows them, such as clip or siglip2-g")

        def compute() -> dict[str, Any]:
            found = self.studio.words(source, labels)
            return {
                "labels": labels,
                "similarity": found.similarity.tolist(),
                "share": found.share.tolist(),
                **maps.scaled("maps", found.patches),
                "best": found.patches.argmax(dim=0).flatten().tolist(),
            }

        return await self._answer(request, compute)

    async def _answer(self, request: Request, compute: Callable[[], Any]) -> Response:
        return JSONResponse(await self._compute(request, compute))

    async def _compute(self, request: Request, compute: Callable[[], T]) -> T:
        """What the worker's thread computes; given up if the page is closed while it waits for its turn."""
        job = asyncio.ensure_future(self.worker.run(compute))
        while not (await asyncio.wait({job}, timeout=_LOOK_EVERY))[0]:
            if self.ending():
                job.cancel()
                raise _Refused(503, "the viewer has ended")
            if await request.is_disconnected():
                job.cancel()
                raise ClientDisconnect
        return job.result()

    def _session(self, request: Request) -> Session:
        return self.sessions.get(request.headers.get("radio-session", ""))

    def _source(self, request: Request) -> Source:
        sources = self._sources(request)
        if len(sources) != 1:
            raise _Refused(422, "give one photo")
        return sources[0]

    def _sources(self, request: Request) -> list[Source]:
        """The photographs and the model that a request names: nothing that the page does not offer."""
        session, query = self._session(request), request.query_params
        model = self.studio.models.get(query.get("model", ""))
        if model is None:
            raise _Refused(422, f"there is no such model; the viewer has: {', '.join(self.studio.models)}")
        adaptor = query.get("adaptor", BACKBONE)
        if adaptor not in model.adaptors:
            raise _Refused(422, f"{model.name} was loaded with: {', '.join(model.adaptors)}")
        size = _number(request, "size", model.sizes)
        photos = query.getlist("photo")[: _MOST_AT_ONCE + 1]
        if len(photos) > _MOST_AT_ONCE:
            raise _Refused(422, f"at most {_MOST_AT_ONCE} photos are shown at once")
        return [Source(_photo(session, photo), model.name, adaptor, size) for photo in photos]


def _pages() -> list[Route]:
    """The files of `static/`, which are read once; ``index.html`` is the page."""
    folder = resources.files("radio.viewer") / "static"
    routes = []
    for file in folder.iterdir():
        media_type = _TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            routes.append(Route(path, _file(file.read_bytes(), media_type)))
    return routes


def _file(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


def _photo(session: Session, number: str) -> Photo:
    if number not in session.photos:
        raise _Refused(404, "there is no such photo on this page")
    return session.photos[number]


def _described(session: Session, photo: Photo) -> dict[str, Any]:
    height, width = photo.given
    return {
        "id": photo.id,
        "name": photo.name,
        "width": width,
        "height": height,
        "own": photo.id not in session.shared,
    }


def _number(request: Request, name: str, allowed: Sequence[int]) -> int:
    text = request.query_params.get(name, "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else -1
    if number not in allowed:
        raise _Refused(422, f"{name} {printable(text)!r} is not one that can be chosen here")
    return number


async def _body(request: Request, most: int, what: str) -> bytes:
    """The body of a request; one that is too long is not read to its end."""
    too_long = _Refused(413, f"{what} is too large: at most {most / 2**20:.0f} MB can be added")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > most:
        raise too_long
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise too_long
    return bytes(content)


async def _json(request: Request) -> dict[str, Any]:
    try:
        asked = json.loads(await _body(request, _LARGEST_JSON, "the request"))
    except ValueError as error:
        raise _Refused(422, "the request is not JSON") from error
    if not isinstance(asked, dict):
        raise _Refused(422, "the request is not a JSON object")
    return asked


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return _problem(error.status, error.message)


def _nobody(request: Request, error: Exception) -> Response:
    """The answer that nobody waits for."""
    return Response(status_code=204)


def _session_ended(request: Request, error: Exception) -> Response:
    return _problem(410, str(error))


def _user_error(request: Request, error: Exception) -> Response:
    return _problem(422, " ".join(str(error).split()))


def _failure(request: Request, error: Exception) -> Response:
    return _problem(500, f"this failed, see the terminal: {type(error).__name__}")


def _problem(status: int, message: str) -> Response:
    return JSONResponse({"error": printable(message, _LONGEST_MESSAGE)}, status_code=status)
