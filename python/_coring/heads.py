"""Heads of responses: validated once, then ready to be sent."""

from __future__ import annotations

import re
from typing import Any

from _coring.link import END, HEAD, HEAD_BYTES_MAX, pack_prefix

# How many heads are kept, and how long each may be.
REMEMBERED_MAX = 512
REMEMBERED_BYTES_MAX = 2048

_FIELDS = re.compile(rb"(?:\n[!#$%&'*+.^_`|~0-9A-Za-z-]+\0[\t\x20-\x7e\x80-\xff]*)*").fullmatch
_LENGTHS = re.compile(rb"\ncontent-length\0[ \t]*([^\n]*?)[ \t]*(?=\n|$)", re.IGNORECASE).findall
_CONNECTION = re.compile(
    rb"\n(connection|keep-alive|proxy-authenticate|proxy-authorization|te|trailers?"
    rb"|transfer-encoding|upgrade)\0[^\n]*",
    re.IGNORECASE,
)
_OPTIONS = re.compile(rb"\nconnection\0([^\n]*)", re.IGNORECASE).findall
_DECIMAL = re.compile(rb"[0-9]{1,19}").fullmatch


class Head:
    """The validated head of a response, ready to be sent."""

    __slots__ = ("has_body", "length", "part", "text", "whole")

    def __init__(self, status: int, text: bytes, length: int | None) -> None:
        self.text = text
        self.length = length
        self.has_body = status not in (204, 304)
        # How a message begins that holds the whole response, or its first part.
        self.whole = pack_prefix(HEAD, END, status, len(text))
        self.part = pack_prefix(HEAD, 0, status, len(text))


def make_head(status: int, reason: bytes, fields: bytes, count: int, tolerated: bytes) -> Head:
    r"""Validates a head.

    `fields` has `\n`, the name, `\0` and the value for each of `count` fields. Those that belong to
    the connection are left out if `tolerated` names them; others are an error.
    """
    if fields.count(b"\n") != count or not _FIELDS(fields):
        raise ValueError(_what_is_wrong(fields, count))
    if not 200 <= status <= 599:
        raise ValueError(f"the status {status} is not one of a final response")
    for match in _CONNECTION.finditer(fields):
        if match[1].lower() not in tolerated.split():
            name = match[1].decode()
            raise ValueError(f"the header {name!r} is the server's, not the application's")
    if _CONNECTION.search(fields):
        fields = _CONNECTION.sub(b"", _without_named(fields))
    lengths = set(_LENGTHS(fields))
    if len(lengths) > 1 or not all(map(_DECIMAL, lengths)):
        raise ValueError("the header 'Content-Length' is not one decimal number")
    length = int(lengths.pop()) if lengths else None
    text = reason + fields.replace(b"\0", b":")
    if len(text) > HEAD_BYTES_MAX:
        raise ValueError(f"the headers have {len(text)} bytes; {HEAD_BYTES_MAX} is the most")
    return Head(status, text, length)


def _without_named(fields: bytes) -> bytes:
    """The fields without those that Connection names (RFC 9110 §7.6.1)."""
    named = {name.strip().lower() for name in b",".join(_OPTIONS(fields)).split(b",")} - {b""}
    lines = fields.split(b"\n")
    return b"\n".join(line for line in lines if line.split(b"\0")[0].lower() not in named)


def remember(heads: dict[Any, Head], key: Any, head: Head) -> None:
    """Keeps a head, so that it need not be validated again."""
    if len(head.text) <= REMEMBERED_BYTES_MAX:
        if len(heads) >= REMEMBERED_MAX:
            heads.clear()
        try:
            heads[key] = head
        except TypeError:
            # Values like bytearray, which may change.
            pass


def _what_is_wrong(fields: bytes, count: int) -> str:
    if fields.count(b"\n") != count or fields.count(b"\0") != count:
        return "a header is not a pair of name and value, or has a control character in it"
    for line in fields.split(b"\n"):
        if line and not _FIELDS(b"\n" + line):
            name = line.split(b"\0")[0].decode("latin-1")
            return f"the header {name!r} has a character that is not allowed in its name or value"
    return "a header is not valid"


ERROR_BODY = b"Internal Server Error"
ERROR_HEAD = make_head(
    500, ERROR_BODY, b"\nContent-Type\0text/plain\nContent-Length\0%d" % len(ERROR_BODY), 2, b""
)
