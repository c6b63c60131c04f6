"""`fhrt eval` with several models, its report, and the overview of all systems."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from fhrt.cli.main import run_app
from fhrt.errors import InputError
from fhrt.faces import Picture
from fhrt.models import Recipe
from fhrt.quality import overview, tables
from fhrt.quality.measures import PSNR, SSIM, Measure
from fhrt.quality.metrics import Mean
from fhrt.quality.scoring import Curve, Example, Rating, rate

FILES = ["table.md", "table.csv", "results.json", "curve.png", "curve.svg"]
FILES += ["gains.png", "pictures.png", "report.pdf"]
MOBILEFACENET = Path(__file__).resolve().parents[2].parent / "shared/weights/mobilefacenet_112.onnx"
NIQE = MOBILEFACENET.parents[1] / "reference/functions/niqe_pris_params.npz"
needs_shared = pytest.mark.skipif(not MOBILEFACENET.is_file(), reason="../shared is not here")


@pytest.fixture(scope="module")
def faces(astronaut: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for i in range(3):
        Image.fromarray(np.roll(astronaut[20:276, 90:346], 9 * i, 1)).save(folder / f"{i}.png")
    return folder


Call = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs `fhrt eval`: exit code, stdout, lines of stderr."""

    def run(*words: object) -> tuple[int, str, list[str]]:
        capfd.readouterr()
        code = run_app(["eval", *map(str, words), "--device", "cpu"])
        out, err = capfd.readouterr()
        return code, out, err.splitlines()

    return run


def rating(model: str, gain: float) -> Rating:
    def side(decibels: float) -> dict[str, list[float]]:
        return {"psnr": [decibels, decibels + 1, decibels + 2], "ssim": [0.5, 0.6, 0.7]}

    values = {"input": side(24.0), "output": side(24.0 + gain)}
    return Rating(model, "blind-256", ["a.png", "b.png", "c.png"], values)


def plain(colour: tuple[int, int, int]) -> Picture:
    return np.full((32, 32, 3), colour, np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two models, whose pictures are plain red, green and blue."""
    pytest.importorskip("matplotlib")
    from fhrt.quality.report import write_report

    folder = tmp_path_factory.mktemp("out") / "new" / "report"
    colours = [plain((255, 0, 0)), plain((0, 128, 0)), plain((0, 0, 254))]
    shown = [Example(label, "a.png", *colours, 24, 26) for label in ("best", "median", "worst")]
    means = [Mean(30.0, 0.2), Mean(24.0, 0.1)]
    line = Curve("blind-256", (0.5, 1.0), {"input": means, "one": means, "two": means})
    ratings = [rating("one", 2.0), rating("two", -1.0)]
    paths = write_report(folder, ratings, line, {"one": shown, "two": shown})
    assert [path.name for path in paths] == FILES
    return folder


def test_a_report_is_all_its_files_and_nothing_beside(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(FILES)


def test_tables_and_results_hold_the_means_and_every_picture(written: Path) -> None:
    table = (written / "table.md").read_text()
    assert table.startswith("blind-256, 3 pictures, mean ± standard error\n")
    assert "| input | 25.00 ± 0.58 |  | 0.600 ± 0.058 |" in table
    assert "| two | 24.00 ± 0.58 | -1.00 ± 0.00 | 0.600 ± 0.058 |" in table
    rows = list(csv.DictReader((written / "table.csv").open()))
    assert [row["name"] for row in rows] == ["input", "one", "two"]
    assert float(rows[1]["psnr"]) == 27 and float(rows[1]["psnr_se"]) == pytest.approx(3**-0.5)
    assert rows[0]["gain"] == "" and float(rows[1]["gain"]) == 2
    results = json.loads((written / "results.json").read_text())
    assert [model["model"] for model in results["models"]] == ["one", "two"]
    assert results["models"][0]["pictures"]["c.png"]["output"] == {"psnr": 28.0, "ssim": 0.7}
    assert results["curve"]["strengths"] == [0.5, 1.0]
    assert results["curve"]["psnr"]["two"][1] == {"mean": 24.0, "se": 0.1}


def test_figures_have_500_dpi_and_pictures_their_own_colours(written: Path) -> None:
    for name in ("curve.png", "gains.png", "pictures.png"):
        with Image.open(written / name) as figure:
            assert figure.info["dpi"] == pytest.approx((500, 500), abs=0.1)
    pixels = np.asarray(Image.open(written / "pictures.png").convert("RGB"))
    for colour in ((255, 0, 0), (0, 128, 0), (0, 0, 254)):
        where = np.nonzero((pixels == colour).all(2))
        assert len(where[0]) > 0.04 * pixels.shape[0] * pixels.shape[1]
    red, blue = (np.nonzero((pixels == c).all(2))[1].min() for c in ((255, 0, 0), (0, 0, 254)))
    assert red < blue  # the input left of the truth


def test_the_page_is_one_and_the_curve_is_a_drawing(written: Path) -> None:
    page = (written / "report.pdf").read_bytes()
    assert page.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\s", page)) == 1
    assert (written / "curve.svg").read_text().rstrip().endswith("</svg>")


def test_one_picture_and_no_curve_still_make_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from fhrt.quality import figures
    from fhrt.quality.report import write_report

    monkeypatch.setattr(figures, "DPI", 40)  # what is looked at here are words
    values = {side: {"psnr": [30.0], "ssim": [0.9]} for side in ("input", "output")}
    alone = Rating("one", "sr4-128", ["a.png"], values)
    shown = [Example("best", "a.png", plain((1, 2, 3)), plain((4, 5, 6)), plain((7, 8, 9)), 30, 30)]
    paths = write_report(tmp_path, [alone], None, {"one": shown})
    assert [path.name for path in paths] == [name for name in FILES if "curve" not in name]
    assert "| one | 30.00 | +0.00 | 0.900 |" in (tmp_path / "table.md").read_text()
    assert "sr4-128, 1 picture, mean" in (tmp_path / "table.md").read_text()


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    from fhrt.quality.report import write_files

    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/report: cannot be made"):
        write_files(tmp_path / "file" / "report", {"a": b""})


def test_a_wrong_report_folder_is_said_before_anything_is_scored(
    call: Call, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("fhrt.quality.scoring.rate", lambda *_: pytest.fail("scored"))
    (tmp_path / "file").write_text("")
    for words in (["restore", "--protocol", "clean"], ["--all"]):
        code, out, err = call(*words, "--data", faces, "--report", tmp_path / "file" / "x")
        assert (code, out, len(err)) == (1, "", 1) and "file/x: cannot be made" in err[0]


def test_other_measures_come_with_the_truth_where_they_need_none(faces: Path) -> None:
    bright = Measure("niqe", lambda path, picture, case: float(picture.mean()), of_truth=True)
    alike = Measure("identity", lambda path, picture, case: float(picture.size))
    (found,) = rate({"half": lambda x: x / 2}, faces, "clean", [PSNR, SSIM, bright, alike])
    summary = found.summary()
    assert list(summary["truth"]) == ["niqe"]
    assert summary["output"]["niqe"]["mean"] == pytest.approx(
        summary["truth"]["niqe"]["mean"] / 2, abs=0.5
    )
    words = tables.cells([summary])
    assert words[0] == ["", "PSNR dB", "gain dB", "SSIM", "identity", "NIQE"]
    assert [row[0] for row in words] == ["", "input", "half", "truth"]
    assert words[3][1:5] == ["", "", "", ""] and words[3][5]


def test_several_models_are_a_list_and_one_is_itself(
    call: Call, faces: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from fhrt.models import recipe

    file = tmp_path / "mine.onnx"
    file.write_bytes(recipe("restore").onnx_path().read_bytes())
    words = ["--data", faces, "--protocol", "blind-256"]
    code, out, err = call("restore", file, *words, "--sheet", tmp_path / "sheet.png")
    assert (code, err) == (0, [])
    models = json.loads(out)["models"]
    assert [model["model"] for model in models] == ["restore", str(file)]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 256, 256)
    code, out, _ = call("restore", *words)
    assert code == 0 and json.loads(out) == models[0]
    code, out, err = call("restore", "restore", *words)
    assert code == 2 and err == ["fhrt: restore is named twice"]


@needs_shared
def test_identity_and_niqe_are_measured_on_demand(call: Call, faces: Path) -> None:
    words = ["--data", faces, "--protocol", "blind-256", "--embedder", MOBILEFACENET]
    code, out, err = call("restore", *words, "--niqe", NIQE)
    assert (code, err) == (0, [])
    found = json.loads(out)
    assert -1 <= found["input"]["identity"]["mean"] < found["output"]["identity"]["mean"] <= 1
    assert found["truth"].keys() == {"niqe"} and found["truth"]["niqe"]["mean"] > 1


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["restorer", "--protocol", "blind-256"], 2, "unknown model 'restorer'; did you mean"),
        (["none.onnx", "--protocol", "blind-256"], 1, "none.onnx: no such model file"),
        (["restore", "--protocol", "blind"], 2, "unknown protocol 'blind'; there are: blind-256"),
        (["restore", "--protocol", "clean@2"], 2, "clean has no strength"),
        (["restore", "--protocol", "blind-512"], 1, "0.png: 256×256, and blind-512 needs 512×512"),
        (["restore", "--protocol", "sr4-256"], 1, "restore gives 64×64 on sr4-256"),
        (["restore", "--protocol", "clean", "--embedder", "no.onnx"], 1, "no.onnx"),
        (["restore", "--protocol", "clean", "--niqe", "no.npz"], 1, "no.npz"),
        (["restore"], 2, "name a model and a --protocol"),
        (["--protocol", "clean"], 2, "name a model and a --protocol"),
        (["restore", "--all"], 2, "--all takes no model"),
        (["restore", "--protocol", "detection"], 2, "scores `detector`"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    call: Call, faces: Path, words: list[str], code: int, said: str
) -> None:
    found, out, err = call(*words, "--data", faces)
    assert (found, len(err), out) == (code, 1, "") and said in err[0], err


def test_a_folder_without_pictures_is_said_for_one_and_for_all(call: Call, tmp_path: Path) -> None:
    for words in (["restore", "--protocol", "clean"], ["--all"]):
        code, _, err = call(*words, "--data", tmp_path)
        assert code == 1 and len(err) == 1 and "no pictures to score on" in err[0]


def test_a_report_without_matplotlib_says_what_adds_it(
    call: Call, faces: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ["restore", "--protocol", "clean", "--data", faces, "--report", tmp_path / "r"]
    code, _, err = call(*words)
    assert code == 1 and err == [
        "fhrt: matplotlib is not installed; pip install 'fhrt[eval]' adds it"
    ]
    assert not (tmp_path / "r").exists()


SYSTEMS: dict[str, dict[str, Any]] = {
    "same": {"protocol": "blind-256", "steps": 300, "trained_on": "two CPU cores"},
    "grown": {"protocol": "sr4-128", "task": "upscale", "scale": 4},
    "unmask": {"protocol": "occlusion-256", "task": "unmask"},
    "detector": {"protocol": "detection", "task": "detect"},
    "landmarks": {"protocol": "", "task": "landmarks"},
}


def network(recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
    return lambda batch: batch.repeat(recipe.scale, 2).repeat(recipe.scale, 3)


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    common: dict[str, Any] = {"about": "", "task": "restore", "network": "", "licence": "MIT"}
    recipes = {
        name: Recipe(**{"name": name, "commercial": True, "sizes": (256,), **common, **own})
        for name, own in SYSTEMS.items()
    }
    monkeypatch.setattr(overview, "recipes", lambda: recipes)


@pytest.mark.usefixtures("bundled")
def test_every_system_is_scored_on_its_own_protocol(faces: Path) -> None:
    scored = overview.score_systems(faces, network)
    rows = overview.cells(scored)
    assert [row[:3] for row in rows[1:]] == [
        ["same", "blind-256", "3"],
        ["grown", "sr4-128", "3"],
        ["unmask", "occlusion-256", "3"],
    ]
    assert rows[1][7] == "+0.00 ± 0.00" and rows[1][-2:] == ["300", "two CPU cores"]
    assert len({len(row) for row in rows}) == 1
    assert tables.markdown(rows).splitlines()[1] == "|---" * len(rows[0]) + "|"


@pytest.mark.usefixtures("bundled")
def test_the_sheet_shows_the_same_people_in_the_same_columns(faces: Path) -> None:
    sheet = overview.contact_sheet(overview.score_systems(faces, network), faces)
    step = overview.THUMB + overview.GAP
    assert sheet.shape == (7 * step, overview.LABEL + 3 * step, 3)
    for column in range(3):  # the last row is the truth, averaged down to half the size
        truth = np.asarray(Image.open(faces / f"{column}.png"))
        x, y = overview.LABEL + column * step, 6 * step + overview.GAP // 2
        shown = sheet[y : y + 128, x : x + 128]
        assert np.abs(shown - cv2.resize(truth, (128, 128), interpolation=3).astype(int)).max() < 2


@pytest.mark.usefixtures("bundled")
def test_all_prints_one_table_and_writes_it_with_the_sheet(
    call: Call, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = "fhrt.exporting.engine_cache.open_session"
    monkeypatch.setattr(opener, lambda recipe, *_: network(recipe))
    code, out, err = call("--all", "--data", faces, "--report", tmp_path / "all")
    assert (code, err) == (0, [])
    assert out.startswith("| system | protocol | n |") and len(out.splitlines()) == 5
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == ["results.json", "systems.png", "table.md"]
    assert (tmp_path / "all" / "table.md").read_text() == out
    results = json.loads((tmp_path / "all" / "results.json").read_text())
    assert [model["model"] for model in results["models"]] == ["same", "grown", "unmask"]
    assert not math.isnan(results["models"][0]["input"]["psnr"]["se"])
