"""docs/finetuning.md and examples/finetune_lora.py do what they say, on a reference checkpoint."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from radio import load_model

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "tests" / "reference" / "v2_5" / "checkpoint.pth.tar"

IMAGES = "torch.rand(2, 3, 64, 64)"
GIVEN = f"""
import torch

images = {IMAGES}
loader = [({IMAGES}, torch.tensor([1, 3]))] * 2
loader_with_masks = [({IMAGES}, torch.zeros(2, 64, 64, dtype=torch.int64))]
"""
"""What the page takes for granted."""


def _sections() -> dict[str, str]:
    """The snippets under each heading."""
    text = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    text = text.replace("radio_v2.5-l", str(CHECKPOINT)).replace("[5, 11, 17, 23]", "[2, 5, 8, 11]")
    headed = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    snippets = ("\n".join(re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)) for part in headed[1::2])
    return dict(zip(headed[::2], snippets, strict=True))


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sections = _sections()
    del sections["Several GPUs"]
    names: dict = {}
    exec(GIVEN, names)
    for heading in ("Frozen features", "A linear probe", "A segmentation head"):
        before = load_model(CHECKPOINT).state_dict()
        exec(sections.pop(heading), names)
        assert all(torch.equal(before[name], value) for name, value in names["model"].state_dict().items())
    assert names["segmenter"].training and not names["model"].training
    assert names["segmenter"].head[1].weight.grad.abs().sum() > 0

    names["images"] = torch.rand(2, 3, 64, 64)
    exec(sections.pop("LoRA"), names)
    with torch.no_grad():
        summary = names["tuned"](names["images"]).summary
        torch.testing.assert_close(names["lora"](names["images"]).summary, summary)
        assert not torch.allclose(load_model(CHECKPOINT)(names["images"]).summary, summary, atol=1e-4)

    exec(sections.pop("Everything"), names)
    model = names["model"]
    assert model.is_gradient_checkpointing and model.training
    assert all(parameter.grad is not None for parameter in model.model.parameters())
    assert len(names["groups"][0]["params"]) + len(names["groups"][1]["params"]) == len(
        list(model.model.parameters())
    )

    exec(sections.pop("Saving and loading"), names)
    for name, value in model.state_dict().items():
        assert torch.equal(names["tuned"].state_dict()[name], value)
        assert torch.equal(names["again"].state_dict()[name], value)
    assert not [heading for heading, code in sections.items() if code]


def test_lora_with_gradient_checkpointing() -> None:
    """The adapters of the first block get the same gradients, though no input of it has one."""
    from peft import LoraConfig, get_peft_model

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = load_model(CHECKPOINT, device="cpu")
        model.set_grad_checkpointing(checkpointing)
        lora = get_peft_model(model, LoraConfig(target_modules=["attn.qkv"], init_lora_weights=False))
        assert lora.is_gradient_checkpointing == checkpointing
        lora(torch.ones(1, 3, 64, 64)).features.square().mean().backward()
        return [p.grad for p in lora.parameters() if p.requires_grad]

    with_them, without = gradients(True), gradients(False)
    assert len(with_them) == 24
    torch.testing.assert_close(with_them, without)
    assert all(gradient.abs().sum() > 0 for gradient in with_them)


@pytest.mark.parametrize("way", ["DistributedDataParallel", "fully_shard"])
def test_two_processes(way: str, tmp_path: Path) -> None:
    """torchrun with two processes on the CPU; each has its own images, and one file comes out."""
    if way == "fully_shard" and torch.__version__ < (2, 7):
        pytest.skip("FSDP2 of PyTorch 2.6 needs a GPU")
    text = _sections()["Several GPUs"]
    scripts = [f"import os\n{part}" for part in text.split("import os\n")[1:]]
    (script,) = [part for part in scripts if way in part]
    start = f"{GIVEN}\nimport os\nimport torch\nfrom radio import load_model\n"
    start += "torch.manual_seed(int(os.environ['RANK']))\n"
    script = script.replace("whole = get_", "model.forward_intermediates(images, 2)\nwhole = get_")
    end = "\nassert all(p.grad is not None for p in model.parameters())\n"
    (tmp_path / "train.py").write_text(start + script + end)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    run = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    before = load_model(CHECKPOINT, device="cpu").state_dict()
    tuned = load_model(tmp_path / "tuned", device="cpu").state_dict()
    changed = [name for name, value in before.items() if not torch.equal(tuned[name].float(), value.float())]
    assert set(changed) >= {f"model.blocks.{i}.attn.qkv.weight" for i in range(12)}


def test_lora_example(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, some in {"first": photos[:2], "second": photos[2:4]}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for photo in some:
            (tmp_path / "data" / name / photo.name).symlink_to(photo)
    folder, output = tmp_path / "data", tmp_path / "adapters"
    command = f"finetune_lora.py {folder} {folder} --model {CHECKPOINT} --size crop:64x64"
    command += f" --epochs 12 --lr 0.01 --device cpu -o {output}"
    monkeypatch.setattr(sys, "argv", command.split())
    torch.manual_seed(0)
    runpy.run_path(str(ROOT / "examples" / "finetune_lora.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"training [\d,]+ of [\d,]+ weights", lines[0])
    assert lines[-2].endswith("accuracy 100.0%")
    assert {path.name for path in output.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.pt",
    }
