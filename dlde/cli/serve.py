"""`dlde serve MODEL`: a registered model behind HTTP, until it is told to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dlde.cli.console import Json, Root, Verbose, emit, say
from dlde.files import storage_root

if TYPE_CHECKING:
    from dlde.serving.deploy import Service


def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME, NAME@alias, NAME/version, or the path of a package.")
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="DLDE_TOKEN", help="Bearer token that every request must carry."),
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Copies of the model.")] = 1,
    root: Root = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Serve a registered model over HTTP.

    JSON or .npz, until Ctrl-C or SIGTERM.
    """
    from dlde.serving.deploy import serve_forever

    def ready(service: Service) -> None:
        human = (
            f"{service.name} answers at {service.url}\n"
            f"  documentation  {service.url}/docs\n"
            f"  card           {service.url}/model\n"
            f"  try it         {service.curl}\n"
            "Ctrl-C ends it."
        )
        emit(service.dump(), human, as_json=as_json)

    say(f"starting {model} on {host}:{port} ...")
    serve_forever(
        ready,
        root=storage_root(root),
        reference=model,
        host=host,
        port=port,
        token=token,
        replicas=replicas,
        verbose=verbose,
    )
    say("ended")
