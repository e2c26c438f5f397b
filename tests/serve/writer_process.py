"""The log's writer as a process of its own that can be killed, and a `LogSink` that speaks to it over a pipe."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from rayplat.settings import Settings


def serve(home: str, address: str, commit_s: float) -> None:
    """Answer calls of one connection after the other until killed."""
    from rayplat.serve.log.writer import InferenceLogWriter

    settings = Settings(home=Path(home))
    log = settings.log.model_copy(update={"commit_s": commit_s, "compact_s": 0.5, "compact_files": 8})
    writer = InferenceLogWriter(settings.model_copy(update={"log": log}))
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    with Listener(address, family="AF_UNIX") as listener:
        os.write(1, b"ready\n")
        while True:
            with listener.accept() as connection:
                _answer(writer, loop, connection)


def _answer(writer: Any, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
    lock = threading.Lock()

    def reply(number: int, done: Future[Any]) -> None:
        error = done.exception()
        with lock:
            connection.send((number, error, None if error else done.result()))

    try:
        while True:
            number, method, arguments = connection.recv()
            done = asyncio.run_coroutine_threadsafe(getattr(writer, method)(*arguments), loop)
            done.add_done_callback(lambda done, number=number: reply(number, done))
    except (EOFError, OSError):
        return


class WriterProcess:
    """A `LogSink` over a writer that `kill` ends with SIGKILL and starts anew."""

    def __init__(self, settings: Settings, folder: Path, commit_s: float = 0.05) -> None:
        self._settings, self._folder, self._commit_s = settings, folder, commit_s
        self._lock = threading.Lock()
        self._starts = 0
        self.acknowledged = 0
        self._start()

    def _start(self) -> None:
        self._starts += 1
        address = str(self._folder / f"w{self._starts}")
        call = f"serve({str(self._settings.home)!r}, {address!r}, {self._commit_s})"
        code = f"from tests.serve.writer_process import serve; {call}"
        self._process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._calls: dict[int, Future[Any]] = {}
        self._number = 0
        self._connection = Client(address, family="AF_UNIX")
        threading.Thread(target=self._listen, args=(self._connection, self._calls), daemon=True).start()

    def _listen(self, connection: Connection, calls: dict[int, Future[Any]]) -> None:
        try:
            while True:
                number, error, result = connection.recv()
                call = calls.pop(number)
                if error is None:
                    self.acknowledged += 1
                    call.set_result(result)
                else:
                    call.set_exception(error)
        except (EOFError, OSError):
            with self._lock:
                for call in calls.values():
                    call.set_exception(ConnectionError("the writer died"))
                calls.clear()

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._process.poll() is not None:
                raise ConnectionError("the writer is dead")
            self._number += 1
            self._calls[self._number] = future
            self._connection.send((self._number, method, arguments))
        return future

    def write(self, batch: bytes, epoch: str, seq: int) -> Future[None]:
        return self.call("write", batch, epoch, seq)

    def flush(self) -> None:
        self.call("flush")

    def seen(self, epoch: str, counts: dict[str, int], closed: bool) -> None:
        self.call("seen", epoch, counts, closed)

    def kill(self) -> None:
        """SIGKILL, and a new one."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with self._lock:
            self._connection.close()
        self._start()

    def close(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
