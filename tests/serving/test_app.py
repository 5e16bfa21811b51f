"""The web application without Ray: every request is answered, none crashes it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlde.registry import package
from dlde.serving import app as application
from dlde.serving import wire

LIMIT = 100_000
NPZ = {"content-type": "application/x-npz"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def model(original: tuple[Path, str]) -> package.Model:
    return package.read(original[0])


@pytest.fixture(scope="module")
def client(model: package.Model) -> Iterator[TestClient]:
    registered = {"name": "linear", "version": 3}
    with TestClient(application.build(model, registered=registered, max_bytes=LIMIT)) as client:
        yield client


@pytest.fixture(scope="module")
def ask(client: TestClient) -> Callable[..., httpx.Response]:
    def post(inputs: Any, **more: Any) -> httpx.Response:
        return client.post("/predict", json={"inputs": inputs, **more})

    return post


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: Any, **header: Any) -> bytes:
    """An .npy file, with parts of its header told otherwise."""
    buffer = io.BytesIO()
    told = {**np.lib.format.header_data_from_array_1_0(array), **header}
    np.lib.format.write_array_header_1_0(buffer, told)
    return buffer.getvalue() + array.tobytes()


def test_json_answer_is_bitwise_the_model_s(model: package.Model, ask: Any) -> None:
    u = torch.randn(3, 8, 1)
    response = ask({"u": u.tolist()})
    assert response.status_code == 200
    answered = torch.tensor(response.json()["outputs"]["u"], dtype=torch.float32)
    assert torch.equal(answered, model.answer("predict", {"u": u})[0]["u"])
    assert response.json()["model"] == {"name": "linear", "version": 3, "digest": model.digest}
    assert response.json()["warnings"] == []


def test_npz_answer_is_bitwise_the_model_s(model: package.Model, client: TestClient) -> None:
    u, x = torch.randn(3, 8, 1), np.arange(8) / 8
    for kind in application.NPZ:
        body = npz(**{"u": u.numpy(), "coordinates/x": x})
        response = client.post("/predict", content=body, headers={"content-type": kind})
        assert response.status_code == 200, response.text
        with np.load(io.BytesIO(response.content), allow_pickle=False) as answered:
            expected = model.answer("predict", {"u": u})[0]["u"].numpy()
            np.testing.assert_array_equal(answered["u"], expected)
        assert response.headers["x-dlde-warnings"] == "[]"


def test_every_float32_survives_json() -> None:
    bits = torch.randint(-(2**31), 2**31, (10_000,), generator=torch.Generator().manual_seed(1))
    values = bits.to(torch.int32).view(torch.float32)
    values = values[torch.isfinite(values)]
    text = json.dumps({"inputs": wire.write_json({"u": values})})
    assert torch.equal(wire.read_json(text.encode()).inputs["u"].to(torch.float32), values)


def test_other_operation_by_name(ask: Any, client: TestClient) -> None:
    u = np.ones((1, 8, 1), "float32")
    response = ask({"u": u.tolist(), "v": u.tolist()}, operation="add")
    assert response.json()["outputs"]["u"] == (2 * u).tolist()
    binary = client.post("/predict?operation=add", content=npz(u=u, v=u), headers=NPZ)
    assert np.load(io.BytesIO(binary.content))["u"].max() == 2
    unknown = ask({"u": u.tolist()}, operation="predcit")
    assert unknown.status_code == 422
    assert "did you mean 'predict'" in unknown.json()["error"]


def test_input_unlike_the_training_data_is_answered_with_a_warning(ask: Any, client: TestClient) -> None:
    u = np.full((1, 8, 1), 99.0)
    assert "outside the training range" in ask({"u": u.tolist()}).json()["warnings"][0]
    binary = client.post("/predict", content=npz(u=u), headers=NPZ)
    assert "outside the training range" in json.loads(binary.headers["x-dlde-warnings"])[0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"u": [[0.1]]}, "'u' has shape (1, 1), expected (batch, x = 8, channel = 1)"),
        ({"u": [[[0.1]] * 7]}, "x is 7"),
        ({"u": [[[0.1, 0.2]] * 8]}, "channel is 2"),
        ({"u": []}, "'u' has shape (0,)"),
        ({"u": [[[0.1]] * 7 + [[]]]}, "ragged"),
        ({"u": [[["0.1"]] * 8]}, "not numbers"),
        ({"u": [[[None]] * 8]}, "not numbers"),
        ({"u": [[[True]] * 8]}, "not numbers"),
        ({"u": [[[{}]] * 8]}, "not numbers"),
        ({"u": [[[10**400]] * 8]}, "not numbers"),
        ({"u": [[[1e300]] * 8]}, "8 values that are NaN or infinite"),
        ({"u": "0.1"}, "must be nested lists of numbers, got str"),
        ({"u": None}, "got NoneType"),
        ({"w": [[[0.1]] * 8]}, "unknown input 'w'; known: u"),
        ({}, "input 'u' is missing: expected (batch, x = 8, channel = 1)"),
        ([1], "'inputs' must map names"),
        ({str(i): [] for i in range(65)}, "65 arrays"),
    ],
    ids=range(17),
)
def test_inputs_that_do_not_fit_say_what_does(ask: Any, inputs: Any, message: str) -> None:
    response = ask(inputs)
    assert response.status_code == (413 if "65 arrays" in message else 422), response.text
    assert message in response.json()["error"]


def test_refusal_describes_the_expected_arrays(ask: Any) -> None:
    expected = ask({}).json()["expected"]["u"]
    assert expected == {
        "shape": "(batch, x = 8, channel = 1)",
        "dtype": "float32",
        "units": "dimensionless",
        "meaning": "state",
    }


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        ({"x": (np.arange(8) / 4).tolist()}, "grid must be uniform from 0 to 1"),
        ({"x": [0.0, 0.5]}, "has shape (2,), expected (8,)"),
        ({"y": [0.0]}, "unknown coordinate 'y'"),
        ({"x": []}, "empty"),
        ({"x": [[0.0] * 8]}, "has shape (1, 8)"),
    ],
)
def test_other_grids_are_refused(ask: Any, coordinates: Any, message: str) -> None:
    response = ask({"u": [[[0.1]] * 8]}, coordinates=coordinates)
    assert response.status_code == 422
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"u"',
        b"\xff\xfe",
        b'{"inputs": {"u": [[[NaN]]]}}',
        b'{"inputs": {"u": [[[Infinity]]]}}',
        b'{"inputs": {"u": ' + b"[" * 2000 + b"]" * 2000 + b"}}",
        b'{"inputs": {"u": ' + b"[" * 40_000,
        b'{"inputs": {"u": ' + b"[" * 40_000 + b"]" * 40_000 + b"}}",
        b'{"inputs": {"u": [' + b"9" * 5000 + b"]}}",
        b'{"input": {}}',
        b'{"inputs": {}, "operation": 3}',
        b'{"inputs": {}, "operation": "__init__"}',
        b'{"inputs": {}, "operation": "build"}',
    ],
    ids=range(16),
)
def test_malformed_json_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post("/predict", content=body, headers=JSON)
    assert response.status_code == 422, response.text
    assert response.json()["error"]


ONES = np.ones((1, 8, 1), "float32")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not a readable .npz"),
        (b"PK\x03\x04", "not a readable .npz"),
        (npz(u=ONES)[:-30], "not a readable .npz"),
        (npz(u=ONES).replace(b"NUMPY", b"NUMPX"), "not a readable .npz"),
        (npz(u=np.array([{}], dtype=object)), "type object"),
        (npz(u=np.array(["a"])), "type <U1"),
        (npz(u=ONES.astype(complex)), "type complex128"),
        (npz(u=ONES > 0), "type bool"),
        (zipped(("u.npy", npy(ONES, shape=(10**12, 8, 1)))), "declares shape"),
        (zipped(("u.npy", npy(ONES, shape=(-1, 8, 1)))), "declares shape"),
        (zipped(("u.npy", npy(ONES, descr="|V4"))), "type"),
        (zipped(("u.npy", npy(ONES, descr=[("a", "<f4")]))), "type"),
        (zipped(("u.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16)), "not a readable .npz"),
        (zipped(("u.txt", b"1")), "not an array of its own"),
        (zipped(("u.pkl", b"\x80\x04.")), "not an array of its own"),
        (zipped(), "input 'u' is missing"),
        (zipped(("../u.npy", npy(ONES))), "unknown input '../u'"),
    ],
    ids=range(17),
)
def test_malformed_npz_is_refused(client: TestClient, body: bytes, message: str) -> None:
    response = client.post("/predict", content=body, headers=NPZ)
    assert response.status_code == 422, response.text
    assert message in response.json()["error"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archive_with_one_name_twice_is_refused(client: TestClient) -> None:
    body = zipped(("u.npy", npy(ONES)), ("u.npy", npy(ONES)))
    assert client.post("/predict", content=body, headers=NPZ).status_code == 422


def test_bombs_are_refused_before_they_unpack(client: TestClient) -> None:
    bomb = zipped(("u.npy", bytes(10 * LIMIT)), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < LIMIT
    response = client.post("/predict", content=bomb, headers=NPZ)
    assert response.status_code == 413
    assert f"unpacks to {10 * LIMIT} bytes" in response.json()["error"]
    lying = bomb.replace((10 * LIMIT).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert client.post("/predict", content=lying, headers=NPZ).status_code == 422
    many = zipped(*((f"{i}.npy", b"") for i in range(65)))
    assert client.post("/predict", content=many, headers=NPZ).status_code == 413


def test_too_large_bodies_are_refused(client: TestClient) -> None:
    assert client.post("/predict", content=b"x" * (LIMIT + 1), headers=JSON).status_code == 413
    parts = (b"x" * 1000 for _ in range(200))  # chunked: its length is told by nobody
    assert client.post("/predict", content=parts, headers=JSON).status_code == 413
    told = {**JSON, "content-length": "9" * 30}
    assert client.post("/predict", content=b"{}", headers=told).status_code == 413


def test_other_content_types_and_routes_are_refused(client: TestClient) -> None:
    response = client.post("/predict", content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]
    for path in ("/", "/nope", "/predict/../../etc/passwd", "/model/x"):
        missing = client.get(path)
        assert missing.status_code == 404
        assert "known: POST /predict" in missing.json()["error"]
    assert client.get("/predict").status_code == 405


def test_model_health_and_documentation(client: TestClient, model: package.Model) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    described = client.get("/model").json()
    assert described["document"] == model.document
    assert "# linear on decay-small" in described["card"]
    assert client.get("/docs").status_code == 200
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert "State later." in operation["description"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/predict", json=example).status_code == 200


def test_every_route_but_health_needs_the_token(model: package.Model) -> None:
    guarded = TestClient(application.build(model, token_digest=application.digest_of_token("secret")))
    right = {"authorization": "Bearer secret"}
    for method, path in (("GET", "/model"), ("GET", "/docs"), ("GET", "/openapi.json"), ("POST", "/predict")):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}):
            refused = guarded.request(method, path, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        assert guarded.request(method, path, headers=right).status_code != 401
    assert guarded.get("/healthz").status_code == 200


def test_failing_model_is_an_error_without_a_trace(
    original: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = package.read(original[0])
    failing = TestClient(application.build(model))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(type(model.method), "predict", fail)
    response = failing.post("/predict", json={"inputs": {"u": ONES.tolist()}})
    assert response.status_code == 500
    assert response.json() == {"error": "the model failed: RuntimeError"}


def test_answer_that_is_not_finite_is_refused(
    original: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = package.read(original[0])
    monkeypatch.setattr(type(model.method), "predict", lambda *_, u: {"u": u / 0})
    response = TestClient(application.build(model)).post("/predict", json={"inputs": {"u": ONES.tolist()}})
    assert response.status_code == 422
    assert "output 'u' of 'predict' holds 8 values" in response.json()["error"]


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)
fuzz = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(body=values | st.fixed_dictionaries({"inputs": values}) | st.fixed_dictionaries(
    {"inputs": st.fixed_dictionaries({"u": values}), "coordinates": st.fixed_dictionaries({"x": values})}
))  # fmt: skip
def test_any_json_is_answered(client: TestClient, body: Any) -> None:
    response = client.post("/predict", content=json.dumps(body).encode(), headers=JSON)
    assert response.status_code in (200, 413, 422), response.text


@fuzz
@given(content=st.binary(max_size=300))
def test_any_bytes_are_answered(client: TestClient, content: bytes) -> None:
    for headers in (JSON, NPZ):
        assert client.post("/predict", content=content, headers=headers).status_code == 422
    as_array = zipped(("u.npy", content))
    assert client.post("/predict", content=as_array, headers=NPZ).status_code == 422


@fuzz
@given(place=st.floats(0, 1), value=st.integers(0, 255))
def test_any_damaged_archive_is_answered(client: TestClient, place: float, value: int) -> None:
    body = bytearray(npz(u=ONES))
    body[int(place * (len(body) - 1))] = value
    assert client.post("/predict", content=bytes(body), headers=NPZ).status_code in (200, 413, 422)


@fuzz
@given(header=st.text(st.characters(codec="ascii"), max_size=80))
def test_any_array_header_is_answered(client: TestClient, header: str) -> None:
    told = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(told).to_bytes(2, "little") + told
    assert client.post("/predict", content=zipped(("u.npy", content)), headers=NPZ).status_code == 422
