"""The web application of the viewer: its addresses, and what every answer carries to be safe.

It listens on this machine only, answers to its own name only, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sieverl.display.svg import style
from sieverl.display.view import pages
from sieverl.display.view.store import Store

HOSTS = ("127.0.0.1", "localhost")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # KaTeX places what it draws by style attributes
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
STEP = "/run/{run}/{kind}/{step:int}"


def app(folder: Path) -> Starlette:
    """The viewer of the runs below a folder (or of the run in it)."""
    viewer = Starlette(
        routes=[
            Route("/", pages.index),
            Route("/compare", pages.compare),
            Route("/run/{run}", pages.run),
            Route("/run/{run}/search", pages.search),
            Route("/run/{run}/prompt/{prompt:int}", pages.prompt),
            Route(STEP, pages.step),
            Route(STEP + "/group/{group:int}", pages.group),
            Route(STEP + "/group/{group:int}/sample/{sample:int}/verify", pages.verify, methods=["POST"]),
            Route("/charts.css", lambda request: Response(style(), media_type="text/css")),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False),
            Middleware(BaseHTTPMiddleware, dispatch=own_pages_only),
            Middleware(GZipMiddleware, minimum_size=2000),
        ],
        exception_handlers={HTTPException: pages.problem, Exception: unexpected},
    )
    viewer.state.store = Store(folder)
    return viewer


async def own_pages_only(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what another site's page asks for; every answer says what a browser may do with it."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    here = f"{request.url.scheme}://{request.headers.get('host')}"
    if (origin is not None and origin != here) or (request.method != "GET" and site not in ("none", "same-origin")):
        return PlainTextResponse("this page answers its own pages only\n", status_code=403, headers=HEADERS)
    response = await answer(request)
    response.headers.update(HEADERS)
    fixed = request.url.path.startswith("/static/") or request.url.path == "/charts.css"
    response.headers.setdefault("Cache-Control", "max-age=3600" if fixed else "no-store")
    return response


async def unexpected(request: Request, error: Exception) -> Response:
    """What nobody foresaw: a line, not a traceback, in the browser."""
    return PlainTextResponse(
        f"the viewer failed: {type(error).__name__}; the terminal that started it has more\n", 500, HEADERS
    )
