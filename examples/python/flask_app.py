"""A Flask application: pip install flask, then coring run flask_app.py"""

import time

from flask import Flask

app = Flask(__name__)


@app.route("/")
def hello():
    return "hello world"


@app.route("/slow")
def slow():
    """Sleep three times. Other threads of the worker serve other requests meanwhile."""
    for _ in range(3):
        time.sleep(0.1)
    return "slept three times\n"
