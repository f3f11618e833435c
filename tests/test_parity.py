"""Same file in, same numbers out: every reference case, against the outputs of the public hub code."""

from __future__ import annotations

import pytest
import torch
from reference_cases import FOLDERS, case_input, cases_of, check_outputs, load_case

from radio.modeling.kernels import adaptive_linear, attention

CASES = [
    pytest.param(folder, case, id=f"{folder}-{case['name']}")
    for folder in FOLDERS
    for case in cases_of(folder)
]


@pytest.fixture(params=[False, True], ids=["", "all_kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own kernels; or those of `modeling.kernels`, at every size and on every processor."""
    monkeypatch.setattr(attention, "has_slow_bfloat16_attention", lambda: request.param)
    monkeypatch.setattr(adaptive_linear, "has_slow_float32_products", lambda: request.param)
    monkeypatch.setattr(
        attention, "is_faster_by_convolution", lambda q, k, v: request.param and q.dtype == torch.float32
    )
    monkeypatch.setattr(attention, "_BY_HEAD_FROM", 0)
    monkeypatch.setattr(adaptive_linear, "_CONVOLVE_FROM", 0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("folder", "case"), CASES)
def test_outputs_equal_the_public_code(folder: str, case: dict) -> None:
    model = load_case(folder, case)
    x = case_input(folder, case)
    untouched = x.clone()
    with torch.inference_mode():
        if "inter" in case:
            output = model.forward_intermediates(x, **case["inter"])
        else:
            output = model(x, feature_fmt=case.get("fmt", "NLC"), num_tokens=case.get("num_tokens"))
    check_outputs(folder, case, output, 2e-2 if folder == "bf16" else 2e-5)
    assert torch.equal(x, untouched)
