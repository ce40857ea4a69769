import base64
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.figures import explanations
from analysis.figures.explanations import (
    OTHER_IMAGE,
    ExplainedImages,
    draw_activations,
    draw_explanations,
    draw_randomisation,
    overlay,
)

INITS = ("random", "pretrained")
LARGEST_BYTES = 300_000


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    seen: list[Figure] = []
    original = explanations.save

    def save(figure: Figure, folder: Path, name: str) -> Path:
        seen.append(figure)
        return original(figure, folder, name)

    monkeypatch.setattr(explanations, "save", save)
    return seen


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    assert plt.get_fignums() == []


def explained(
    n: int = 2, *, side: int = 16, methods: tuple[str, ...] = ("gradient",), inits: tuple[str, ...] = INITS
) -> ExplainedImages:
    rng = np.random.default_rng(0)
    return ExplainedImages(
        images=rng.integers(0, 256, (n, 3, side, side), dtype=np.uint8),
        labels=[f"label {i}" for i in range(n)],
        predicted={init: [f"guess {i}" for i in range(n)] for init in inits},
        maps={m: {init: rng.random((n, side, side), dtype=np.float32) for init in inits} for m in methods},
    )


@pytest.mark.parametrize("n_inits", [1, 4, 11])
@pytest.mark.parametrize("n_methods", [1, 5])
def test_long_names_have_room(n_inits: int, n_methods: int, tmp_path: Path) -> None:
    # A layout that does not fit is a warning, and so an error here.
    name = "pretrained (source=ham10000 from torchvision/VGG16_Weights.IMAGENET1K_V1), first_last {}"
    inits = tuple(name.format(k) for k in range(n_inits))
    methods = ("gradient", "smooth_grad", "integrated_gradients", "grad_cam", "Meaningful perturbation")
    shown = explained(1, inits=inits, methods=methods[:n_methods])
    assert draw_explanations(shown, folder=tmp_path).svg.exists()


def rasters(svg: Path) -> list[np.ndarray]:
    found = re.findall(r"data:image/png;base64,\s*([^\"]+)\"", svg.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


def check(methods: tuple[str, ...] = ("gradient", "grad_cam")) -> pd.DataFrame:
    stages = ("none", "head", "conv2", "conv1")
    return pd.DataFrame(
        [
            {"method": method, "stage": stage, "n_random_stages": step, "correlation": 1 - 0.3 * step,
             "sd": 0.1, "noise_floor": 0.07, "n_images": 4, "n_blank": int(method == "grad_cam")}
            for step, stage in enumerate(stages) for method in methods
        ]
    )  # fmt: skip


def test_every_method_is_a_panel_beside_the_images_with_labels_and_predictions(tmp_path, drawn):
    figure = draw_explanations(explained(methods=("gradient", "grad_cam", "Perturbation")), folder=tmp_path)
    titles = [axis.get_title(loc="left") for axis in drawn[0].axes]
    assert titles[:4] == ["Images", "Gradient", "Grad-CAM", "Perturbation"]
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == [f"is: label {i}\nrandom: guess {i}\npretrained: guess {i}" for i in range(2)]
    assert [label.get_text() for label in drawn[0].axes[1].get_xticklabels()] == list(INITS)
    assert (tmp_path / "explanations.png").exists()
    assert "maps of zeros, which are left dark: 0" in figure.caption
    assert "Grad-CAM: at the last stage" in figure.caption


def test_maps_are_embedded_pixel_by_pixel_in_their_own_resolution(tmp_path):
    shown = explained(1, side=16, inits=("random",))
    shown.maps["gradient"]["random"][:] = 0
    shown.maps["gradient"]["random"][0, 3, 5] = 2.0
    figure = draw_explanations(shown, folder=tmp_path)
    heat = [raster for raster in rasters(figure.svg) if raster.shape[:2] == (17, 17)][-1].astype(int)
    lightness = heat[:16, :16].sum(axis=2)
    assert np.unravel_index(lightness.argmax(), lightness.shape) == (3, 5)


def test_blank_maps_are_counted_in_the_caption(tmp_path):
    shown = explained()
    shown.maps["gradient"]["random"][:] = 0
    assert "left dark: 2" in draw_explanations(shown, folder=tmp_path).caption


def test_lightness_rises_with_the_map_on_any_image():
    maps = np.linspace(0, 1, 11)
    for grey in (0.0, 0.5, 1.0):
        red, green, blue = overlay(np.full(11, grey), maps).astype(float).T
        assert (np.diff(0.299 * red + 0.587 * green + 0.114 * blue) > 0).all()


@pytest.mark.parametrize("side", [64, 224])
def test_files_stay_small_however_large_the_images(tmp_path, side):
    methods = ("gradient", "smooth_grad", "integrated_gradients", "grad_cam", "gradient_of_probability")
    draw_explanations(
        explained(8, side=side, methods=methods, inits=("random", "a", "b", "c")), folder=tmp_path
    )
    # Noise is the worst case for what is embedded.
    assert (tmp_path / "explanations.svg").stat().st_size <= LARGEST_BYTES


def test_equal_figures_give_equal_files(tmp_path):
    first, again = (draw_explanations(explained(), folder=tmp_path / name).svg for name in "ab")
    assert first.read_bytes() == again.read_bytes()


def test_what_is_not_of_as_many_images_is_named(tmp_path):
    wrong = explained()
    wrong.maps["gradient"]["random"] = np.zeros((3, 16, 16))
    with pytest.raises(ValueError, match=r"got 2 images and gradient maps of random \(3\)"):
        draw_explanations(wrong, folder=tmp_path)
    with pytest.raises(ValueError, match=r"needs images and one entry per image .* got 0 images"):
        draw_explanations(explained(0), folder=tmp_path)


def test_the_most_active_channels_of_the_first_layer_are_drawn(tmp_path, drawn):
    activations = {init: np.ones((2, 5, 8, 8), dtype=np.float32) for init in INITS}
    activations["random"] *= np.array([1, 5, 2, 4, 3], dtype=np.float32)[None, :, None, None]
    figure = draw_activations(explained().images, activations, folder=tmp_path, n_channels=3)
    ticks = [[label.get_text() for label in axis.get_xticklabels()] for axis in drawn[0].axes]
    assert ticks[0] == ["image", "1", "3", "4"]
    assert [axis.get_title(loc="left") for axis in drawn[0].axes] == list(INITS)
    assert figure.svg.stat().st_size <= LARGEST_BYTES


def test_the_curve_has_a_line_per_method_and_its_noise_floor(tmp_path, drawn):
    figure = draw_randomisation(
        {"resnet18, random": check(), "resnet18, pretrained": check()}, folder=tmp_path
    )
    axis = drawn[0].axes[0]
    curves = {line.get_label(): line for line in axis.lines if len(line.get_xdata()) == 4}
    assert list(curves) == ["Gradient", "Grad-CAM"]
    np.testing.assert_allclose(curves["Gradient"].get_ydata(), [1, 0.7, 0.4, 0.1])
    floors = [line.get_ydata()[0] for line in axis.lines if list(line.get_xdata()) == [4]]
    assert floors == [0.07, 0.07]
    ticks = [label.get_text() for label in axis.get_xticklabels()]
    assert ticks == ["none", "+ head", "+ conv2", "+ conv1", OTHER_IMAGE]
    assert "left out: 8" in figure.caption


def test_a_correlation_that_is_unknown_is_a_gap(tmp_path, drawn):
    gap = check(("gradient",))
    gap.loc[2, "correlation"] = np.nan
    draw_randomisation({"network": gap}, folder=tmp_path)
    assert np.isnan(drawn[0].axes[0].lines[0].get_ydata()[2])


def test_a_check_without_any_known_correlation_is_still_drawn(tmp_path):
    unknown = check().assign(correlation=np.nan, noise_floor=np.nan)
    assert draw_randomisation({"network": unknown}, folder=tmp_path).svg.exists()
