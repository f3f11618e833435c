"""Which requests are answered: those of this computer's own pages."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class LocalOnly:
    """Refuses requests that another site's page makes, and answers with headers that keep the page to itself.

    A page of another site can send requests to this computer. It cannot hide where it is from: the ``Origin`` header.
    It can point a name of its own to 127.0.0.1 (DNS rebinding). It cannot hide that name: the ``Host`` header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        why = _refusal(Headers(scope=scope), scope["method"])
        app = self.app if why is None else PlainTextResponse(why, status_code=403)
        await app(scope, receive, send_with_headers)


def _refusal(headers: Headers, method: str) -> str | None:
    """Why a request is not answered, or None."""
    host = headers.get("host", "")
    if not _LOCAL_HOST.fullmatch(host):
        return "the viewer answers only under 127.0.0.1 and localhost\n"
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host}".lower():
        return "the viewer does not answer pages of other sites\n"
    opened = (
        method == "GET" and headers.get("sec-fetch-dest") == "document"
    )  # a link to the page, from anywhere
    if not opened and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return "the viewer does not answer pages of other sites\n"
    return None
