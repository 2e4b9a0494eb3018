"""Flask."""

import time

from flask import Flask, Response, redirect, request, send_file
from markupsafe import escape

from sites import seen

app = Flask(__name__)
app.config["PROPAGATE_EXCEPTIONS"] = False


@app.get("/")
def index():
    return "<p>hello</p>"


@app.route("/seen", methods=["GET", "POST"])
def see():
    return seen.environ(request.environ)


@app.get("/path/<path:rest>")
def path(rest):
    return str(escape(rest))


@app.post("/form")
def form():
    return dict(request.form)


@app.post("/upload")
def upload():
    file = request.files["file"]
    return {"name": file.filename, "type": file.content_type, "size": len(file.read())}


@app.post("/json")
def as_json():
    return {"received": request.get_json()}


@app.get("/redirect")
def other():
    return redirect("/")


@app.get("/cookies")
def cookies():
    response = Response("set")
    response.set_cookie("first", "1", httponly=True)
    response.set_cookie("second", "two words", max_age=60)
    return response


@app.get("/stream")
def stream():
    def parts():
        for number in range(3):
            yield f"part {number}\n"
            time.sleep(0.01)

    return Response(parts(), mimetype="text/plain")


@app.get("/empty")
def empty():
    return "", 204


@app.get("/error")
def error():
    raise ValueError("the view fails")


@app.get("/file")
def file():
    return send_file(__file__, mimetype="text/x-python")
