"""A registered model behind HTTP, on Ray Serve; what can be refused is refused before Ray starts."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from numpy.typing import NDArray

from dlde import ray_session
from dlde.errors import InputError, PortInUseError, ServingError
from dlde.registry import package, registry
from dlde.serving import app as application

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WAITING = 64  # requests that may wait for a replica; more are answered 503 at once
NAME = "dlde"


@dataclass(frozen=True)
class Service:
    """A service that answers."""

    url: str
    name: str  # of the model, as it was asked for
    digest: str
    curl: str  # an example that works

    def dump(self) -> dict[str, Any]:
        """Plain data for a program."""
        return {"url": self.url, "model": self.name, "digest": self.digest, "curl": self.curl}


class Replica:
    """One copy of the model; Ray Serve makes `replicas` of them."""

    def __init__(self, folder: str, options: dict[str, Any], threads: int) -> None:
        _listen_on_loopback()
        torch.set_num_threads(threads)
        self.model = package.read(Path(folder), expected_digest=options.pop("digest"))
        self.options = options

    def __serve_build_asgi_app__(self) -> FastAPI:
        return application.build(self.model, **self.options)


@contextlib.contextmanager
def serving(
    root: Path,
    reference: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    replicas: int = 1,
    verbose: bool = False,
) -> Iterator[Service]:
    """Serve a model for a block, and leave no process behind.

    Raises, before Ray is started: InputError for a host that others reach without a token,
    UnknownNameError, IntegrityError, RegistryError, PortInUseError.
    """
    token = token or os.environ.get("DLDE_TOKEN") or None
    if host not in LOOPBACK and token is None:
        raise InputError(
            f"--host {host} lets other machines ask: give a bearer token by --token or DLDE_TOKEN, "
            "or stay on 127.0.0.1"
        )
    folder, version = registry.locate(root, reference)
    model = package.read(folder, expected_digest=version.digest if version else None)
    check_port(host, port)
    options = {
        "digest": model.digest,
        "registered": version.dump() if version else None,
        "token_digest": application.digest_of_token(token) if token else None,
    }
    with ray_session.session(num_cpus=max(4, os.cpu_count() or 1, replicas + 3), verbose=verbose):
        _deploy(str(folder), options, host, port, replicas, verbose)
        try:
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            yield Service(url, reference, model.digest, _curl(url, model, token is not None))
        finally:
            from ray import serve

            serve.shutdown()


def serve_forever(ready: Callable[[Service], None], **arguments: Any) -> None:
    """`serving` until SIGINT or SIGTERM; `ready` is called once the service answers.

    A signal during the start ends it as soon as Ray is up: cut short, Ray would leave processes behind.
    """
    ended = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def end(signum: int, frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        with serving(**arguments) as service:
            for number in numbers:  # again: Ray sets handlers of its own as it starts
                signal.signal(number, end)
            if not ended.is_set():
                ready(service)
            ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_port(host: str, port: int) -> None:
    """Raises PortInUseError where something listens on the port already, InputError for a bad host."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise InputError(f"--host {host}: {error.strerror}") from None
    except OSError as error:
        raise PortInUseError(
            f"port {port} on {host} is taken ({error.strerror}); end what listens there, or choose another "
            f"by --port {port + 1}",
            port=port,
            host=host,
        ) from None


def _deploy(folder: str, options: dict[str, Any], host: str, port: int, replicas: int, verbose: bool) -> None:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    level = "INFO" if verbose else "ERROR"
    quiet = LoggingConfig(log_level=level, enable_access_log=verbose)
    logging.getLogger("ray.serve").setLevel(level)
    serve.start(http_options={"host": host, "port": port, "location": "HeadOnly"}, logging_config=quiet)
    deployment = serve.deployment(
        num_replicas=replicas,
        max_queued_requests=WAITING,
        ray_actor_options={"num_cpus": 1},
        logging_config=quiet,
    )(serve.ingress()(Replica))
    try:
        serve.run(
            deployment.bind(folder, options, torch.get_num_threads()), name=NAME, route_prefix="/",
            logging_config=quiet,
        )  # fmt: skip
    except RuntimeError as error:
        serve.shutdown()
        raise ServingError(f"the service did not start: {error}") from error


def _listen_on_loopback() -> None:
    """A replica's own port, for other replicas, takes pickles behind Ray's token, on all addresses.

    The proxy is on this machine, so loopback is enough.
    """
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(
        server, address.replace("[::]", "127.0.0.1")
    )


def _curl(url: str, model: package.Model, guarded: bool) -> str:
    """A line for the shell that asks the first operation, and writes its answer to a file."""
    name, operation = next(iter(model.operations.items()))
    question = application.example(operation, name)
    arrays = [f"{key}={_numpy(np.asarray(value))}" for key, value in question["inputs"].items()]
    arrays += [f"**{{'options/{key}': {value}}}" for key, value in question.get("options", {}).items()]
    make = f"import sys, numpy as np; np.savez(sys.stdout.buffer, {', '.join(arrays)})"
    header = ' -H "Authorization: Bearer $DLDE_TOKEN"' if guarded else ""
    return (
        f'python -c "{make}" | curl -s{header} -H "Content-Type: {application.NPZ[0]}" '
        f"--data-binary @- '{url}/predict?operation={name}' -o answer.npz"
    )


def _numpy(array: NDArray[Any]) -> str:
    """An expression that makes the array: short where it holds one value alone."""
    if np.ptp(array) == 0:
        return f"np.full({array.shape}, {array.flat[0]:g})"
    return f"np.array({array.tolist()})"
