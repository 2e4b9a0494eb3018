"""The page as a Flask application. `/calls` has the number of its calls."""

import calls
from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello():
    calls.add()
    return "<b>hello world</b>"


@app.get("/calls")
def calls_made():
    return str(calls.made())
