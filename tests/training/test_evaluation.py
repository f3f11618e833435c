"""Measures of backbones against known answers, and the teachers that they and the loop use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from training_runs import REFERENCE, TOML, KnownTeacher, pictures, recipe

from radio import load_model
from radio.cli import main
from radio.images import load_image
from radio.training import distill
from radio.training.data import center_square
from radio.training.evaluation import (
    Summaries,
    knn_accuracy,
    linear_probe,
    mode_switching,
    rank_me,
    scale_equivariance,
    summarize,
)
from radio.training.teachers import build_teacher
from radio.training.teachers.cached_teacher import CachedTeacher, cache_features
from radio.training.teachers.radio_teacher import RadioTeacher


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in color, with noise."""
    root = tmp_path_factory.mktemp("colors")
    generator = torch.Generator().manual_seed(0)
    for name, color in {"red": (0.8, 0.2, 0.2), "green": (0.2, 0.8, 0.2), "blue": (0.2, 0.2, 0.8)}.items():
        (root / name).mkdir()
        for number in range(6):
            noise = 0.2 * torch.rand(40, 48, 3, generator=generator)
            pixels = (torch.tensor(color) + noise).clamp(0, 1).mul(255).byte().numpy()
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_labeled_images_are_classified(colors: Path) -> None:
    found = summarize(KnownTeacher(1.0), colors)
    assert found.vectors.shape == (18, 16) and found.classes == ("blue", "green", "red")
    assert knn_accuracy(found, k=3) == linear_probe(found) == 1
    assert knn_accuracy(found, found, k=1) == linear_probe(found, found) == 1


def test_leaving_one_out_does_not_ask_the_image_itself() -> None:
    """Pairs of equal vectors with different labels: with the image itself, all would be right."""
    vectors = torch.eye(4).repeat_interleave(2, 0)
    known = Summaries(vectors, torch.tensor([0, 1] * 4), ("a", "b"))
    assert knn_accuracy(known, k=1) == 0
    assert knn_accuracy(known, known, k=1) == 0.5  # of equal ones the first


def test_folders_with_other_classes_are_refused() -> None:
    known = Summaries(torch.eye(2), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="same class folders"):
        knn_accuracy(known, known._replace(classes=("a", "c")))


def test_rank_me_is_the_number_of_directions_in_use() -> None:
    basis = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(0))).Q
    for rank in (1, 5, 40):
        assert rank_me(basis[:, :rank] @ basis[:rank]) == pytest.approx(rank, rel=1e-3)


class _Blurred(KnownTeacher):
    """A student that agrees with its teacher below 40 px and is off by its spread from there on: two modes."""

    def __call__(self, pixels, names=()):  # type: ignore[no-untyped-def]
        output = super().__call__(pixels, names)
        return output if pixels.shape[-1] < 40 else output._replace(features=output.features + 1)


def test_mode_switching_shows_the_jump(tmp_path: Path) -> None:
    images = sorted(pictures(tmp_path, 4).glob("*"))
    curve = mode_switching(_Blurred(1.0), KnownTeacher(1.0), images, (16, 24, 32, 40, 48))
    assert max(curve[size] for size in (16, 24, 32)) < 0.6
    assert min(curve[40], curve[48]) > 3 * max(curve[16], curve[24], curve[32])
    with pytest.raises(ValueError, match="16 channels and the teacher's 8"):
        mode_switching(KnownTeacher(1.0), KnownTeacher(1.0, channels=8), images, (16, 32))


def test_scale_equivariance(tmp_path: Path) -> None:
    images = sorted(pictures(tmp_path, 4).glob("*"))
    equivariant = scale_equivariance(KnownTeacher(1.0), images, (24, 32, 48))
    assert 2 * equivariant < scale_equivariance(_Blurred(1.0), images, (24, 32, 48))


def test_every_kind_of_backbone_has_the_same_protocol(tmp_path: Path) -> None:
    """timm's ViTs and CNNs, open_clip's towers, SAM's encoder, a RADIO model, an ONNX file."""
    from transformers import SamVisionConfig, SamVisionModel

    sam = SamVisionConfig(
        hidden_size=32, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64,
        patch_size=16, window_size=2, global_attn_indexes=[0], mlp_dim=32,
    )  # fmt: skip
    SamVisionModel(sam).save_pretrained(tmp_path / "sam")
    torch.onnx.export(
        _Pooled(), (torch.zeros(1, 3, 64, 64),), tmp_path / "pooled.onnx", dynamo=False,
        input_names=["x"], output_names=["maps", "pooled"],
        dynamic_axes={name: {0: "batch"} for name in ("x", "maps", "pooled")},
    )  # fmt: skip
    teachers = [
        build_teacher("timm", "vit_tiny_patch16_224", pretrained=False, size=64),
        build_teacher("timm", "resnet10t", pretrained=False, size=64),
        build_teacher("sam", str(tmp_path / "sam")),
        build_teacher("radio", str(REFERENCE), size=64),
        build_teacher("radio", str(REFERENCE), size=64, adaptor="sam"),
        build_teacher("onnx", str(tmp_path / "pooled.onnx"), features="maps", summary="pooled"),
    ]
    pixels = torch.rand(2, 3, 64, 64)
    for teacher in teachers:
        output = teacher(pixels)
        side = teacher.size // teacher.stride
        assert output.features.shape == (2, teacher.feature_dim, side, side)
        assert output.features.dtype == torch.float32 and not output.features.requires_grad
        if teacher.summary_dim:
            assert output.summary is not None and output.summary.shape == (2, teacher.summary_dim)
        else:
            assert output.summary is None
    assert teachers[2].summary_dim == 0 and teachers[2].feature_dim == 32 and teachers[2].fixed
    whole = teachers[2].model(teachers[2].normalize(pixels)).last_hidden_state
    necked = teachers[2].model.vision_encoder.neck(teachers[2](pixels).features.permute(0, 2, 3, 1))
    torch.testing.assert_close(necked, whole)
    model = load_model(REFERENCE, device="cpu")
    assert torch.equal(teachers[3](pixels).summary, model(pixels).summary)
    expected = nn.functional.avg_pool2d((pixels - teachers[5].normalize.mean) / teachers[5].normalize.std, 16)
    assert torch.allclose(teachers[5](pixels).features, expected, atol=1e-5)


class _Pooled(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = nn.functional.avg_pool2d(x, 16)
        return maps, maps.mean(dim=(2, 3))


@pytest.mark.slow
def test_open_clip_towers() -> None:
    teacher = build_teacher("open_clip", "ViT-B-32")
    output = teacher(torch.rand(1, 3, 224, 224))
    assert output.features.shape == (1, 768, 7, 7) and output.summary is not None
    assert output.summary.shape == (1, 512) and (teacher.size, teacher.stride) == (224, 32)


def test_kinds_and_options_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="unknown kind of teacher 'clip'; allowed: timm"):
        build_teacher("clip", "x")
    with pytest.raises(ValueError, match="'radio' has no such option"):
        build_teacher("radio", str(REFERENCE), pretrained=True)
    with pytest.raises(ValueError, match="no ONNX file"):
        build_teacher("onnx", "nowhere.onnx")
    with pytest.raises(ValueError, match="timm has no model"):
        build_teacher("timm", "vit_huge_of_nobody")


def test_cached_features_train_as_the_teacher_does(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 6)
    teacher = KnownTeacher(1.0)
    images = ((path.name, center_square(load_image(path), 32)) for path in sorted(folder.glob("*")))
    assert cache_features(teacher, images, tmp_path / "cache") == 6
    cached = CachedTeacher(tmp_path / "cache", size=32)
    assert (cached.feature_dim, cached.summary_dim, cached.stride) == (16, 16, 8)
    students = []
    for number, each in enumerate((teacher, cached)):
        fields = recipe(tmp_path, output=str(tmp_path / str(number)))
        fields["data"]["augmentation"] = "none"
        fields["stages"][0]["statistics_steps"] = 4
        students.append(distill(fields, {"a": each}, progress=False))
    pixels = torch.rand(1, 3, 32, 32)
    first, second = (student(pixels)["backbone"].features for student in students)
    assert torch.allclose(first, second, atol=0.05)
    with pytest.raises(ValueError, match="no features of 'other.png'"):
        cached(pixels, ["other.png"])


def test_features_that_the_command_wrote_are_a_cache(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 2)
    arguments = [
        "features",
        *map(str, sorted(folder.glob("*"))),
        "-m",
        str(REFERENCE),
        "-o",
        f"{tmp_path}/cache/",
    ]
    assert main([*arguments, "--feature-fmt", "NCHW", "--size", "crop:48x48", "--device", "cpu"]) == 0
    cached = CachedTeacher(tmp_path / "cache", size=48)
    pixels = center_square(load_image(folder / "001.png"), 48)[None]
    direct = RadioTeacher(REFERENCE)(pixels)
    assert torch.allclose(cached(pixels, ["001.png"]).features, direct.features, atol=1e-4)


def test_students_start_from_other_models(tmp_path: Path) -> None:
    import timm

    from radio.training.recipe import StudentRecipe, TeacherRecipe
    from radio.training.student import build_student

    teachers = {"a": (TeacherRecipe("a", "known", "a"), KnownTeacher(1.0))}
    source = load_model(REFERENCE, device="cpu")
    student = build_student(StudentRecipe(start=str(REFERENCE), depth=2), teachers)
    assert len(student.blocks) == 2 and student.num_summary_tokens == 8
    for name in ("blocks.1.attn.qkv.weight", "patch_generator.pos_embed"):
        assert torch.equal(student.backbone.get_parameter(name), source.backbone.get_parameter(name))
    token = student.backbone.get_parameter("patch_generator.cls_token.token")
    assert torch.equal(token[0], source.backbone.get_parameter("patch_generator.cls_token.token")[0])

    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    start = StudentRecipe(start="timm:vit_tiny_patch16_224", weights=str(tmp_path / "vit.pth"))
    student = build_student(start, teachers).eval()
    pixels = torch.rand(1, 3, 224, 224)
    plain = vit.eval().forward_features(
        (pixels - student.input_conditioner.norm_mean) / student.input_conditioner.norm_std
    )
    # All of timm's weights are there: without the seven registers the student is timm's model.
    with torch.no_grad():
        generator = student.backbone.patch_generator
        tokens = generator(student.input_conditioner(pixels))[:, [0, *range(8, 204)]]
        for block in student.blocks:
            tokens = block(tokens)
        tokens = student.backbone.norm(tokens)
    assert torch.allclose(tokens, plain, atol=1e-4)
    with pytest.raises(ValueError, match="has 12 blocks"):
        build_student(StudentRecipe(start=start.start, weights=start.weights, depth=13), teachers)
    with pytest.raises(ValueError, match="at least 1 for a student from scratch"):
        build_student(StudentRecipe(), teachers)


def test_the_command_measures_any_backbone(
    colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(tmp_path / "pictures", 2)
    arguments = ["evaluate", str(REFERENCE), "--labeled", str(colors), "--side", "48", "--k", "3", "--json"]
    arguments += [
        "--images",
        str(images),
        "--sides",
        "32,48",
        "--teacher",
        str(REFERENCE),
        "--teacher-option",
        "size=48",
    ]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 18 and found["classes"] == 3 and 0 <= found["knn"] <= 1
    assert found["mode_switching"]["48"] == pytest.approx(0, abs=1e-6) and found["mode_switching"]["32"] > 0
    assert main(["evaluate", str(REFERENCE)]) == 1
    assert "--labeled" in capsys.readouterr().err


def test_the_command_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    pictures(tmp_path / "pictures", 4)
    path.write_text(
        TOML.format(output="unused", reference=REFERENCE, pictures=tmp_path / "pictures", steps=3)
    )
    assert main(["train", str(path), "-o", str(tmp_path / "run"), "--stop-after", "2"]) == 0
    assert "model" in capsys.readouterr().out
    load_model(tmp_path / "run" / "model", adaptors=["small", "sam"], device="cpu")
    path.write_text('output = "x"\nteachers = 1\nstages = []')
    assert main(["train", str(path)]) == 1
    assert "teachers must be a list" in capsys.readouterr().err
