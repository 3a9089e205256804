"""A process that reads scans: a file that makes a library crash, hang or take all memory fails alone."""

from __future__ import annotations

import atexit
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

import psutil

from tomoseg.core.errors import MemoryLimitError, TomosegError, VolumeError, one_line, root_cause
from tomoseg.core.memory import is_out_of_memory, release_unused
from tomoseg.core.notes import collect_notes, take_note
from tomoseg.core.quiet import hear, native_output, note_warnings
from tomoseg.core.reading import ReadOptions, current_read_options, read_with

# -I: imports depend on this process, not on the working directory or the environment
START = "import sys; sys.path[:] = {!r}; from tomoseg.core.reader_process import serve; serve({})"
ALIGNMENT_BYTES = 64  # of each array
T = TypeVar("T")


def read_apart(function: Callable[..., T], name: object, *given: Any) -> T:
    """Return what a function of a module returns for `name` and what else is given, called in the reader process.

    The process is started by the first call, and serves all later ones, one at a time; a new one takes its place when
    it ends. The options of `tomoseg.core.reading` hold there, too.

    Args:
        function: the function; its arguments and its result are pickled.
        name: its first argument: the path of the scan, for errors.
        given: its other arguments.

    Raises:
        VolumeError: reading it takes too long, or crashes.
        MemoryLimitError: it takes more memory than the user's limit.
        MemoryError: it takes more memory than there is.
    """
    if _Reader.serving:
        return function(name, *given)
    with _Reader.lock:
        reader = _Reader.running
        if reader is None or reader.owner != os.getpid() or reader.process.poll() is not None:
            _end_reading()
            reader = _Reader.running = _Reader()
        return reader.call(function, name, *given)  # type: ignore[no-any-return]


def start_reading(module: str) -> None:
    """Start the reader process in the background and let it import a module, while this process imports others."""

    def start() -> None:
        with suppress(Exception):  # the first scan reports it
            read_apart(exec, f"import {module}")

    threading.Thread(target=start, daemon=True).start()


def stop_reading() -> None:
    """End the reader process at once: the call that waits for it fails."""
    if _Reader.running is not None and _Reader.running.owner == os.getpid():
        _Reader.running.process.kill()


@atexit.register
def _end_reading() -> None:
    """Leave no process and no open socket behind."""
    stop_reading()
    if _Reader.running is not None:
        if _Reader.running.owner == os.getpid():
            _Reader.running.process.wait()
        _Reader.running.socket.close()


class _Reader:
    """The process, seen from the one that asks."""

    lock = threading.Lock()
    running: _Reader | None = None
    serving = False  # this is the process itself

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.socket, theirs = socket.socketpair()
        with theirs:
            folders = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 - zip files, too
            command = [sys.executable, "-I", "-c", START.format(folders, theirs.fileno())]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # it needs no others
            self.process = Popen(command, stdin=DEVNULL, stdout=DEVNULL, env=environment, pass_fds=(theirs.fileno(),))

    def call(self, function: Callable[..., Any], name: object, *given: Any) -> Any:
        options, folder = current_read_options(), Path.cwd()
        try:
            with (
                suppress(OSError),
                self.socket.makefile("wb") as questions,
            ):  # if it has ended, its answer has the reason
                pickle.dump((folder, function, (name, *given), options), questions)
            try:
                raised, answer, notes = _receive(self.socket)
            except EOFError:
                raise _why_it_ended(str(name), self.process.wait(), options) from None
        except BaseException:
            self.process.kill()
            raise
        for note in notes:
            take_note(note)
        if not raised:
            return answer
        if isinstance(answer, MemoryError) and not isinstance(answer, TomosegError) and options.max_bytes is not None:
            raise MemoryLimitError(f"{name}: reading it takes more memory than --max-memory allows. Allow more.")
        raise answer


def serve(handle: int) -> None:
    """Answer what the process that started this one asks through a socket, until it ends."""
    _Reader.serving = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process handles Ctrl-C
    with socket.socket(fileno=handle) as answers, answers.makefile("rb") as questions:
        while questions.peek():
            folder, function, given, options = pickle.load(questions)
            os.chdir(folder)  # paths may be relative
            signal.setitimer(signal.ITIMER_REAL, options.read_timeout)  # without a handler, it ends the process
            with collect_notes() as notes, note_warnings():
                with native_output() as said:
                    answer = _answer(function, given, options)
                for line in () if answer[0] else said[0].decode(errors="replace").splitlines():
                    hear(line)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(answers, *answer, notes)
            del answer
            release_unused()


def _answer(function: Callable[..., Any], given: tuple[Any, ...], options: ReadOptions) -> tuple[bool, Any]:
    """Return whether an error was raised, and it or the result."""
    _limit_memory(options.room_bytes)
    try:
        with read_with(options):
            return False, function(*given)
    except Exception as error:  # libraries on damaged files raise errors of any kind
        cause = root_cause(error)
        if is_out_of_memory(cause) and not isinstance(error, MemoryError):
            return True, MemoryError(one_line(cause))
        return True, error
    finally:
        _limit_memory(None)


def _limit_memory(room: int | None) -> None:
    """Limit the further memory of the process in bytes, where the system supports it."""
    if sys.platform == "linux":
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = most if room is None else psutil.Process().memory_info().data + room
        resource.setrlimit(resource.RLIMIT_DATA, (limit if most < 0 or limit < 0 else min(limit, most), most))


def _send(to: socket.socket, raised: bool, answer: Any, notes: list[str]) -> None:
    """Send an answer as a file in memory, in which raw arrays follow the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        content = pickle.dumps((raised, answer, notes), 5, buffer_callback=buffers.append)
    except Exception as error:  # an error of a library that cannot be pickled
        content = pickle.dumps((True, RuntimeError(one_line(answer if raised else error)), notes))
        buffers.clear()
    arrays = [buffer.raw() for buffer in buffers]
    with _memory_file() as file:
        pickle.dump((content, list(map(len, arrays))), file)
        for array in arrays:
            file.seek(-file.tell() % ALIGNMENT_BYTES, os.SEEK_CUR)
            file.write(array)
        file.flush()
        socket.send_fds(to, [b"."], [file.fileno()])


def _memory_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("scan"), "wb") if sys.platform == "linux" else TemporaryFile()


def _receive(source: socket.socket) -> Any:
    """Return an answer, whose arrays are the pages of its file.

    Raises:
        EOFError: the process ended first.
    """
    _, handles, _, _ = socket.recv_fds(source, 1, 1)
    if not handles:
        raise EOFError
    with os.fdopen(handles[0], "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    content, lengths = pickle.load(pages)
    start, arrays = pages.tell(), []
    for length in lengths:
        start += -start % ALIGNMENT_BYTES
        arrays.append(memoryview(pages)[start : start + length])
        start += length
    return pickle.loads(content, buffers=arrays)


def _why_it_ended(name: str, status: int, options: ReadOptions) -> Exception:
    if status == -signal.SIGALRM:
        return VolumeError(
            f"{name}: reading it takes longer than {options.read_timeout:g} s. Pass a larger --read-timeout."
        )
    if status == -signal.SIGKILL:  # as Linux does where memory runs out
        return MemoryError(f"{name}: reading it was ended by the system")
    with suppress(ValueError):
        reason = signal.Signals(-status).name
        return VolumeError(f"{name}: its reader crashed ({reason}): the file is damaged. Write it again.")
    return VolumeError(f"{name}: the process that reads it ended with status {status}. Report it.")
