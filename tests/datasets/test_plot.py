from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dlde.datasets.bridges.importing import import_files
from dlde.datasets.bridges.options import Options
from dlde.datasets.dataset import Dataset
from dlde.datasets.generate import generate
from dlde.datasets.pictures import graph, look
from dlde.datasets.plot import check_output, film, plot, png
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, UnknownNameError
from tests.datasets.conftest import HEAT

Import = Callable[..., Dataset]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """A dataset of arrays; keywords are options of the import."""
    monkeypatch.chdir(tmp_path)

    def make(arrays: Mapping[str, Any], **options: Any) -> Dataset:
        np.savez(tmp_path / "given.npz", **arrays)
        splits = options.pop("splits", ("train=1.0",))
        parsed = Options.parse(
            rename=(), coordinates=options.pop("coordinates", ()), splits=splits, format=None, shuffle=None,
            dims=options.pop("dims", ()), units=options.pop("units", ()),
        )  # fmt: skip
        return import_files([tmp_path / "given.npz"], "given", parsed, tmp_path / "root").generated.dataset

    return make


def swirl(samples: int = 4, times: int = 5, n: int = 12, m: int = 8) -> dict[str, Any]:
    """A signed and a positive field over (time, x, y), and a parameter of each sample."""
    x, y, t = np.linspace(0, 2, n), np.linspace(0, 1, m), np.linspace(0, 1, times)
    phase = np.arange(samples)[:, None, None, None] + t[:, None, None]
    w = np.sin(3 * x[:, None] + phase) * np.cos(4 * y)
    return {"w": w, "height": w + 3, "time": t, "x": x, "y": y, "nu": 0.1 * np.arange(samples)}


SWIRL = {"dims": ("w=sample,time,x,y", "height=sample,time,x,y"), "units": ("x=m", "time=s", "w=1/s")}


def images(figure: Figure) -> list[Any]:
    return [axes.images[0] for axes in figure.axes if axes.images]


def words(figure: Figure) -> set[str]:
    """All texts and labels of a figure."""
    found = {text.get_text() for text in figure.texts}
    for axes in figure.axes:
        found |= {text.get_text() for text in axes.texts}
        found |= {axes.get_xlabel(), axes.get_ylabel()}
    return found


def test_panels_share_one_colour_scale_and_say_what_they_show(
    heat: Callable[..., Recipe], tmp_path: Path
) -> None:
    dataset = generate(heat(), tmp_path).dataset
    figure = plot(dataset, samples=4)
    assert len(images(figure)) == 4
    assert len({image.get_clim() for image in images(figure)}) == 1
    low, high = images(figure)[0].get_clim()
    assert low == -high
    assert {"temperature u (K)", "x (m)", "time", "t = 0", "t = 1"} <= words(figure)
    assert figure.texts[0].get_text() == "heat, train"
    assert figure.texts[1].get_text().startswith(f"{HEAT['problem']['name']}   ·   diffusivity 0.01")
    assert (
        png(plot(dataset, samples=1))
        == png(plot(dataset, samples=1))
        != png(plot(dataset, samples=1, seed=1))
    )


def test_the_first_row_of_an_image_is_the_first_stored_time(
    heat: Callable[..., Recipe], tmp_path: Path
) -> None:
    dataset = generate(heat(samples={"train": 1}), tmp_path).dataset
    u = dataset.read("train", "u")[0]
    image = np.asarray(images(plot(dataset))[0].get_array())
    np.testing.assert_allclose(image[[0, -1], :-1], u[[0, -1]], atol=1e-6)
    np.testing.assert_array_equal(image[:, -1], image[:, 0])  # the periodic axis is closed


def test_variables_are_chosen_by_name(heat: Callable[..., Recipe], tmp_path: Path) -> None:
    dataset = generate(heat(samples={"train": 3}), tmp_path).dataset
    figure = plot(dataset, variables=["flux"])
    assert {"initial flux flux (K m-1)", "x (m)"} <= words(figure)
    assert not images(figure)
    assert len(figure.axes[0].lines) == 3
    with pytest.raises(UnknownNameError, match="no variable 'flx'; did you mean 'flux'"):
        plot(dataset, variables=["flx"])
    with pytest.raises(GridError, match="do not go into one picture: u has dimensions sample, time, x, flux"):
        plot(dataset, variables=["u", "flux"])
    with pytest.raises(UnknownNameError, match="no split 'tran'; did you mean 'train'"):
        plot(dataset, "tran")
    with pytest.raises(InputError, match="choose frames of fields over time and two axes; u of dataset"):
        plot(dataset, times=[0.5])


def test_one_stored_time_is_drawn_as_profiles(heat: Callable[..., Recipe], tmp_path: Path) -> None:
    dataset = generate(heat(times=[0.0], samples={"train": 2}), tmp_path).dataset
    figure = plot(dataset)
    u = dataset.read("train", "u")
    assert figure.axes[0].get_ylabel() == "temperature u (K)"
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata()[:-1], u[1, 0])


def test_frames_at_chosen_times(imported: Import) -> None:
    dataset = imported(swirl(), **SWIRL)
    figure = plot(dataset, samples=2, variables=["w"], times=[0.0, 0.6, 1.0])
    assert len(images(figure)) == 6
    assert {"t = 0 s", "t = 0.5 s", "t = 1 s", "x (m)", "y", "w (1/s)"} <= words(figure)
    assert any("nu 0" in word for word in words(figure))  # the sample's own parameter
    numbers = [int(word.split()[1].rstrip(",")) for word in words(figure) if word.startswith("sample ")]
    w = dataset.read("train", "w")[min(numbers)]
    first = images(figure)[0]
    np.testing.assert_array_equal(np.asarray(first.get_array()), w[0].T)
    axes = figure.axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 2), (0, 1))
    left, right, low, high = first.get_extent()  # pixels are centred on the points
    assert (left, right) == pytest.approx((-1 / 11, 2 + 1 / 11))
    assert (low, high) == pytest.approx((-1 / 14, 1 + 1 / 14))


def test_every_field_has_its_own_colours(imported: Import) -> None:
    figure = plot(imported(swirl(), **SWIRL), samples=1)
    kinds = [(image.get_cmap().name, image.get_clim()) for image in images(figure)]
    assert len(kinds) == 10
    (signed, (low, high)), (positive, (least, most)) = kinds[0], kinds[-1]
    assert (signed, low) == ("RdBu_r", -high)
    assert positive == "viridis"
    assert 0 < least < most


@pytest.mark.parametrize(
    ("values", "colours", "limits"),
    [
        ([-1.0, 2.0], "RdBu_r", (-2.0, 2.0)),
        ([0.0, 2.0], "viridis", (0.0, 2.0)),
        ([-3.0, -1.0], "viridis", (-3.0, -1.0)),
        ([-1e-9, 2.0], "viridis", (-1e-9, 2.0)),  # a rounding error is no sign
        ([4.0, 4.0], "viridis", (2.0, 6.0)),
        ([0.0, 0.0], "viridis", (-0.5, 0.5)),
    ],
)
def test_scale(values: list[float], colours: str, limits: tuple[float, float]) -> None:
    found = look.scale(np.array(values))
    assert (found["cmap"], (found["vmin"], found["vmax"])) == (colours, limits)


def test_fields_that_stand_still(imported: Import) -> None:
    x = np.linspace(0, 1, 10)
    a = np.exp(np.add.outer(np.arange(4.0), np.multiply.outer(x, x)))
    dataset = imported({"a": a, "u": a - 20, "x": x, "y": x}, dims=("a=sample,x,y", "u=sample,x,y"))
    both, one = plot(dataset), plot(dataset, variables=["a"])
    assert len(images(both)) == 6
    assert len(images(one)) == 4
    assert {"a", "u", "x", "y"} <= words(both)


def test_the_middle_of_three_axes(imported: Import) -> None:
    x = np.linspace(0, 1, 5)
    u = np.random.default_rng(0).standard_normal((2, 3, 5, 5, 5))
    dataset = imported(
        {"u": u, "x": x, "y": x, "z": x, "time": np.arange(3.0)}, dims=("u=sample,time,x,y,z",)
    )
    figure = plot(dataset, samples=2)
    assert "u at z = 0.5" in words(figure)
    stored = dataset.read("train", "u")
    np.testing.assert_array_equal(np.asarray(images(figure)[0].get_array()), stored[0, 0, :, :, 2].T)


def test_components_are_fields_of_their_own(imported: Import) -> None:
    x = np.linspace(0, 1, 6)
    u = np.random.default_rng(0).standard_normal((2, 3, 6, 2))
    dataset = imported({"u": u, "x": x, "time": np.arange(3.0)}, dims=("u=sample,time,x,component",))
    assert {"u 0", "u 1"} <= words(plot(dataset))


def test_trajectories_over_bands_and_the_phase_portrait(imported: Import) -> None:
    t = np.linspace(0, 6, 50)
    phase = t + np.arange(30)[:, None] / 5
    state = np.stack([np.cos(phase), np.sin(phase)], -1)
    dataset = imported({"state": state, "time": t}, dims=("state=sample,time,component",), units=("time=s",))
    figure = plot(dataset, samples=3)
    first, second, portrait = figure.axes
    assert {"time (s)", "state 0", "state 1", "dots: the first time"} <= words(figure)
    assert "grey: median, half and nine tenths of 30 samples" in words(figure)
    assert (len(first.collections), len(first.lines)) == (2, 4)
    stored = dataset.read("train", "state")
    np.testing.assert_allclose(second.lines[0].get_ydata(), np.median(stored[..., 1], 0))
    assert {portrait.get_xlabel(), portrait.get_ylabel()} == {"state 0", "state 1"}
    curve = portrait.lines[0].get_xydata()
    assert np.abs(curve - stored).sum((1, 2)).min() == 0


def test_three_components_in_space(imported: Import) -> None:
    state = np.random.default_rng(0).standard_normal((5, 20, 3))
    dataset = imported({"state": state, "time": np.arange(20.0)}, dims=("state=sample,time,component",))
    figure = plot(dataset)
    assert [axes.name for axes in figure.axes] == ["rectilinear"] * 3 + ["3d"]
    assert not figure.axes[0].collections  # five samples have no bands
    assert png(figure).startswith(b"\x89PNG")


def test_pictures_with_their_classes(imported: Import, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for number in range(3):
            colour = (255 if name == "cat" else 0, 40 * number, 7)
            Image.new("RGB", (6, 5), colour).save(tmp_path / "animals" / name / f"{number}.png")
    options = Options.parse(
        rename=(), dims=(), coordinates=(), units=(), splits=("train=1.0",), format=None, shuffle=None
    )
    done = import_files([tmp_path / "animals"], "animals", options, tmp_path / "root")
    figure = plot(done.generated.dataset)
    titles = [axes.texts[0].get_text() for axes in figure.axes]
    assert titles == ["cat"] * 3 + ["dog"] * 3
    pixels = np.asarray(images(figure)[1].get_array())
    np.testing.assert_allclose(pixels[0, 0], np.array([255, 40, 7]) / 255, atol=1e-6)


def test_a_graph(imported: Import) -> None:
    ring = np.array([np.arange(12), (np.arange(12) + 1) % 12])
    edges = np.concatenate([ring, [[12], [13]]], 1)  # a ring, and a pair beside it
    dataset = imported({"edge_index": edges, "labels": np.arange(14) % 3, "weight": np.random.rand(14)})
    figure = plot(dataset)
    assert "14 nodes, 13 edges; drawn is the largest of 2 components, 12 nodes" in words(figure)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["label 0", "label 1", "label 2"]
    assert len(figure.axes[0].collections[0].get_paths()) == 12
    assert png(figure) == png(plot(dataset))


def test_what_changes_on_a_graph_colours_its_nodes(tmp_path: Path) -> None:
    changes = {"times": {"stop": 1.0, "count": 5}, "samples.train": 2, "samples.test": 1, "storage.part": 2}
    recipe = Recipe.load("graph-heat", preset="ring", overrides=changes)
    dataset = generate(recipe, tmp_path).dataset
    figure = plot(dataset, seed=1)
    frames = [axes.collections[1] for axes in figure.axes[:3]]
    (number,) = np.sort(np.random.default_rng(1).choice(2, 1, replace=False))
    assert f"sample {number}" in next(text for text in words(figure) if "64 nodes, 64 edges" in text)
    stored = dataset.read("train", "u")[number, [0, 2, 4], :, 0]
    np.testing.assert_array_equal([frame.get_array() for frame in frames], stored)
    assert len({frame.get_clim() for frame in frames}) == 1


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 30])
def test_neighbours_on_a_path_are_drawn_near(nodes: int) -> None:
    from scipy import sparse

    path = sparse.diags_array([np.ones(nodes - 1)] * 2, offsets=[-1, 1], shape=(nodes, nodes)).tocsr()
    places = graph.layout(sparse.csr_matrix(path))
    assert places.shape == (nodes, 2)
    assert np.isfinite(places).all()
    if nodes == 30:
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        far = np.linalg.norm(places[:15] - places[15:], axis=1)
        assert steps.mean() < 0.3 * far.mean()


def test_a_gif_has_a_frame_for_every_stored_time(imported: Import) -> None:
    dataset = imported(swirl(times=4), **SWIRL)
    with Image.open(io.BytesIO(film(dataset, ".gif", samples=1, variables=["w"]))) as moving:
        assert moving.format == "GIF"
        assert getattr(moving, "n_frames", 1) == 4
        first = np.asarray(moving.convert("RGB")).astype(int)
        moving.seek(3)
        assert np.abs(np.asarray(moving.convert("RGB")).astype(int) - first).max() > 50


def test_profiles_move_too(heat: Callable[..., Recipe], tmp_path: Path) -> None:
    dataset = generate(heat(samples={"train": 2}), tmp_path).dataset
    with Image.open(io.BytesIO(film(dataset, ".gif"))) as moving:
        assert getattr(moving, "n_frames", 1) == 3
    with pytest.raises(GridError, match=r"flux has no field over time and space, .* choose among u"):
        film(dataset, ".gif", variables=["flux"])


def test_what_cannot_be_written_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"an \.mp4 needs ffmpeg, .*; install it, or write a \.gif"):
        check_output(Path("a.mp4"))
    with pytest.raises(InputError, match=r"a\.pdf: expected a name that ends in \.png, or in \.gif or \.mp4"):
        check_output(Path("a.pdf"))
    assert [check_output(Path(name)) for name in ("a.png", "b.GIF")] == [".png", ".gif"]


def test_what_has_no_picture(imported: Import) -> None:
    dataset = imported({"code": np.zeros((4, 6))}, dims=("code=sample,letter",))
    with pytest.raises(GridError, match="dataset 'given' has no variable to draw: there are pictures of"):
        plot(dataset)
    with pytest.raises(GridError, match=r"no picture of variable 'code' .* sample, letter; drawable: none"):
        plot(dataset, variables=["code"])
    with pytest.raises(GridError, match="dataset 'given' has no field over time and space, so nothing moves"):
        film(dataset, ".gif")
