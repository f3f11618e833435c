"""The loop: what is learned, what comes out, what is told; resumed runs are the same bit for bit."""

from __future__ import annotations

import csv
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from several_processes import run
from torch import Tensor, nn
from training_runs import REFERENCE, TOML, KnownTeacher, PixelTeacher, noise, pictures, recipe

from radio import ImageError, load_model
from radio.errors import CheckpointError
from radio.images import load_image
from radio.modeling.outputs import RadioOutput
from radio.training import PHIStandardization, TrainingDivergedError, distill, read_recipe
from radio.training.curves import Curves, read_curves
from radio.training.objective import WHOLE, Objective
from radio.training.parallel import spread
from radio.training.recipe import LossRecipe, StudentRecipe, TeacherRecipe
from radio.training.saving import write_checkpoint
from radio.training.student import build_student, standardize_heads

DEVIATIONS = {"quiet": 0.03, "middle": 1.0, "loud": 5.0}


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "run" / "curves.csv", newline="") as file:
        return list(csv.DictReader(file))


def _normalized_errors(folder: Path, standardization: str) -> dict[str, float]:
    """Error of every adaptor of the written model, as a share of its teacher's variance."""
    teachers = {name: PixelTeacher(value, seed=i) for i, (name, value) in enumerate(DEVIATIONS.items())}
    fields = recipe(
        folder,
        [*teachers],
        stages=[{"steps": 300, "batch_size": 8, "sizes": [48], "statistics_steps": 4}],
        optimizer={"rate": 1.5e-2, "warmup": 10},
        checkpoint_every=1000,
        output=str(folder / standardization),
    )
    fields["student"] |= {"width": 16, "depth": 1}
    fields["data"]["augmentation"] = "none"
    for each in fields["teachers"]:
        each |= {"standardization": standardization, "use_summary": False}
    distill(fields, teachers, progress=False)
    model = load_model(folder / standardization / "model", adaptors=[*teachers], device="cpu")
    pixels = torch.stack([load_image(path) for path in sorted((folder / "pictures").glob("*"))])
    with torch.no_grad():
        outputs = model(pixels, feature_fmt="NCHW")
    goals = {name: teacher(pixels).features for name, teacher in teachers.items()}
    return {
        name: float((outputs[name].features - goal).square().mean() / goal.var(dim=(0, 2, 3)).mean())
        for name, goal in goals.items()
    }


def test_plain_mse_learns_the_loud_teacher_and_phi_s_all_three(tmp_path: Path) -> None:
    """A student too narrow for all of three teachers of standard deviation 0.03, 1 and 5."""
    noise(tmp_path / "pictures", 48)
    plain, balanced = (_normalized_errors(tmp_path, kind) for kind in ("none", "phi-s"))
    mean = sum(balanced.values()) / 3
    assert all(abs(error - mean) < 0.2 * mean for error in balanced.values()), balanced
    assert plain["loud"] < 0.5 * balanced["loud"], (plain, balanced)
    assert plain["quiet"] > 1.5 * balanced["quiet"] and plain["middle"] > 1.5 * balanced["middle"], (
        plain,
        balanced,
    )


def test_the_folder_opens_with_load_model(tmp_path: Path) -> None:
    """The file's heads speak the teachers' own spaces; a model without the recipe's parts is whole."""
    pictures(tmp_path / "pictures", 6)
    teachers = {"a": KnownTeacher(5.0), "b": KnownTeacher(0.03, seed=1)}
    fields = recipe(tmp_path, ["a", "b"])
    fields["student"]["spectral"] = True
    fields["teachers"][0]["license"] = "MIT"
    student = distill(fields, teachers, progress=False)
    model = load_model(tmp_path / "run" / "model", adaptors=["a", "b"], device="cpu")
    assert model.num_summary_tokens == 8 and model.num_cls_tokens == 2
    assert model.summary_dim == 2 * 32
    pixels = torch.rand(2, 3, 32, 48)
    objective = Objective(TeacherRecipe("a", "known", "a"), teachers["a"], LossRecipe())
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["processes"][0]["objectives"][0]
    objective.load_state_dict(state)
    with torch.no_grad():
        found, balanced = model(pixels)["a"], student(pixels)["a"]
    restored = objective.standardization.restore(balanced.features)
    assert torch.allclose(found.features, restored, atol=1e-5)
    assert torch.allclose(found.summary, balanced.summary, atol=1e-5)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| a | known: `a` | MIT | yes | 16 | phi-s |" in card
    assert not any(
        "parametrizations" in name for name in load_file(tmp_path / "run" / "model" / "model.safetensors")
    )


def test_curves_tell_teachers_resolutions_and_throughput(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 6)
    fields = recipe(tmp_path, ["a", "b"])
    fields["stages"] = [
        {"steps": 8, "batch_size": 2, "sizes": [16, 32], "statistics_steps": 2},
        {"steps": 3, "batch_size": 2, "sizes": [48]},
    ]
    distill(fields, {"a": KnownTeacher(1.0), "b": KnownTeacher(1.0, size=64, seed=1)}, progress=False)
    rows = _rows(tmp_path)
    assert {row["resolution"] for row in rows if row["teacher"] == "b"} == {"16", "32", "48"}
    assert {row["measure"] for row in rows} == {
        "features", "summary", "images_per_second", "rate", "skipped_images"
    }  # fmt: skip
    assert {row["stage"] for row in rows} == {"0", "1"} and int(rows[-1]["step"]) == 11
    rates = [float(row["value"]) for row in rows if row["measure"] == "rate"]
    assert rates[8] == pytest.approx(rates[0]) and rates[7] < rates[0] / 5  # restarted


def test_tensorboard_has_the_numbers_of_the_csv_file_also_of_a_resumed_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pictures(tmp_path / "pictures", 6)
    fields = recipe(tmp_path, tensorboard=True)
    distill(fields, {"a": KnownTeacher(1.0)}, stop_after=4, progress=False)
    distill(fields, {"a": KnownTeacher(1.0)}, progress=False)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == {
        "features/a/32", "summary/a/32", "images_per_second", "rate", "skipped_images"
    }  # fmt: skip
    rows = [row for row in _rows(tmp_path) if row["measure"] == "features"]
    found = board.Scalars("features/a/32")
    assert [each.step for each in found] == [int(row["step"]) for row in rows] == list(range(1, 9))
    assert [each.value for each in found] == pytest.approx([float(row["value"]) for row in rows], rel=1e-5)


def test_tokens_trunk_and_heads_have_rates_of_their_own(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 4)
    fields = recipe(tmp_path, optimizer={"rate": 1e-3, "trunk_rate": 0.0, "token_rate": 1e-2})
    before = build_student(read_recipe(fields).student, _one_teacher(), seed=0).state_dict()
    after = distill(fields, {"a": KnownTeacher(1.0)}, progress=False).state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name for name in moved if not name.startswith("adaptors.")} == {
        "model.patch_generator.cls_token.token"
    }
    assert any(name.startswith("adaptors.") for name in moved)


def test_heads_read_standardized_tokens_of_any_start(tmp_path: Path) -> None:
    """What the first layer of a head gives is what it gave of standardized tokens before."""
    student = build_student(StudentRecipe(start=str(REFERENCE), head_width=24), _one_teacher(), seed=0)
    adaptor = student.adaptors["a"]
    pixels = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    weights = [layer.weight.clone() for layer in (adaptor.head_mlp.fc1, adaptor.feat_mlp.fc1)]
    standardize_heads(student, pixels)
    assert student.training
    with torch.no_grad():
        tokens = student.eval()(pixels)["backbone"]
    inputs = (tokens.summary[:, : student.embed_dim], tokens.features.flatten(0, 1))
    for layer, weight, read in zip(
        (adaptor.head_mlp.fc1, adaptor.feat_mlp.fc1), weights, inputs, strict=True
    ):
        standardized = (read - read.mean(0)) / read.std(0)
        torch.testing.assert_close(layer(read), standardized @ weight.T, atol=1e-3, rtol=1e-3)


def _one_teacher() -> dict[str, tuple[TeacherRecipe, KnownTeacher]]:
    return {"a": (TeacherRecipe("a", "known", "a"), KnownTeacher(1.0))}


def test_mosaic_saves_passes_in_a_run(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 6)
    fields = recipe(tmp_path)
    fields["teachers"][0] |= {"mosaic": True, "use_summary": False}
    teacher = KnownTeacher(1.0, size=64)
    distill(fields, {"a": teacher}, progress=False)
    assert teacher.calls == 8  # four views of 32 px share one canvas of 64 px, in each of 8 steps


def test_a_later_stage_may_leave_a_teacher_out(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 6)
    fields = recipe(tmp_path, ["a", "b"])
    fields["stages"].append({"steps": 3, "groups": [{"batch_size": 4, "sizes": [32], "teachers": ["a"]}]})
    teachers = {"a": KnownTeacher(1.0), "b": KnownTeacher(1.0, seed=1)}
    distill(fields, teachers, progress=False)
    assert teachers["a"].calls == 4 * 11 and teachers["b"].calls == 4 * 8
    assert {row["teacher"] for row in _rows(tmp_path) if int(row["step"]) > 8} - {""} == {"a"}


@pytest.mark.parametrize("loss", ["angle", "shift", "cosine_smooth_l1", "lamb", "checkpointing", "bfloat16"])
def test_other_recipes_learn_too(tmp_path: Path, loss: str) -> None:
    pictures(tmp_path / "pictures", 8)
    fields = recipe(tmp_path, stages=[{"steps": 40, "batch_size": 8, "sizes": [32], "statistics_steps": 4}])
    fields["optimizer"] = {"name": "lamb", "rate": 3e-2} if loss == "lamb" else {"rate": 3e-3}
    fields["loss"] = {"summary": "angle"} if loss == "angle" else {}
    fields["loss"] |= {"features": loss} if loss == "cosine_smooth_l1" else {}
    fields["gradient_checkpointing"] = loss == "checkpointing"
    fields["precision"] = "bfloat16" if loss == "bfloat16" else "float32"
    fields["teachers"][0]["shift"] = 2 if loss == "shift" else 0
    distill(fields, {"a": KnownTeacher(2.0)}, progress=False)
    values = [float(row["value"]) for row in _rows(tmp_path) if row["measure"] == "features"]
    assert sum(values[-5:]) < 0.75 * sum(values[4:9])
    load_model(tmp_path / "run" / "model", adaptors=["a"], device="cpu")


def test_bad_images_are_skipped_and_counted(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 5)
    (folder / "bad.jpg").write_bytes(b"not an image")
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:200])
    distill(recipe(tmp_path), {"a": KnownTeacher(1.0)}, progress=False)
    skipped = [float(row["value"]) for row in _rows(tmp_path) if row["measure"] == "skipped_images"]
    assert skipped[-1] >= 2
    for path in folder.glob("0*.png"):
        path.write_bytes(b"")
    fields = recipe(tmp_path, output=str(tmp_path / "other"))
    with pytest.raises(ImageError, match="20 images in a row cannot be read"):
        distill(fields, {"a": KnownTeacher(1.0)}, progress=False)


class _Failing(KnownTeacher):
    """Gives NaN from one call on."""

    def __call__(self, pixels: Tensor, names: tuple[str, ...] = ()):  # type: ignore[override, no-untyped-def]
        output = super().__call__(pixels, names)
        return output if self.calls < 21 else output._replace(features=output.features * torch.nan)


def test_nan_stops_with_a_message_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 6)
    with pytest.raises(
        TrainingDivergedError, match="features loss of teacher 'a' is nan at step 6 .*lower optimizer.rate"
    ):
        distill(recipe(tmp_path), {"a": _Failing(1.0)}, progress=False)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4


def test_divergence_stops_with_a_message(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 6)
    stages = [{"steps": 400, "batch_size": 4, "sizes": [32], "statistics_steps": 1}]
    fields = recipe(tmp_path, stages=stages, optimizer={"rate": 5.0}, divergence=3.0)
    with pytest.raises(TrainingDivergedError, match="diverges|loss of teacher"):
        distill(fields, {"a": KnownTeacher(1.0)}, progress=False)


def test_a_run_does_not_replace_the_models_that_it_reads(tmp_path: Path) -> None:
    """A student that starts from an earlier run's model, or has it as a teacher, needs a folder of its own."""
    pictures(tmp_path / "pictures", 4)
    model = tmp_path / "run" / "model"
    load_model(REFERENCE, device="cpu").save_pretrained(model)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    teacher = {"name": "a", "kind": "radio", "model": str(model / "model.safetensors")}
    for changes in ({"student": {"start": str(model)}}, {"teachers": [teacher]}):
        with pytest.raises(ValueError, match="is an input"):
            distill(recipe(tmp_path, output=str(tmp_path / "run"), **changes), progress=False)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_run_that_goes_on_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 7)
    weights = []
    for stops in ([None], [1, 5, None]):
        fields = recipe(tmp_path, ["a", "b"], output=str(tmp_path / f"run{len(stops)}"))
        fields["student"]["spectral"] = True
        fields["loss"] = {"ada_loss": True, "teacher_dropout": 0.3, "summary": "angle"}
        for stop in stops:
            teachers = {"a": KnownTeacher(1.0), "b": KnownTeacher(3.0, seed=1)}
            distill(fields, teachers, stop_after=stop, progress=False)
        weights.append(load_file(tmp_path / f"run{len(stops)}" / "model" / "model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    one, other = ((tmp_path / f"run{n}" / "curves.csv").read_text().splitlines() for n in (1, 3))
    assert [row for row in one if "images_per" not in row] == [
        row for row in other if "images_per" not in row
    ]


def test_another_recipe_does_not_go_on(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 4)
    distill(recipe(tmp_path), {"a": KnownTeacher(1.0)}, stop_after=1, progress=False)
    with pytest.raises(ValueError, match="another recipe"):
        distill(recipe(tmp_path, seed=1), {"a": KnownTeacher(1.0)}, progress=False)


def _command(path: Path, processes: int) -> list[str]:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [*start, "radio", "--debug", "train", str(path)]


def test_a_wrong_folder_of_the_evaluation_is_found_at_the_start(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 2)
    fields = recipe(tmp_path, evaluation={"every": 100, "labeled": str(tmp_path / "none")})
    with pytest.raises(ValueError, match="none is not a folder"):
        distill(fields, {"a": KnownTeacher(1.0)})


@pytest.mark.parametrize("content", [b"", b"x" * 100, "list"])
def test_damaged_checkpoints_are_named(content: bytes | str, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 2)
    path = tmp_path / "run" / "checkpoint.pt"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save([1], path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged; delete it") as caught:
        distill(recipe(tmp_path), {"a": KnownTeacher(1.0)})
    assert len(str(caught.value)) < 500


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """Files may not grow beyond 20 kB here, which is what a full disk looks like to a program."""
    write_checkpoint(tmp_path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"cannot write .*checkpoint\.pt: File too large; .* goes on from the last"
        ):
            write_checkpoint(tmp_path, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert torch.load(tmp_path / "checkpoint.pt") == {"step": 1}


def test_half_a_row_of_the_curves_is_dropped(tmp_path: Path) -> None:
    curves = Curves(tmp_path, 0, False, True)
    curves.add(1, 0, {("", 0, "rate"): 0.5})
    with open(curves.path, "a") as file:
        file.write("1")  # of step 12
    Curves(tmp_path, 4, False, True)
    assert [row["value"] for row in read_curves(curves.path)] == ["0.5"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path: Path, processes: int) -> None:
    pictures(tmp_path / "pictures", 7)
    names = {"reference": REFERENCE, "pictures": tmp_path / "pictures", "steps": 14}
    for name in ("whole", "killed"):
        (tmp_path / f"{name}.toml").write_text(TOML.format(output=tmp_path / name, **names))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(_command(tmp_path / "whole.toml", processes), check=True, env=environment)
    steps = sorted(random.sample(range(2, 13), 2))
    for step in [*steps, None]:
        process = subprocess.Popen(
            _command(tmp_path / "killed.toml", processes), env=environment, start_new_session=True
        )
        while step is not None and process.poll() is None and _last_step(tmp_path / "killed") < step:
            time.sleep(0.01)
        if step is not None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    whole, killed = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(value, killed[name]) for name, value in whole.items()), steps


def _last_step(folder: Path) -> int:
    try:
        return int((folder / "curves.csv").read_text().splitlines()[-1].split(",")[0])
    except (OSError, ValueError, IndexError):
        return 0


def _gradients(rank: int, how: str) -> dict[str, Tensor]:
    """Gradients of one batch of 4 images, shared among the processes there are."""
    import torch.distributed as dist

    from radio.distributed import Processes
    from radio.training.partition import Group, teacher_weights

    size = dist.get_world_size() if dist.is_initialized() else 1
    torch.manual_seed(0)
    teacher, given = KnownTeacher(2.0), TeacherRecipe("a", "known", "a")
    student = build_student(read_recipe(recipe(Path())).student, {"a": (given, teacher)}).eval()
    objective = Objective(given, teacher, LossRecipe())
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    own = pixels.chunk(size)[rank]
    target = objective.target(own, [], 32, torch.Generator())
    objective.update(target)
    objective.fit()
    model: nn.Module = spread(student, Processes(rank, size, torch.device("cpu")), how, unused=False)
    output: RadioOutput = model(own, feature_fmt="NCHW")["a"]
    [weight] = teacher_weights([Group((32,), 4)], size, rank, ["a"]).values()
    (sum(objective.loss(output, WHOLE, target).values()) * weight).backward()  # type: ignore[union-attr]
    return {
        name: getattr(p.grad, "full_tensor", lambda p=p: p.grad)()  # type: ignore[misc]
        for name, p in student.named_parameters()
        if p.grad is not None
    }


WAYS = ("ddp", "fsdp2") if torch.__version__ >= (2, 7) else ("ddp",)
"""FSDP2 of PyTorch 2.6 needs a GPU."""


def _in_a_process(rank: int, features: Tensor) -> dict[str, Any]:
    """All that is compared between processes, so that they start once."""
    phi = PHIStandardization(12)
    phi.update(features[:7] if rank == 0 else features[7:])
    phi.fit()
    again = phi.fit().standardize(features)
    return {
        "standardized": again,
        "own": phi.statistics.count,
        **{way: _gradients(rank, way) for way in WAYS},
    }


def test_two_processes_are_as_good_as_one(tmp_path: Path) -> None:
    """Statistics are summed over processes; gradients of DDP and FSDP2 are those of the whole batch in one process."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 12, generator=generator, dtype=torch.float64) * 3 + 100
    alone = PHIStandardization()
    alone.update(features)
    expected = alone.fit().standardize(features)
    gradients = _gradients(0, "ddp")
    first, second = run(_in_a_process, 2, features, tmp_path)
    assert (first["own"], second["own"]) == (7, 93)
    assert torch.equal(first["standardized"], second["standardized"])
    # Principal directions are free in their signs; distances are not.
    assert torch.allclose(
        torch.cdist(first["standardized"], first["standardized"]), torch.cdist(expected, expected), atol=1e-6
    )
    variances = first["standardized"].var(0, correction=0)
    assert torch.allclose(variances, torch.ones(12, dtype=torch.float64), atol=1e-9)
    for how in WAYS:
        for together in (first[how], second[how]):
            assert set(together) == set(gradients)
            for name, gradient in gradients.items():
                assert torch.allclose(together[name], gradient, atol=1e-5, rtol=1e-4), (how, name)
