"""A FastAPI application: pip install fastapi, then coring run fastapi_app.py"""

import asyncio

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def hello():
    return {"message": "hello world"}


@app.get("/slow")
async def slow():
    """Sleep three times. The event loop serves other requests meanwhile."""
    for _ in range(3):
        await asyncio.sleep(0.1)
    return {"message": "slept three times"}
