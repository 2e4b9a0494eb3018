"""The page as a FastAPI application, as in the articles."""

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

app = FastAPI()


@app.get("/", response_class=HTMLResponse)
async def hello():
    return "<b>hello world</b>"
