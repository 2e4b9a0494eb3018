"""A WSGI application without a framework: a page at `/`, an echo at `/echo`, 404 elsewhere.

`/calls` has the number of calls of the page.
"""

import calls

HTML = [("Content-Type", "text/html")]


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/":
        calls.add()
        body = b"<b>hello world</b>"
        start_response("200 OK", [*HTML, ("Content-Length", str(len(body)))])
        return [body]
    if path == "/echo":
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        start_response("200 OK", [*HTML, ("Content-Length", str(len(body)))])
        return [body]
    if path == "/calls":
        body = str(calls.made()).encode()
        start_response("200 OK", [*HTML, ("Content-Length", str(len(body)))])
        return [body]
    body = b"<h1>Not Found</h1>"
    start_response("404 Not Found", [*HTML, ("Content-Length", str(len(body)))])
    return [body]
