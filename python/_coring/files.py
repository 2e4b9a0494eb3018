"""Files of a WSGI application: the body of a request, and `wsgi.file_wrapper`."""

from __future__ import annotations

import io
import os
from typing import Any, Iterator

from _coring.link import BODY_BYTES_MAX


class Spooled(io.RawIOBase):
    """A request body in a file: bytes from 0 to `length`, wherever the file's own offset is."""

    def __init__(self, fd: int, length: int) -> None:
        self._fd = fd
        self._length = length
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = min(len(buffer), self._length - self._offset)
        size = os.preadv(self._fd, [memoryview(buffer)[:room]], self._offset) if room > 0 else 0
        self._offset += size
        return size

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


class FileWrapper:
    """`wsgi.file_wrapper`: the blocks of a file from where it stands.

    It reads when it is iterated.
    """

    def __init__(self, filelike: Any, block_size: int = BODY_BYTES_MAX) -> None:
        self.filelike = filelike
        self.block_size = max(block_size, BODY_BYTES_MAX)
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.filelike.read(self.block_size)
        if block:
            return block
        raise StopIteration
