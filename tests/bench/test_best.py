"""`--best`: which configuration is named, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhrt.bench.best import best, with_quality
from fhrt.bench.plots import front
from fhrt.cli.main import run_app
from fhrt.errors import InputError, UsageError


def network(setup: str, ms: float, batch: int = 1, **more: Any) -> dict[str, Any]:
    model, runtime, precision, device = setup.split()
    return {
        "kind": "network", "key": f"network {setup} {batch}×256", "setup": setup, "model": model,
        "runtime": runtime, "precision": precision, "device": device, "batch": batch, "size": 256,
        "ms": ms, "p95": ms * batch / 900, **more,
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    return {
        "machine": {"kind": "here"},
        "rows": [
            network("a onnx fp32 cpu", 30.0, host_bytes=2e8),
            network("a onnx fp32 cpu", 24.0, batch=4, host_bytes=4e8),
            network("a openvino int8 cpu", 9.0),
            network("b onnx fp32 cpu", 80.0),
            {"kind": "steady", "key": "steady photo", "ratio": 1.0},
        ],
        "quality": {
            "a onnx fp32 cpu": {"side": 256, "psnr": 27.5, "ssim": 0.8},
            "a openvino int8 cpu": {"side": 256, "psnr": 26.9, "ssim": 0.79},
            "b onnx fp32 cpu": {"side": 256, "psnr": 28.0, "ssim": 0.81},
        },
        "counts": {},
    }


@pytest.mark.parametrize(
    ("expression", "setup", "batch"),
    [
        ("psnr>27,ms<50", "a onnx fp32 cpu", 4),
        ("psnr > 27, batch <= 1", "a onnx fp32 cpu", 1),
        ("psnr>=28", "b onnx fp32 cpu", 1),
        ("ms<50", "a openvino int8 cpu", 1),
        ("mb<300", "a onnx fp32 cpu", 1),  # a row whose memory is not known does not qualify
    ],
)
def test_the_fastest_that_keeps_to_all_bounds_is_named(
    results: dict[str, Any], expression: str, setup: str, batch: int
) -> None:
    row = best(results, expression)
    assert (row["setup"], row["batch"]) == (setup, batch)


@pytest.mark.parametrize(
    "expression", ["psnr", "psnr=27", "psnr>27;ms<5", "psnr>x", "pnsr>27", ","]
)
def test_a_bad_expression_is_a_usage_error_of_one_line(
    results: dict[str, Any], expression: str
) -> None:
    with pytest.raises(UsageError) as caught:
        best(results, expression)
    assert "\n" not in str(caught.value)


def test_where_none_qualifies_that_is_said(results: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no configuration of 4 keeps to 'psnr>40'"):
        best(results, "psnr>40")


def test_the_command_asks_earlier_results(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert run_app(["bench", "--from", str(tmp_path), "--best", "psnr>27,ms<50"]) == 0
    assert "a: --runtime onnx, fp32, on cpu, 4 faces of 256 a call: 24.0 ms" in (
        capsys.readouterr().out
    )
    assert run_app(["bench", "--from", str(tmp_path), "--best", "ms<1"]) == 1
    assert run_app(["bench", "--from", str(tmp_path), "--best", "ms~1"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_a_size_that_was_not_scored_has_no_quality(results: dict[str, Any]) -> None:
    results["rows"].append(results["rows"][0] | {"size": 512, "ms": 1.0})
    scored = with_quality(results)
    assert ["psnr" in row for row in scored] == [True, True, True, True, False]
    assert best(results, "psnr>27")["size"] == 256 and best(results, "ms<50")["size"] == 512


def test_the_front_holds_what_nothing_beats_in_both(results: dict[str, Any]) -> None:
    rows = [row | results["quality"][row["setup"]] for row in results["rows"][:4]]
    assert [row["ms"] for row in front(rows, "psnr")] == [9.0, 24.0, 80.0]
