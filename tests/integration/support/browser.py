#!/usr/bin/env python3
"""Opens a room of the example `events` twice in Chromium, headless, and sends messages by its form:
browser.py URL. Each page must show the messages of both, once. Chromium is driven by the DevTools
protocol over a pipe: messages in JSON, each ended by a zero byte.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

PATIENCE = 60
SHOWN = "[...document.querySelectorAll('li')].map(each => each.textContent).join('|')"
SAY = """document.querySelector('input').value = %s;
document.querySelector('form').requestSubmit()"""


class Chromium:
    def __init__(self, profile):
        their_in, self.writer = os.pipe()
        self.reader, their_out = os.pipe()
        command = ["chromium", "--headless", "--disable-gpu", "--no-first-run", "--no-sandbox",
                   "--disable-dev-shm-usage", "--disable-background-networking",
                   f"--user-data-dir={profile}", "--remote-debugging-pipe"]

        def descriptors():
            # Above 4 first, because one of them may be 3 or 4.
            ends = os.dup2(their_in, 50), os.dup2(their_out, 51)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(command, close_fds=False, preexec_fn=descriptors,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(their_in)
        os.close(their_out)
        self.unread, self.count = b"", 0

    def call(self, method, session=None, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.unread:
                received = os.read(self.reader, 1 << 16)
                if not received:
                    sys.exit("browser.py: chromium has ended")
                self.unread += received
            text, self.unread = self.unread.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self.count:
                if "error" in answer:
                    sys.exit(f"browser.py: {method}: {answer['error']}")
                return answer["result"]

    def open(self, url):
        target = self.call("Target.createTarget", url=url)["targetId"]
        return self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def evaluate(self, page, expression):
        result = self.call("Runtime.evaluate", page, expression=expression, returnByValue=True)
        return result["result"].get("value")

    def expect(self, page, expression, expected):
        deadline = time.monotonic() + PATIENCE
        while (value := self.evaluate(page, expression)) != expected:
            if time.monotonic() > deadline:
                sys.exit(f"browser.py: {value!r} instead of {expected!r}")
            time.sleep(0.05)


def main():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        chromium = Chromium(profile)
        try:
            pages = [chromium.open(sys.argv[1]) for _ in range(2)]
            for page in pages:
                chromium.expect(page, "document.readyState", "complete")
                chromium.expect(page, "document.querySelector('h1')?.textContent", "tea")
            shown = []
            for page, text in [(pages[0], "hello"), (pages[1], "<b>hi</b>"), (pages[0], "你好")]:
                chromium.evaluate(page, SAY % json.dumps(text))
                shown.append(text)
                for each in pages:
                    chromium.expect(each, SHOWN, "|".join(shown))
            chromium.call("Browser.close")
            chromium.process.wait(PATIENCE)
        finally:
            chromium.process.kill()
            chromium.process.wait()
    print("shown")


main()
