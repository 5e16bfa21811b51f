"""What is refused before Ray is started; Ray itself is in `test_serve.py`."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dlde import ray_session
from dlde.errors import DldeError, InputError, IntegrityError, PortInUseError, UnknownNameError
from dlde.registry import registry
from dlde.registry.registry import Version
from dlde.serving import deploy


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray_session, "start", refuse)
    monkeypatch.delenv("DLDE_TOKEN", raising=False)


def serve(root: Path, reference: str = "linear", **options: object) -> None:
    with deploy.serving(root, reference, **options):  # type: ignore[arg-type]
        pass


def test_taken_port_is_named(root: Path, champion: Version) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            PortInUseError, match=rf"port {port} on 127\.0\.0\.1 is taken .*--port {port + 1}"
        ):
            serve(root, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", ""])  # noqa: S104
def test_other_machines_need_a_token(root: Path, champion: Version, host: str) -> None:
    with pytest.raises(InputError, match="bearer token by --token or DLDE_TOKEN"):
        serve(root, host=host)


def test_unknown_host_is_refused(root: Path, champion: Version) -> None:
    with pytest.raises(InputError, match="--host"):
        serve(root, host="no such host", token="t")  # noqa: S106


def test_unknown_or_altered_model_is_refused(root: Path, champion: Version) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        serve(root, "liner")
    weights = registry.resolve(root, "linear") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors was altered"):
        serve(root)


def test_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**_: object) -> None:
        raise RuntimeError("no GCS\nand a long trace")

    monkeypatch.undo()
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(DldeError, match=r"^Ray did not start: no GCS \(its log files") as error:
        ray_session.start()
    assert "trace" not in error.value.message
