"""A real browser, where the machine has one: what a page shows there, and whom it asks."""

from __future__ import annotations

import asyncio
import contextlib
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
    with _tab(page.as_uri(), folder) as tab:
        time.sleep(2)
        return asyncio.run(_ask(tab, f"[location.href, {expression}]", window))


def heard(pages, folder):
    """What each of the files has the browser ask for besides the file itself, and all that it says of it.

    Pages come one after another, with printing and the dark in mind: each is looked at as it is on a screen, light and
    dark, and on paper.
    """
    with _tab("about:blank", folder) as tab:
        return {page.name: found for page, found in asyncio.run(_listen(tab, pages)).items()}


@contextlib.contextmanager
def _tab(address, folder):
    """The debugger's address of a browser's tab in which a page is open."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "--disable-extensions"]
    browser = subprocess.Popen(
        [PROGRAM, *options, address],
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
        yield tab["webSocketDebuggerUrl"]
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


async def _listen(address, pages):
    from tornado.websocket import websocket_connect

    connection = await websocket_connect(address, max_message_size=2**26)
    found = {}
    for domain in ("Network", "Log", "Runtime", "Page"):
        await _answer(connection, f"{domain}.enable", {})
    for page in pages:
        said = found[page] = []
        await _answer(connection, "Page.navigate", {"url": page.as_uri()}, said)
        for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "light")):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await _answer(connection, "Emulation.setEmulatedMedia", {"media": media, "features": features}, said)
            done = {"expression": _DRAWN, "awaitPromise": True, "returnByValue": True}
            state = await _answer(connection, "Runtime.evaluate", done, said)
            assert state["result"]["value"] == page.as_uri()
        said[:] = [text for text in said if text != page.as_uri() and not text.startswith("data:")]
    connection.close()
    while await connection.read_message() is not None:
        pass
    return found


_DRAWN = """new Promise(done => {
    const drawn = () => requestAnimationFrame(() => requestAnimationFrame(() => done(location.href)));
    document.readyState === "complete" ? drawn() : addEventListener("load", drawn);
})"""

_SAID = {
    "Network.requestWillBeSent": lambda event: event["request"]["url"],
    "Log.entryAdded": lambda event: event["entry"]["text"],
    "Runtime.consoleAPICalled": lambda event: f"{event['type']}: {event['args']}",
    "Runtime.exceptionThrown": lambda event: event["exceptionDetails"]["text"],
}


async def _answer(connection, method, parameters, said=None):
    """What the browser answers; what it tells of by itself before goes to `said`."""
    await connection.write_message(json.dumps({"id": 1, "method": method, "params": parameters}))
    while "id" not in (answer := json.loads(await connection.read_message())):
        if said is not None and answer["method"] in _SAID:
            said.append(_SAID[answer["method"]](answer["params"]))
    return answer["result"]
