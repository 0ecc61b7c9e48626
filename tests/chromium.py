"""A real browser, where the machine has one: what a page shows there, and whom it asks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from urllib.request import urlopen

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def evaluated(page, expression, folder, window=None):
    """Where the browser is two seconds after it opened the file `page`, and the value of JavaScript there.

    `window` is the width and the height of its window in pixels.
    """
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "--disable-extensions"]
    browser = subprocess.Popen(
        [PROGRAM, *options, page.as_uri()],
        env=os.environ | {"HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = _port(folder / "profile" / "DevToolsActivePort")
        with urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
            targets = json.load(answer)
        (tab,) = (target for target in targets if target["type"] == "page")
        time.sleep(2)
        return asyncio.run(_ask(tab["webSocketDebuggerUrl"], f"[location.href, {expression}]", window))
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


def _port(file):
    deadline = time.monotonic() + 30
    while not (file.is_file() and len(file.read_text().split()) == 2):
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.05)
    return file.read_text().split()[0]


async def _ask(address, expression, window):
    from tornado.websocket import websocket_connect

    connection = await websocket_connect(address, max_message_size=2**26)
    if window is not None:
        sizes = {"width": window[0], "height": window[1], "deviceScaleFactor": 1, "mobile": False}
        await _answer(connection, "Emulation.setDeviceMetricsOverride", sizes)
    answer = await _answer(connection, "Runtime.evaluate", {"expression": expression, "returnByValue": True})
    connection.close()
    while await connection.read_message() is not None:
        pass  # until the browser has closed its end too
    return answer["result"]["value"]


async def _answer(connection, method, parameters):
    await connection.write_message(json.dumps({"id": 1, "method": method, "params": parameters}))
    while "id" not in (answer := json.loads(await connection.read_message())):
        pass
    return answer["result"]
