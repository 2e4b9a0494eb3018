"""The page as a Flask application."""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello():
    return "<b>hello world</b>"
