"""The cloud in one process: ministack with our services in its places, behind one loopback port.

Importing this module imports ministack, which reads its settings from the environment: `__main__` prepares that
first.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig
from ministack import app
from ministack.core import lambda_runtime

from local_aws import cloudformation, containers, fidelity, iam
from local_aws.autoscaling import AutoScaling
from local_aws.codebuild import CodeBuild
from local_aws.faults import PATH as FAULTS_PATH
from local_aws.faults import Switchboard
from local_aws.iam import Roles
from local_aws.images import Images
from local_aws.registry import SageMakerAccount
from local_aws.sagemaker import SageMaker
from local_aws.settings import Settings
from local_aws.stepfunctions import StepFunctions

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Cloud:
    """ministack, completed. There can be one in a process: ministack keeps its state in modules."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = Switchboard()
        self._ready = asyncio.Event()
        roles = Roles(settings)
        images = Images(settings, roles)
        account = SageMakerAccount(settings=settings, roles=roles, images=images, faults=self.faults)
        sagemaker = SageMaker(account)
        step_functions = StepFunctions(settings, roles)
        iam.install_sagemaker_actions(settings)
        sagemaker.install()
        CodeBuild(settings, roles, images).install()
        step_functions.install()
        fidelity.install(settings)
        AutoScaling(account, sagemaker.endpoints, sagemaker.components).install()  # on the alarms as corrected
        cloudformation.install(sagemaker, step_functions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: our control path, and everything else to ministack."""
        if scope["type"] == "lifespan":
            await app.app(scope, receive, self._noting_readiness(send))
        elif scope["type"] == "http" and scope["path"] == FAULTS_PATH:
            await self._control(scope["method"], receive, send)
        else:
            await app.app(scope, receive, send)

    def _noting_readiness(self, send: Send) -> Send:
        async def note(message: dict[str, Any]) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._ready.set()

        return note

    async def _control(self, method: str, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, answer = self.faults.handle(method, body)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def serve(self, listener: socket.socket, *, stop_at_end_of_stdin: bool) -> None:
        """Serve until SIGTERM or SIGINT, then end every child."""
        config = HypercornConfig()
        config.bind = [f"fd://{listener.fileno()}"]
        config.keep_alive_timeout = 75
        config.graceful_timeout = 0.5
        config.loglevel = "WARNING"
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if stop_at_end_of_stdin:
            loop.add_reader(sys.stdin, stop.set)
        announce = asyncio.create_task(self._announce())
        try:
            await hypercorn_serve(self, config, shutdown_trigger=stop.wait)
        finally:
            announce.cancel()
            if stop_at_end_of_stdin:
                loop.remove_reader(sys.stdin)
            lambda_runtime.reset()
            containers.end_all()

    async def _announce(self) -> None:
        await self._ready.wait()
        with contextlib.suppress(BrokenPipeError):
            print(f"ready {self.settings.url}", flush=True)
