"""Web pages with accounts, for client and server: sign-in, sessions, security headers, a frame and a stylesheet.

An app defines its routes and a folder with its own `templates` and `assets`. Each route requires a sign-in:

    web = Web(home, "site-A", "Workbench", Path(__file__).parent)
    app = web.application([Route("/", index), Route("/api/query", query, methods=["POST"])])

    async def index(request):
        return web.page(request, "workbench.html", site="A")     # a template that extends "frame.html"

    async def query(request):
        visitor = visitor_of(request)                            # visitor.name, visitor.role, visitor.csrf
        need(visitor, "radiologist")                             # raises RefusedError
        return JSONResponse(...)

    server = HttpsServer(app, presented.context, host, port, life_s=...)
    port = await server.begin()

Every route behaves as follows. Without a session, a page redirects to /login and a call (whose Accept is not HTML)
returns 401. A method other than GET or HEAD must come from the same origin and carry the session's token: in the header
`x-csrf`, or in the form field `csrf` of `csrf_field` (the frame has it in <meta name="csrf">). A background call of a
page sends `x-background: 1` and does not count as use, so that an open page does not keep a session alive. A UserError
returns 409 and {"error": {what, why, do}}, or a page with the error.

Templates have `{{ base }}` (where the app is mounted), `{{ assets }}` (the path of all assets, which contains their
digest), `{{ visitor }}` and `{{ title }}`. The Content-Security-Policy forbids inline scripts and styles and anything
from other hosts. Scripts set variable lengths (element.style), or templates draw them as SVG attributes.

Accounts are in `accounts.json` in the home folder. The commands `user add`, `user password`, `user remove` and
`user list` write it (`ynet.web.user_commands`). A running process reads a change at once: a removed account and one
with a new password lose their sessions.
"""
