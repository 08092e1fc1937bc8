"""Fixtures; what they are made of is in worker_kit.py, beside this file."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent))  # tests are no packages; worker_kit is a name of its own

from worker_kit import Model, Router, Running, StartWorker, bundle, environ, serving

from pyworker import Worker, WorkerConfig
from schemas.signals import WorkerBundle
from schemas.states import WorkerState


def pytest_asyncio_loop_factories(config, item):
    """On the loop that workers run on: transports differ in what they take and when they tell."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    made = Router()
    app = web.Application()
    app.router.add_get("/.well-known/jwks.json", made._serve)
    async with serving(app) as made.url:
        yield made


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    made = Model()
    async with serving(made.app) as made.url:
        yield made


@pytest.fixture
async def start_worker(router: Router, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """start_worker(config, ready=True, bundle=..., **environ) -> Running; ended with the test."""
    started: list[Running] = []

    async def start(config: WorkerConfig, *, ready: bool = True, made: WorkerBundle | None = None, **env: str) -> Running:
        made = made or bundle(router.url)
        worker = Worker(config, environ=environ(made, tmp_path / made.worker_id, **env))
        agent = worker.agent(worker.settings())
        running = Running(agent, asyncio.create_task(agent.run()), made.worker_id)
        started.append(running)
        if ready:
            await running.until(WorkerState.READY)
        return running

    yield start
    running = [one.task for one in started if not one.task.done()]
    for task in running:
        task.cancel()
    for task in running:
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session
