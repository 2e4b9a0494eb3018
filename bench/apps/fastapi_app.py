"""The page as a FastAPI application, as in the articles. `/calls` has the number of its calls."""

import calls
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

app = FastAPI()


@app.get("/", response_class=HTMLResponse)
async def hello():
    calls.add()
    return "<b>hello world</b>"


@app.get("/calls", response_class=HTMLResponse)
async def calls_made():
    return str(calls.made())
