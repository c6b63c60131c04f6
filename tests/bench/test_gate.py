"""The gate: what fails it, what does not, and planted losses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason="fhrt[bench] is not installed")

import fhrt.bench.steady
import fhrt.faces
import fhrt.restorer
from fhrt.bench import gate, quality
from fhrt.bench.cases import plan
from fhrt.bench.suite import Options, steady_rows
from fhrt.cli.main import run_app
from fhrt.errors import InputError
from fhrt.faces import Picture
from fhrt.runtime.onnx import OnnxSession


def results(**changes: Any) -> dict[str, Any]:
    return {
        "machine": {"kind": "here"},
        "rows": [
            {"kind": "steady", "key": "steady photo", "ratio": 10.0},
            {"kind": "network", "key": "network a", "p50": 1.0},
        ],
        "counts": {"path a": {"calls": 2, "peak": 10_000_000, "blocks": 10}},
        "quality": {"a onnx fp32 cpu": {"n": 3, "input_psnr": 24.0, "psnr": 26.0, "ssim": 0.7}},
        **changes,
    }


def photo(ratio: float) -> list[dict[str, Any]]:
    return [{"kind": "steady", "key": "steady photo", "ratio": ratio}]


def test_the_same_results_pass() -> None:
    assert gate.compare(results(), results()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": photo(11.2)}, "steady photo: 1.12 times as slow"),
        ({"rows": []}, "steady photo: was measured and is not any more"),
        (
            {"quality": {"a onnx fp32 cpu": {"n": 3, "input_psnr": 24.0, "psnr": 25.7}}},
            "quality of a onnx fp32 cpu: PSNR fell by 0.300 dB",
        ),
        (
            {"quality": {"a onnx fp32 cpu": {"n": 4, "input_psnr": 24.0, "psnr": 26.0}}},
            "scored on other pictures",
        ),
        (
            {"counts": {"path a": {"calls": 3, "peak": 10_000_000, "blocks": 10}}},
            "calls grew from 2 to 3",
        ),
        (
            {"counts": {"path a": {"calls": 2, "peak": 10_400_000, "blocks": 10}}},
            "peak grew",
        ),
        ({"counts": {}}, "counts of path a: were taken"),
    ],
)
def test_what_got_worse_is_one_line(changes: dict[str, Any], said: str) -> None:
    (finding,) = gate.compare(results(), results(**changes))
    assert said in finding.text and "\n" not in finding.text


def test_small_losses_pass_and_so_does_a_run_without_quality() -> None:
    new = results(rows=photo(10.9))
    new["quality"]["a onnx fp32 cpu"]["psnr"] = 25.95
    new["counts"]["path a"] |= {"peak": 10_100_000, "blocks": 60}
    assert gate.compare(results(), new) == []
    del new["quality"]
    assert gate.compare(results(), new) == []


def test_another_kind_of_machine_is_refused() -> None:
    with pytest.raises(InputError, match="not comparable"):
        gate.compare(results(), results(machine={"kind": "there"}))


def test_what_is_slow_only_once_is_measured_again_and_passes() -> None:
    runs = iter([photo(12.0), photo(10.1)])
    assert gate.confirmed(results(), results(rows=photo(13.0)), lambda: next(runs)) == []
    assert next(runs, None) is None


def test_what_is_slow_each_time_stays() -> None:
    asked: list[int] = []

    def again() -> list[dict[str, Any]]:
        asked.append(1)
        return photo(12.0)

    (finding,) = gate.confirmed(results(), results(rows=photo(13.0)), again)
    assert "1.20 times" in finding.text and len(asked) == gate.AGAIN


def test_the_command_exits_with_1_and_a_line_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(results()))
    new.write_text(json.dumps(results(rows=photo(12.0), counts={})))
    assert run_app(["bench", "--from", str(new), "--against", str(old)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
    assert run_app(["bench", "--from", str(old), "--against", str(old)]) == 0
    assert run_app(["bench", "--from", str(old), "--against", str(tmp_path / "none")]) == 1
    new.write_text("[]")
    assert run_app(["bench", "--from", str(new), "--against", str(old)]) == 1
    assert "no results of fhrt bench" in capsys.readouterr().err


def slowed(call: Callable[..., Any], factor: float) -> Callable[..., Any]:
    """It takes so many times as long: half of what is more by computing, half by sleeping; all of
    it by computing where a sleep, which is some 0.06 ms longer than asked for, would be longer."""

    def slow(*given: Any) -> Any:
        start = time.thread_time()
        made = call(*given)
        more = (time.thread_time() - start) * (factor - 1)
        sleep = more / 2 if more > 0.01 else 0.0
        end = time.thread_time() + more - sleep
        while time.thread_time() < end:
            pass
        time.sleep(sleep)
        return made

    return slow


@pytest.fixture
def faces(astronaut: Picture, tmp_path: Path) -> Path:
    for number in range(3):
        piece = astronaut[20 * number : 20 * number + 256, 90:346]
        Image.fromarray(piece).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_planted_loss_of_three_tenths_of_a_decibel_fails(
    faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setups, _ = plan(["restore"], ["onnx"], ["fp32"], ["cpu"])
    before, _ = quality.score(setups, faces, 1)
    assert gate.compare(results(quality=before), results(quality=before)) == []
    plain = OnnxSession.__call__
    loss = 0.3
    error = 10 ** (-before["restore onnx fp32 cpu"]["psnr"] / 10)
    sigma = np.sqrt(error * (10 ** (loss / 10) - 1))
    noise = np.random.default_rng(0).normal(0, sigma, (3, 256, 256)).astype(np.float32)
    monkeypatch.setattr(OnnxSession, "__call__", lambda self, b: plain(self, b) + noise)
    after, _ = quality.score(setups, faces, 1)
    (finding,) = gate.compare(results(quality=before), results(quality=after))
    fell = before["restore onnx fp32 cpu"]["psnr"] - after["restore onnx fp32 cpu"]["psnr"]
    assert fell == pytest.approx(loss, abs=0.05) and "PSNR fell" in finding.text


@pytest.mark.slow
def test_a_clean_tree_passes_five_times_in_a_row_and_a_fifth_slower_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setups, _ = plan(["restore"], ["onnx"], ["fp32"], ["cpu"])

    def measured() -> list[dict[str, Any]]:
        return steady_rows(Options(rounds=20), setups)

    def slow_keys() -> set[str]:
        return {finding.key for finding in gate.confirmed(old, results(rows=measured()), measured)}

    old = results(rows=measured())
    for _ in range(5):
        assert slow_keys() == set()
    with monkeypatch.context() as planted:
        planted.setattr(OnnxSession, "__call__", slowed(OnnxSession.__call__, 1.2))
        assert "steady restore onnx fp32 cpu 1×256" in slow_keys()
    for module in (fhrt.bench.steady, fhrt.restorer):
        monkeypatch.setattr(module, "paste", slowed(fhrt.faces.paste, 1.2))
    assert "steady paste" in slow_keys()


def test_a_session_that_is_half_slower_fails_in_one_short_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setups, _ = plan(["restore"], ["onnx"], ["fp32"], ["cpu"])
    old = results(rows=fhrt.bench.steady.network_rows(setups, 7))
    monkeypatch.setattr(OnnxSession, "__call__", slowed(OnnxSession.__call__, 1.5))
    new = results(rows=fhrt.bench.steady.network_rows(setups, 7))
    (finding,) = gate.compare(old, new)
    assert finding.key == "steady restore onnx fp32 cpu 1×256"
