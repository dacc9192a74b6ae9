"""Pages for people with accounts: sign-in, sessions, security headers, a frame and a stylesheet. Both sides use it.

An app gives its routes, and a folder with its own `templates` and `assets`; each route is behind the sign-in:

    web = Web(home, "site-A", "Workbench", Path(__file__).parent)
    app = web.application([Route("/", index), Route("/api/query", query, methods=["POST"])])

    async def index(request):
        return web.page(request, "workbench.html", site="A")     # a template that extends "frame.html"

    async def query(request):
        visitor = visitor_of(request)                            # visitor.name, visitor.role, visitor.csrf
        need(visitor, "radiologist")                             # RefusedError, shown as what, why, do
        return JSONResponse(...)

    door = HttpsServer(app, certificate.context(...), host, port, life_s=...)   # in the process that runs
    port = await door.begin()

What holds for every route: without a session a page leads to /login and a call (whose Accept is not HTML) is answered
401; a method other than GET or HEAD must come from the same origin, and carry the session's token, as the header
`x-csrf` or, in a form, the field `csrf` of `csrf_field` (the frame has it in <meta name="csrf">). A call that a page
makes by itself says `x-background: 1`: it does not count as use, so that an open page does not keep a session alive.
A UserError is answered with 409 and {"error": {what, why, do}}, or on a page in words.

In a template: `{{ base }}` (where the app is mounted), `{{ assets }}` (the folder of all assets, with their digest in
it), `{{ visitor }}`, `{{ title }}`. No script or style stands in a page: the Content-Security-Policy forbids it, and
anything from elsewhere. Lengths that vary are set by scripts (element.style), or drawn as SVG attributes.

Accounts are in `accounts.json` in the home folder; the commands `user add`, `user password`, `user remove` and
`user list` of both sides write it (`ynet.web.user_commands`), and a running process sees the change at once: who was
removed, or has a new password, is signed out.
"""
