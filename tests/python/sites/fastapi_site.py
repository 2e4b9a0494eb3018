"""FastAPI."""

import asyncio

from fastapi import FastAPI, Form, Request, Response, UploadFile
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)

from sites import seen

app = FastAPI()


@app.get("/")
def index():
    return HTMLResponse("<p>hello</p>")


@app.api_route("/seen", methods=["GET", "POST"])
async def see(request: Request):
    await request.body()
    return PlainTextResponse(seen.scope(request.scope))


@app.get("/path/{rest:path}")
def path(rest: str):
    return PlainTextResponse(rest)


@app.post("/form")
async def form(name: str = Form(), text: str = Form()):
    return {"name": name, "text": text}


@app.post("/upload")
async def upload(file: UploadFile):
    return {"name": file.filename, "type": file.content_type, "size": len(await file.read())}


@app.post("/json")
async def as_json(received: dict):
    return {"received": received}


@app.get("/redirect")
def other():
    return RedirectResponse("/")


@app.get("/cookies")
def cookies(response: Response):
    response.set_cookie("first", "1", httponly=True)
    response.set_cookie("second", "two words", max_age=60)
    return "set"


@app.get("/stream")
def stream():
    async def parts():
        for number in range(3):
            yield f"part {number}\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/empty", status_code=204)
def empty():
    return Response(status_code=204)


@app.get("/error")
def error():
    raise ValueError("the view fails")


@app.get("/file")
def file():
    return FileResponse(__file__, media_type="text/x-python")
