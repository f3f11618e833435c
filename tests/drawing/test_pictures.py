"""Pictures of features: every patch where it belongs, in its color, and sheets that cut nothing off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from radio.cli import main
from radio.drawing.pictures import (
    Panel,
    color_scale,
    feature_picture,
    fit_long_side,
    frame_patch,
    heat_map,
    sheet,
    to_pil_image,
)
from radio.tasks.pca import PCAFit


@pytest.fixture
def model(reference):
    return ["--model", str(reference / "v2_5" / "checkpoint.pth.tar"), "--device", "cpu"]


def test_patches_are_enlarged_without_smoothing():
    rgb = torch.tensor([[[1.0, 0.0]], [[0.0, 0.5]], [[0.0, 1.0]]])
    picture = np.asarray(feature_picture(rgb, (40, 20)))
    assert picture.shape == (20, 40, 3)
    assert (picture[:, :20] == (255, 0, 0)).all() and (picture[:, 20:] == (0, 128, 255)).all()


def test_outliers_are_framed_in_place():
    rgb, outliers = torch.full((3, 4, 4), 0.5), torch.zeros(4, 4, dtype=torch.bool)
    outliers[1, 2] = True
    plain = np.asarray(feature_picture(rgb, (64, 64)))
    framed = np.asarray(feature_picture(rgb, (64, 64), outliers))
    rows, columns = np.nonzero((plain != framed).any(axis=-1))
    assert 10 <= rows.min() <= 16 and 31 <= rows.max() <= 36
    assert 26 <= columns.min() <= 32 and 47 <= columns.max() <= 52
    assert (framed[24, 40] == plain[24, 40]).all()


def test_a_frame_at_the_border_stays_visible():
    canvas = Image.new("RGB", (64, 64))
    frame_patch(canvas, (0, 0), (4, 4), (255, 0, 0))
    assert canvas.getpixel((16, 8)) == (255, 0, 0) and canvas.getpixel((8, 16)) == (255, 0, 0)


def test_heat_rises_in_brightness_and_is_clamped():
    picture = heat_map(torch.linspace(-1, 2, 13)[None], (130, 10), 0, 1).convert("L")
    gray = np.asarray(picture)[5, 5::10].astype(int)
    assert (gray[:5] == gray[0]).all() and (gray[8:] == gray[-1]).all()
    assert (np.diff(gray[4:9]) > 15).all()
    with pytest.raises(ValueError, match="below high"):
        heat_map(torch.zeros(2, 2), (4, 4), 1, 1)


def test_a_sheet_has_every_panel_whole():
    panels = [
        Panel(Image.new("RGB", (60, 40), color), "a label that is wider than its picture")
        for color in ("red", "lime", "blue")
    ]
    footer = color_scale(900, "0", "1", "a scale that is wider than the panels")
    pixels = np.asarray(sheet([panels[:2], panels[2:]], footer, "Title"))
    for panel in panels:
        assert (pixels == np.asarray(panel.picture)[0, 0]).all(axis=-1).sum() == 60 * 40
    assert (pixels[[0, -1]] == 255).all() and (pixels[:, [0, -1]] == 255).all()
    assert pixels.shape[1] > footer.width
    with pytest.raises(ValueError, match="at least one panel"):
        sheet([[]])


def test_pixels_and_sizes():
    assert fit_long_side((600, 400), 300) == (300, 200) and fit_long_side((1, 1000), 100) == (6, 100)
    pixels = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    assert np.abs(np.asarray(to_pil_image(pixels)) / 255 - pixels.permute(1, 2, 0).numpy()).max() < 0.003


def test_what_is_alike_is_bright(model, tmp_path):
    """Half red, half blue: the chosen half is more like the chosen patch than the other."""
    picture = Image.new("RGB", (256, 256), "red")
    ImageDraw.Draw(picture).rectangle((128, 0, 255, 255), fill="blue")
    picture.save(tmp_path / "halves.png")
    words = [str(tmp_path / "halves.png"), "--at", "40,100", "-o", str(tmp_path / "out.png")]
    assert main(["similar", *words, *model]) == 0
    heat = np.asarray(Image.open(tmp_path / "out.png").convert("L")).astype(int)[40:420, 500:900]
    assert heat[:, :150].mean() > heat[:, 250:].mean() + 40


def test_images_of_one_name_do_not_overwrite_each_other(model, photos, tmp_path):
    other = tmp_path / "astronaut.png"
    Image.open(photos[1]).save(other)
    words = [str(photos[0]), str(other), "-o", str(tmp_path / "out"), "--size", "64", "--side-by-side"]
    assert main(["pca", *words, *model]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"astronaut.png", "astronaut_2.png", "contact-sheet.png"}


def test_a_fit_from_another_space_is_used_with_a_warning(model, photos, tmp_path, capsys):
    fit = PCAFit(
        mean=torch.zeros(48),
        components=torch.eye(3, 48),
        low=-torch.ones(3),
        high=torch.ones(3),
        explained=torch.ones(3),
        source={"space": "sam (other)"},
    )
    fit.save(tmp_path / "fit.safetensors")
    words = [str(photos[0]), "-o", str(tmp_path / "out"), "--size", "64", "--adaptor", "sam"]
    assert main(["pca", *words, "--fit", str(tmp_path / "fit.safetensors"), *model]) == 0
    assert "warning: this PCA was fitted in the space 'sam (other)'" in capsys.readouterr().err
