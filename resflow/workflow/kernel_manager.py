"""Managers of kernels that find them ready, and end them, as soon as they are."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from queue import Empty

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

__all__ = ["PromptKernelManager", "RestingKernelManager"]


class _PromptKernelClient(AsyncKernelClient):
    """Takes a kernel for ready once it has answered and its output is heard.

    jupyter_client's own waits for a fifth of a second of silence besides, so that no output of the kernel's start is
    taken for that of a cell. Who executes notebooks tells outputs apart by the cell that they answer to.
    """

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait until the kernel can be given cells.

        Raises:
            RuntimeError: If it dies, or takes longer than `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.kernel_info()
            with suppress(Empty):
                reply = await self.shell_channel.get_msg(timeout=1)
                if reply["msg_type"] == "kernel_info_reply":
                    await self.iopub_channel.get_msg(timeout=0.2)
                    self._handle_kernel_info_reply(reply)
                    return
            if not await self.is_alive():
                raise RuntimeError("Kernel died before it was ready")
            if deadline is not None and time.monotonic() > deadline:
                raise RuntimeError(f"Kernel didn't respond in {timeout:g} seconds")


class PromptKernelManager(AsyncKernelManager):
    """Interrupts no kernel that is to end and has nothing to do, as that would complain about it on its way out.

    One that is to end now is killed.

    Attributes:
        exit_code: That of a kernel that was found dead, a signal's number with a minus; None while none was.
        at_rest: Whether no cell is being executed.
    """

    exit_code: int | None = None
    at_rest = False

    @default("client_factory")
    def _client_factory(self) -> type:
        return _PromptKernelClient

    async def _async_is_alive(self) -> bool:
        if alive := await super()._async_is_alive():
            return alive
        if self.provisioner is not None and self.exit_code is None:
            self.exit_code = await self.provisioner.poll()
        return False

    is_alive = _async_is_alive

    async def _async_wait(self, pollinterval: float = 0.02) -> None:
        """Until it has ended, looked for more often than ten times a second, which is how long ending takes."""
        await super()._async_wait(min(pollinterval, 0.02))

    async def _async_interrupt_kernel(self) -> None:
        if not (self.shutting_down and self.at_rest):
            await super()._async_interrupt_kernel()

    interrupt_kernel = _async_interrupt_kernel

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # type: ignore[override]
        if now and self.provisioner is not None:
            # A signal may have come while a cell was waited for: that would otherwise report the kernel's death.
            waiting = asyncio.all_tasks() - {asyncio.current_task()}
            for task in waiting:
                task.cancel()
            if waiting:
                ended, _ = await asyncio.wait(waiting, timeout=1.0)
                for task in ended:
                    _ = task.cancelled() or task.exception()
            await self.provisioner.kill()
        await super().shutdown_kernel(now=now, restart=restart)


class RestingKernelManager(PromptKernelManager):
    """The same for a notebook that may be ended without its cells being told."""

    at_rest = True
