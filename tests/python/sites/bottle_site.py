"""Bottle."""

import os

from bottle import Bottle, redirect, request, response, static_file

from sites import seen

app = Bottle()


@app.get("/")
def index():
    return "<p>hello</p>"


@app.route("/seen", method=["GET", "POST"])
def see():
    return seen.environ(request.environ)


@app.get("/path/<rest:path>")
def path(rest):
    response.content_type = "text/plain; charset=utf-8"
    return rest


@app.post("/form")
def form():
    return dict(request.forms)


@app.post("/upload")
def upload():
    file = request.files.get("file")
    return {"name": file.filename, "type": file.content_type, "size": len(file.file.read())}


@app.post("/json")
def as_json():
    return {"received": request.json}


@app.get("/redirect")
def other():
    redirect("/")


@app.get("/cookies")
def cookies():
    response.set_cookie("first", "1", httponly=True)
    response.set_cookie("second", "two", max_age=60)
    return "set"


@app.get("/stream")
def stream():
    response.content_type = "text/plain"
    for number in range(3):
        yield f"part {number}\n"


@app.get("/empty")
def empty():
    response.status = 204


@app.get("/error")
def error():
    raise ValueError("the view fails")


@app.get("/file")
def file():
    directory, name = os.path.split(__file__)
    return static_file(name, directory, mimetype="text/x-python")
