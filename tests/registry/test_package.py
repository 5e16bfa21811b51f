from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_fixtures import LINEAGE, make_package

from dlde.errors import (
    InputError,
    IntegrityError,
    NonFiniteError,
    RegistryError,
    UnknownNameError,
)
from dlde.registry import package

Packed = tuple[Path, str]


def reseal(folder: Path) -> None:
    """Make SHA256SUMS right again, as someone would who wants a change to pass."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.name != package.SEAL:
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (folder / package.SEAL).write_text("".join(lines))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((folder / "model.json").read_text())
    change(document)
    (folder / "model.json").write_text(json.dumps(document))
    reseal(folder)


def test_read_model_answers_bitwise_as_the_written_one(tmp_path: Path) -> None:
    import linear_plugin

    method, info = linear_plugin.Linear(scale=1.5), linear_plugin.info()
    model = method.build(info)
    digest = package.write(tmp_path / "m", method, info, model, metrics={}, lineage=LINEAGE)
    read = package.read(tmp_path / "m", expected_digest=digest)
    u = torch.randn(3, 8, 1)
    outputs, warnings = read.answer("predict", {"u": u})
    with torch.no_grad():
        assert torch.equal(outputs["u"], method.predict(model, u)["u"])
    assert warnings == []
    assert (read.method, read.info, read.digest) == (method, info, digest)
    assert read.document["lineage"] == LINEAGE


def test_reading_leaves_the_global_generator_alone(packed: Packed) -> None:
    before = torch.get_rng_state()
    package.read(packed[0])
    assert torch.equal(before, torch.get_rng_state())


def test_tied_weights_stay_tied(packed: Packed) -> None:
    module = package.read(packed[0]).module
    assert module.first.weight is module.second.weight


def test_same_model_gives_same_bytes_and_replaces_what_is_there(tmp_path: Path) -> None:
    first = make_package(tmp_path / "a")
    assert make_package(tmp_path / "b") == first
    other = make_package(tmp_path / "b", seed=1)
    assert other != first
    assert package.digest(tmp_path / "b") == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_digest_is_what_standard_tools_print(packed: Packed) -> None:
    folder, digest = packed
    assert subprocess.run(["sha256sum", "-c", "--quiet", package.SEAL], cwd=folder).returncode == 0
    printed = subprocess.run(["sha256sum", package.SEAL], cwd=folder, capture_output=True, text=True)
    assert printed.stdout.split()[0] == digest == package.digest(folder)


def test_card_tells_a_person(packed: Packed) -> None:
    card = (packed[0] / "card.md").read_text()
    for part in (
        "# linear on decay-small",
        "parameters: 80",
        "8 points, periodic",
        "relative_l2: 0.25",
        "`predict`: State later.",
        "(batch, x = 8, channel = 1)",
        LINEAGE["run_digest"],
    ):
        assert part in card


@pytest.mark.parametrize("known", [True, False], ids=["digest known", "digest unknown"])
@pytest.mark.parametrize("name", sorted(package.LIMITS))
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_flipped_bit_anywhere_is_refused(packed: Packed, name: str, place: float, known: bool) -> None:
    folder, digest = packed
    content = bytearray((folder / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"expected|altered|not as dlde") as refused:
        package.read(folder, expected_digest=digest if known else None)
    assert refused.value.expected != refused.value.found
    assert refused.value.file in ((name,) if name != package.SEAL else package.LIMITS)


def test_replaced_package_is_refused_though_it_is_whole(packed: Packed) -> None:
    folder, digest = packed
    make_package(folder, seed=1)
    with pytest.raises(IntegrityError, match=f"expected digest {digest}, found [0-9a-f]{{64}}"):
        package.read(folder, expected_digest=digest)


@pytest.mark.parametrize("name", ["weights.pkl", "model.pt", "pytorch_model.bin", "conda.yaml", "..data"])
def test_unexpected_file_is_refused(packed: Packed, name: str) -> None:
    (packed[0] / name).write_bytes(b"\x80\x04.")
    with pytest.raises(RegistryError, match=rf"holds '{name}'.*Nothing of it was loaded"):
        package.read(packed[0])


def test_code_folder_is_refused(packed: Packed) -> None:
    (packed[0] / "code").mkdir()
    with pytest.raises(RegistryError, match="holds 'code'"):
        package.read(packed[0])


@pytest.mark.parametrize("name", sorted(package.LIMITS))
def test_link_is_refused(packed: Packed, tmp_path: Path, name: str) -> None:
    (packed[0] / name).rename(tmp_path / "elsewhere")
    (packed[0] / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match=f"{name} is a link or no plain file"):
        package.read(packed[0])


def test_pipe_is_refused_and_not_waited_for(packed: Packed) -> None:
    (packed[0] / "card.md").unlink()
    os.mkfifo(packed[0] / "card.md")
    with pytest.raises(RegistryError, match="no plain file"):
        package.read(packed[0])


def test_missing_file_and_missing_folder_are_named(packed: Packed, tmp_path: Path) -> None:
    (packed[0] / "card.md").unlink()
    with pytest.raises(RegistryError, match=r"card\.md missing"):
        package.read(packed[0])
    with pytest.raises(RegistryError, match="no model package at"):
        package.read(tmp_path / "nowhere")


def test_oversized_file_is_refused_before_it_is_read(packed: Packed) -> None:
    with (packed[0] / "model.json").open("r+b") as file:
        file.truncate(package.LIMITS["model.json"] + 1)
    with pytest.raises(RegistryError, match=r"model\.json has 16777217 bytes, at most 16777216"):
        package.read(packed[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2, but this dlde .* reads format 1"),
        (lambda d: d.update(format=True), "format True"),
        (lambda d: d.pop("format"), "format None"),
        (lambda d: d["method"].update(name="linaer"), "unknown method 'linaer'; did you mean 'linear'"),
        (lambda d: d["method"].update(name="os:system"), "unknown method 'os:system'"),
        (lambda d: d["method"].update(name=["linear"]), "unknown method"),
        (lambda d: d["method"].update(scales=2.0), "scales: unknown key; did you mean 'scale'"),
        (lambda d: d["method"].update(lines=0), "method.lines: .*greater than 0"),
        (lambda d: d["info"]["data"]["train"]["problem"].update(name="x"), "model.json: "),
        (lambda d: d["info"]["data"]["train"]["axes"]["x"].update(num_points=9), "do not fit"),
        (lambda d: d["info"]["data"]["train"]["axes"]["x"].update(num_points=10**8), "cannot be built"),
        (
            lambda d: d["info"]["data"]["train"]["axes"]["x"].update(num_points=10**4),
            "tensor of 400000000",
        ),
        (lambda d: d.update(code="import os"), "code: unknown key"),
        (lambda d: d.update(metrics=[1]), "metrics: .*dictionary"),
    ],
)
def test_document_that_does_not_fit_is_refused(packed: Packed, change: Any, message: str) -> None:
    edit(packed[0], change)
    with pytest.raises(RegistryError, match=message):
        package.read(packed[0])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"format": NaN}', "\x00", '"\\ud800"']
)
def test_nonsense_document_is_refused(packed: Packed, text: str) -> None:
    (packed[0] / "model.json").write_text(text)
    reseal(packed[0])
    with pytest.raises(RegistryError, match=r"model\.json"):
        package.read(packed[0])


def test_not_a_number_in_the_document_is_refused(packed: Packed) -> None:
    path = packed[0] / "model.json"
    path.write_text(path.read_text().replace("0.25", "NaN"))
    reseal(packed[0])
    with pytest.raises(RegistryError, match="NaN is not JSON"):
        package.read(packed[0])


def test_weights_of_another_model_are_refused(packed: Packed) -> None:
    import safetensors.torch

    path = packed[0] / "model.safetensors"
    weights = safetensors.torch.load(path.read_bytes())
    bias = weights.pop("first.bias")
    for wrong, message in (
        ({}, "first.bias is missing"),
        ({"first.bias": bias, "extra": bias.clone()}, "extra is not of this model"),
        ({"first.bias": bias[:4].clone()}, r"first.bias is float32\(4,\), the model needs float32\(8,\)"),
        ({"first.bias": bias.double()}, r"first.bias is float64\(8,\)"),
    ):
        path.write_bytes(safetensors.torch.save({**weights, **wrong}))
        reseal(packed[0])
        with pytest.raises(RegistryError, match=message):
            package.read(packed[0])


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", struct.pack("<Q", 1 << 60), b"\x00" * 64])
def test_weights_that_are_no_safetensors_are_refused(packed: Packed, content: bytes) -> None:
    (packed[0] / "model.safetensors").write_bytes(content)
    reseal(packed[0])
    with pytest.raises(RegistryError, match=r"model\.safetensors cannot be read"):
        package.read(packed[0])


def test_seal_with_other_lines_is_refused(packed: Packed) -> None:
    path = packed[0] / package.SEAL
    path.write_text(path.read_text() + f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(IntegrityError, match="not as dlde writes it"):
        package.read(packed[0])


def test_poisoned_model_is_not_written(tmp_path: Path) -> None:
    import linear_plugin

    method, info = linear_plugin.Linear(), linear_plugin.info()
    model = method.build(info)
    with pytest.raises(NonFiniteError, match="metric 'loss' is nan"):
        package.write(tmp_path / "m", method, info, model, metrics={"loss": float("nan")}, lineage={})
    with torch.no_grad():
        model.first.bias[0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"weight 'first\.bias' holds NaN"):
        package.write(tmp_path / "m", method, info, model, metrics={}, lineage={})
    assert list(tmp_path.iterdir()) == []


def test_answer_refuses_what_does_not_fit(packed: Packed) -> None:
    model = package.read(packed[0])
    u = torch.ones(1, 8, 1)
    with pytest.raises(UnknownNameError, match="unknown operation 'predcit'; did you mean 'predict'"):
        model.answer("predcit", {"u": u})
    with pytest.raises(InputError, match=r"input 'u' is torch\.complex64, expected float32"):
        model.answer("predict", {"u": u.to(torch.complex64)})
    with pytest.raises(InputError, match="holds 1 values that are NaN or infinite"):
        model.answer(
            "predict", {"u": u.double().index_put((torch.tensor(0),) * 3, torch.tensor(1e300).double())}
        )
    for points in (torch.empty(0), torch.full((8,), float("nan"))):
        with pytest.raises(InputError, match="coordinate 'x' is empty, or holds NaN"):
            model.answer("predict", {"u": u}, {"x": points})
    model.answer("predict", {"u": u}, {"x": torch.arange(8) / 8})


def test_answer_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    make_package(tmp_path / "m", scale=3.4e38)
    with pytest.raises(NonFiniteError, match=r"output 'u' of 'predict' holds .* NaN or infinite"):
        package.read(tmp_path / "m").answer("predict", {"u": torch.full((1, 8, 1), 1e6)})


def test_answer_warns_outside_the_training_range(packed: Packed) -> None:
    _, warnings = package.read(packed[0]).answer("predict", {"u": torch.full((1, 8, 1), 99.0)})
    assert "outside the training range" in warnings[0]
