"""Falcon, as WSGI."""

import falcon

from sites import seen

app = falcon.App()
app.req_options.auto_parse_form_urlencoded = True


class View:
    def __init__(self, get=None, post=None):
        if get:
            self.on_get = get
        if post:
            self.on_post = post


def index(_, resp):
    resp.content_type = "text/html"
    resp.text = "<p>hello</p>"


def see(req, resp):
    resp.text = seen.environ(req.env)


def path(_, resp, rest):
    resp.content_type = "text/plain; charset=utf-8"
    resp.text = rest


def form(req, resp):
    resp.media = dict(req.get_media())


def upload(req, resp):
    for part in req.get_media():
        size = len(part.stream.read())
        resp.media = {"name": part.filename, "type": part.content_type, "size": size}


def as_json(req, resp):
    resp.media = {"received": req.get_media()}


def other(_, resp):
    raise falcon.HTTPFound("/")


def cookies(_, resp):
    resp.set_cookie("first", "1", secure=False)
    resp.set_cookie("second", "two", max_age=60, secure=False)
    resp.text = "set"


def stream(_, resp):
    resp.content_type = "text/plain"
    resp.stream = (f"part {number}\n".encode() for number in range(3))


def empty(_, resp):
    resp.status = 204


def error(_, resp):
    raise ValueError("the view fails")


def file(_, resp):
    resp.content_type = "text/x-python"
    # The server closes it.
    resp.stream = open(__file__, "rb")


app.add_route("/", View(index))
app.add_route("/seen", View(see, see))
app.add_route("/path/{rest:path}", View(path))
app.add_route("/form", View(post=form))
app.add_route("/upload", View(post=upload))
app.add_route("/json", View(post=as_json))
app.add_route("/redirect", View(other))
app.add_route("/cookies", View(cookies))
app.add_route("/stream", View(stream))
app.add_route("/empty", View(empty))
app.add_route("/error", View(error))
app.add_route("/file", View(file))
