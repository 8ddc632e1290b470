"""Who is who is the app's business: sessions, users and roles are here, and ``metering`` asks two small functions.

``staff`` answers the dashboard: a Visitor with roles, nobody, or the way to the login. ``tenant_of`` answers the portal
and the middleware: whose request it is. All links are relative, so the app may hang below any prefix.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Scope

from mm_metering import Metering
from mm_metering.dashboard.access import Role, Visitor

COOKIE = "session"
LOGIN = """<!doctype html><title>Login</title><form method="post" action="login">
<input name="name" placeholder="name"> <input name="password" type="password"> <button>Log in</button></form>"""
HOME = """<!doctype html><title>Home</title><p>Hello {name}.
<a href="metering/">Dashboard</a> <a href="usage/">Usage</a></p>"""


@dataclass(frozen=True)
class User:
    """``id`` stands in the audit log. Staff have roles, customers a tenant."""

    id: str
    password: bytes
    roles: frozenset[Role] = frozenset()
    tenant: str = ""


def hashed(password: str) -> bytes:
    return hashlib.scrypt(password.encode(), salt=b"one for each user, in a real house", n=2**12, r=8, p=1)


USERS = {
    "vera": User("u_1", hashed("looks"), frozenset({Role.VIEWER})),
    "olaf": User("u_2", hashed("acts"), frozenset({Role.OPERATOR})),
    "ann": User("u_3", hashed("acme"), tenant="acme"),
    "bob": User("u_4", hashed("globex"), tenant="globex"),
}


@dataclass
class Sessions:
    """In memory; in a real house a table, so that a restart logs nobody out."""

    names: dict[str, str] = field(default_factory=dict)

    def begin(self, name: str) -> str:
        token = secrets.token_urlsafe(32)
        self.names[token] = name
        return token

    def user(self, scope: Scope) -> User | None:
        return USERS.get(self.names.get(Request(scope).cookies.get(COOKIE, ""), ""))


def create_app(metering: Metering) -> Starlette:
    sessions = Sessions()

    def tenant_of(scope: Scope) -> str | None:
        user = sessions.user(scope)
        return user.tenant or None if user else None

    def staff(request: Request) -> Visitor | Response | None:
        user = sessions.user(request.scope)
        if user is None:
            return RedirectResponse("../login", 303)
        return Visitor(user.id, user.roles) if user.roles else None

    async def home(request: Request) -> Response:
        user = sessions.user(request.scope)
        return HTMLResponse(HOME.format(name=user.id)) if user else RedirectResponse("login", 303)

    async def ask(_: Request) -> Response:
        return HTMLResponse(LOGIN)

    async def login(request: Request) -> Response:
        form = {name: values[-1] for name, values in parse_qs((await request.body()).decode()).items()}
        name = form.get("name", "")
        user, given = USERS.get(name), hashed(form.get("password", ""))
        if user is None or not hmac.compare_digest(user.password, given):
            return HTMLResponse(LOGIN, 403)
        answer = RedirectResponse("./", 303)
        answer.set_cookie(COOKIE, sessions.begin(name), httponly=True, samesite="lax")  # and secure=True, with TLS
        return answer

    async def scenarios(_: Request) -> Response:
        return JSONResponse(["base", "stress"])

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/login", ask, methods=["GET"]),
            Route("/login", login, methods=["POST"]),
            Route("/v1/scenarios", scenarios),
            Mount("/metering", metering.dashboard(auth=staff)),
            Mount("/usage", metering.portal(tenant=tenant_of)),
        ]
    )
    metering.install(app, tenant=tenant_of, exempt=["/", "/login"])
    return app
