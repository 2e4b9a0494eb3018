"""Starlette."""

import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from sites import seen


@contextlib.asynccontextmanager
async def lifespan(_):
    yield {"started": "yes"}


async def index(_):
    return HTMLResponse("<p>hello</p>")


async def see(request):
    await request.body()
    return PlainTextResponse(seen.scope(request.scope))


async def path(request):
    return PlainTextResponse(request.path_params["rest"])


async def form(request):
    return JSONResponse(dict(await request.form()))


async def upload(request):
    file = (await request.form())["file"]
    size = len(await file.read())
    return JSONResponse({"name": file.filename, "type": file.content_type, "size": size})


async def as_json(request):
    return JSONResponse({"received": await request.json()})


async def other(_):
    return RedirectResponse("/")


async def cookies(_):
    response = PlainTextResponse("set")
    response.set_cookie("first", "1", httponly=True)
    response.set_cookie("second", "two words", max_age=60)
    return response


async def stream(_):
    async def parts():
        for number in range(3):
            yield f"part {number}\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(parts(), media_type="text/plain")


async def empty(_):
    return Response(status_code=204)


async def error(_):
    raise ValueError("the view fails")


async def file(_):
    return FileResponse(__file__, media_type="text/x-python")


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", index),
        Route("/seen", see, methods=["GET", "POST"]),
        Route("/path/{rest:path}", path),
        Route("/form", form, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
        Route("/json", as_json, methods=["POST"]),
        Route("/redirect", other),
        Route("/cookies", cookies),
        Route("/stream", stream),
        Route("/empty", empty),
        Route("/error", error),
        Route("/file", file),
    ],
)
