"""Start Ray on this machine or connect to a cluster, and count its free resources."""

import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import TomosegError, UsageError, errors_as, import_package, one_line, shorten
from tomoseg.core.quiet import suppress_warnings
from tomoseg.core.threads import usable_threads

OBJECT_STORE_BYTES = 100_000_000  # only reports travel; Ray's own choice is a third of the memory
CONNECT_TIMEOUT_S = 10.0
# Ray waits for half a minute only, and the agent that it asks may begin late; its server for one client may die as it
# is forked (https://github.com/ray-project/ray/issues/63202), which shows as one of three errors
PASSING_ERRORS = (
    "timed out",
    "Starting Ray client server failed",
    "psutil.ZombieProcess",
    "Proxy failed to Connect to backend",
    "RuntimeEnv request failed",
)


@dataclass(frozen=True)
class WorkerResources:
    """What each worker gets.

    Attributes:
        workers: how many there are.
        cpus: CPU cores for each.
        gpus: GPUs for each, 0 or 1.
    """

    workers: int
    cpus: int
    gpus: int


@contextmanager
def connected(address: str | None, device: str) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster; one that already runs in this process is used and stays.

    Args:
        address: "auto", "HOST:PORT" or "ray://HOST:PORT" of a cluster; None to start Ray on this machine for as long
            as the `with` lasts.
        device: as in `RunOptions`.

    Raises:
        MissingPackageError: Ray is not installed.
        UsageError: there is no cluster at the address, or it is of another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # statistics that Ray sends home
    ray = import_package("ray", "ray", "ray")
    if ray.is_initialized():
        yield ray
        return
    places = ExitStack()  # no other user may read Ray's logs: it opens its own folder to all, in one that stays private
    try:
        with suppress_warnings():
            if address is None:
                gpus = 0 if device == "cpu" else torch.cuda.device_count()
                room = {"num_cpus": usable_threads(), "num_gpus": gpus, "object_store_memory": OBJECT_STORE_BYTES}
                folder = places.enter_context(TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
                _stay_at_home(ray, places)
                _init(ray, address="local", include_dashboard=False, _temp_dir=f"{folder}/ray", **room)
            else:
                _require_reachable(address)
                _init(ray, address=address)
    except TomosegError:
        raise
    except Exception as error:  # Ray, which raises errors of its own and built-in ones
        if address == "auto" and isinstance(error, ConnectionError):
            raise UsageError("Ray at auto: none runs on this machine. Start it with `ray start --head`") from error
        where = f"Ray at {address}" if address else "Ray on this machine"
        # Ray sends its token to no address by default
        advice = "; if it wants a token, set RAY_AUTH_MODE=token" if address else ""
        raise UsageError(f"{where}: {_reason(error)}{advice}") from error
    # no option of Ray's keeps it from printing a page on standard output for each worker that dies
    _set(ray._private.worker, "print_to_stdstream", lambda *_, **__: None, places)
    try:
        yield ray
    finally:
        ray.shutdown()
        places.close()


def require_resources(options: RunOptions, jobs: int | None) -> None:
    """Raise UsageError for options that are for one machine, and for a number of workers that no cluster has."""
    if options.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"device: expected auto, cpu or cuda with Ray, which chooses the GPU itself, got {options.device!r}"
        )
    if options.threads is not None:
        raise UsageError("--threads: is not for Ray, whose workers share the cores. Choose their number with --jobs")
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs: expected a number of workers, at least 1, got {jobs}")


def choose_share(
    machines: Sequence[Mapping[str, float]], device: str, jobs: int | None, elastic: bool
) -> WorkerResources:
    """Return how many workers there are, and what each gets: a GPU, or an even share of the CPU cores.

    Args:
        machines: "CPU" and "GPU" of each machine of the cluster.
        device: as in `RunOptions`.
        jobs: number of workers; None for one a GPU, or one a machine where the network runs on CPUs.
        elastic: whether machines may join later, so that more workers may be asked for than there is room for now.

    Raises:
        UsageError: there is no room.
    """
    gpus = [machine for machine in machines if machine.get("GPU", 0) >= 1]
    if device == "cuda" and not gpus and not elastic:
        raise UsageError("device: cuda asked for, but Ray finds no GPU. Use --device cpu")
    if device == "cuda" or (device == "auto" and gpus):
        there = int(sum(machine["GPU"] for machine in gpus))
        if jobs is not None and jobs > there and not elastic:
            raise UsageError(f"jobs: {jobs} workers asked for, but there are {there} GPUs, and each needs one")
        cpus = min((int(machine.get("CPU", 1) // machine["GPU"]) for machine in gpus), default=1)
        return WorkerResources(jobs or max(there, 1), max(cpus, 1), 1)
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    if not cores:
        raise UsageError("Ray: no machine of the cluster offers a CPU. Start it with --num-cpus")
    workers = jobs or len(cores)
    cpus = min(cores) // math.ceil(workers / len(cores))
    if cpus < 1 and not elastic:
        raise UsageError(f"jobs: {workers} workers asked for, but there are {sum(cores)} CPU cores, and each needs one")
    return WorkerResources(workers, max(cpus, 1), 0)


def machines_of(ray: Any) -> list[dict[str, float]]:
    """Return the resources of each machine of the cluster that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _stay_at_home(ray: Any, places: ExitStack) -> None:
    """Let what Ray starts listen at 127.0.0.1 only, as it does on systems whose firewalls ask about ports.

    Otherwise a dozen ports are open to the network, and there is no option against it.
    """
    _set(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False, places)
    # without a dashboard, all that this server does is to ask the cloud's metadata service for statistics
    _set(ray._private.services, "start_api_server", lambda *_, **__: (None, None), places)
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # for its processes
    places.callback(os.environ.pop, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)


def _set(home: Any, name: str, value: object, until: ExitStack) -> None:
    until.callback(setattr, home, name, getattr(home, name))
    setattr(home, name, value)


def _init(ray: Any, **options: Any) -> None:
    for tries_left in (2, 1, 0):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:  # Ray, as above
            ray.shutdown()
            if not tries_left or not any(passing in str(error) for passing in PASSING_ERRORS):
                raise


def _reason(error: Exception) -> str:
    """Return what an error says on one line; of a server's traceback, which may be in it, the end."""
    reported, traceback, _ = str(error).partition("Traceback (most recent call last)")
    return shorten(f"{reported} {str(error).rstrip().splitlines()[-1]}", 300) if traceback else one_line(error)


def _require_reachable(address: str) -> None:
    """Raise UsageError if no server listens at an address: Ray would try for more than a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdigit():
        raise UsageError(f"Ray: expected auto, HOST:PORT or ray://HOST:PORT as the address, got {address!r}")
    remedy = ". Start it with `ray start --head`"
    with errors_as(UsageError, f"Ray at {address}: no answer", OSError, OverflowError, remedy=remedy):
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
