"""`fhrt` as it is called: exit codes, files, stdout and stderr."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

import fhrt
from fhrt.cli.main import run_app
from fhrt.faces import Picture

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
TALKING = SHARED / "video" / "talking_512x512_30fps_audio.mp4"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")
COMMAND = [sys.executable, "-m", "fhrt.cli.main"]
COMMANDS = ["run", "demo", "models", "doctor", "eval", "data", "train", "export"]


class Said:
    """What one call of the command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


Call = Callable[..., Said]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs a command line in this process; also what C libraries print is seen."""

    def run(*words: object) -> Said:
        capfd.readouterr()
        code = run_app([str(word) for word in words])
        out, err = capfd.readouterr()
        assert "Traceback" not in err + out or "--debug" in words
        return Said(code, out, err)

    return run


def saved(picture: Picture, path: Path, **options: Any) -> Path:
    Image.fromarray(picture).save(path, **options)
    return path


@pytest.fixture
def portrait(damaged: Picture, tmp_path: Path) -> Path:
    return saved(np.ascontiguousarray(damaged[:320, 60:380]), tmp_path / "portrait.png")


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A picture without a face."""
    return saved(skimage.data.coffee()[:200, :300], tmp_path / "coffee.jpg", quality=90)


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_photo_is_restored_beside_itself(call: Call, portrait: Path) -> None:
    said = call("run", portrait, "--device", "cpu")
    assert said.code == 0 and said.out == "", said
    assert len(said.lines) == 1 and "portrait_restored.png" in said.err and "face" in said.err
    before, after = pixels(portrait), pixels(portrait.with_name("portrait_restored.png"))
    assert after.shape == before.shape and not np.array_equal(after, before)
    assert np.array_equal(after[-40:, -40:], before[-40:, -40:])
    assert names(portrait.parent) == ["portrait.png", "portrait_restored.png"]
    api = fhrt.restore(before, device="cpu").picture
    assert np.array_equal(after, api)  # the command is made of the API


def test_output_is_a_file_a_folder_or_another_format(
    call: Call, portrait: Path, tmp_path: Path
) -> None:
    assert call("run", portrait, "-o", tmp_path / "new" / "a.webp").code == 0
    assert Image.open(tmp_path / "new" / "a.webp").format == "WEBP"
    assert call("run", portrait, "-o", f"{tmp_path}/into/").code == 0
    assert call("run", portrait, "-o", tmp_path / "plain").code == 0
    assert (tmp_path / "into" / "portrait.png").is_file()
    assert (tmp_path / "plain" / "portrait.png").is_file()


def test_several_a_folder_and_a_glob_with_jobs(
    call: Call, portrait: Path, empty: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call("run", portrait, empty, "-o", out, "-j", "2").code == 0
    assert names(out) == ["coffee.jpg", "portrait.png"]
    assert call("run", tmp_path, "-o", tmp_path / "folder").code == 0
    assert names(tmp_path / "folder") == ["coffee.jpg", "portrait.png"]
    assert call("run", f"{tmp_path}/*.png", "-o", tmp_path / "glob").code == 0
    assert names(tmp_path / "glob") == ["portrait.png"]


def test_a_folder_run_twice_does_not_restore_what_it_has_restored(call: Call, empty: Path) -> None:
    for _ in range(2):
        assert call("run", empty.parent, "-y").code == 0
        assert names(empty.parent) == ["coffee.jpg", "coffee_restored.jpg"]
    assert call("run", f"{empty.parent}/*.jpg", "-y").code == 0
    assert names(empty.parent) == ["coffee.jpg", "coffee_restored.jpg"]


def test_stdin_goes_to_stdout_and_nothing_else_does(portrait: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "run", "-", "--device", "cpu"], input=portrait.read_bytes(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    after = Image.open(io.BytesIO(done.stdout))
    assert after.format == "PNG" and after.size == (320, 320)
    assert not np.array_equal(np.asarray(after), pixels(portrait))
    assert len(done.stderr.splitlines()) == 1  # no progress without a terminal


def test_a_photo_goes_to_stdout(portrait: Path, capfdbinary: Any) -> None:
    assert run_app(["run", str(portrait), "-o", "-"]) == 0
    assert Image.open(io.BytesIO(capfdbinary.readouterr().out)).size == (320, 320)


@pytest.mark.parametrize("scale", ["2", "4"])
def test_scale_enlarges_also_a_picture_without_a_face(
    scale: str, call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("run", empty, "--scale", scale, "-o", empty.with_name("a.png")).code == 0
    monkeypatch.setenv("FHRT_SCALE", scale)
    assert call("run", empty, "-o", empty.with_name("b.png")).code == 0
    for name in "ab":
        image = Image.open(empty.with_name(f"{name}.png"))
        assert image.size == (300 * int(scale), 200 * int(scale))


def test_a_photo_without_a_face_is_copied_byte_for_byte_and_said_so(
    call: Call, empty: Path
) -> None:
    said = call("run", empty)
    assert said.code == 0 and "no face found: copied through" in said.err
    assert empty.with_name("coffee_restored.jpg").read_bytes() == empty.read_bytes()
    said = call("run", empty, "-y", "--json")
    line = json.loads(said.out)
    assert line["faces"] == [] and line["error"] is None and "no face" in line["note"]


def test_an_output_that_is_there_is_refused_skipped_or_overwritten(
    call: Call, portrait: Path
) -> None:
    target = portrait.with_name("portrait_restored.png")
    target.write_bytes(b"of yesterday")
    said = call("run", portrait)
    assert said.code == 1 and said.lines == [f"fhrt: {target} exists: -y overwrites it"]
    said = call("run", portrait, "--skip-existing")
    assert said.code == 0 and "skipped" in said.err
    assert target.read_bytes() == b"of yesterday"
    assert call("run", portrait, "-y", "--skip-existing").code == 2
    assert call("run", portrait, "-y").code == 0
    assert pixels(target).shape == (320, 320, 3)


def test_a_dry_run_reports_faces_and_writes_nothing(call: Call, portrait: Path) -> None:
    said = call("run", portrait, "--dry-run", "--json", "-o", portrait.parent / "new" / "x.png")
    assert said.code == 0
    line = json.loads(said.out)
    assert len(line["faces"]) >= 1 and line["output"] is None and "restore" not in line["seconds"]
    assert names(portrait.parent) == ["portrait.png"]
    assert not (portrait.parent / "new").exists()


def test_json_is_one_object_a_file_with_its_schema(
    call: Call, portrait: Path, empty: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    said = call("run", portrait, text, empty, "--json", "-o", tmp_path / "out", "--device", "cpu")
    assert said.code == 3
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["input"] for line in lines] == [str(portrait), str(text), str(empty)]
    for line in lines:
        keys = {"input", "output", "faces", "seconds", "device", "runtime", "error"}
        assert keys <= line.keys() <= keys | {"note"}
        assert line["device"] == "cpu" and line["runtime"] in (
            "onnx",
            "openvino",
            "openvino-bf16",
            "openvino-bf16x2",
        )
        assert all(seconds >= 0 for seconds in line["seconds"].values())
    good, bad, _ = lines
    assert good["output"] == str(tmp_path / "out" / "portrait.png") and good["error"] is None
    assert {"read", "detect", "crop", "restore", "paste", "write", "total"} <= good[
        "seconds"
    ].keys()
    assert bad["output"] is None and "not a picture" in bad["error"]
    face = good["faces"][0]
    assert face.keys() == {"box", "landmarks", "score"}
    x0, y0, x1, y1 = face["box"]
    assert x0 < 164 < x1 and y0 < 120 < y1  # the middle of the face in this cut
    assert [len(point) for point in face["landmarks"]] == [2] * 5
    assert 0 <= face["score"] <= 1


@pytest.mark.parametrize(
    "words, said",
    [
        (["run"], "nothing to do"),
        (["run", "{photo}", "--scale", "3"], "'3' is not one of"),
        (["run", "{photo}", "--model", "restor"], "did you mean 'restore'"),
        (["run", "{photo}", "--model", "detector"], "no network from picture to picture"),
        (["run", "{photo}", "--device", "gpu"], "auto, cpu, cuda:N"),
        (["run", "{photo}", "--runtime", "onxx"], "auto, onnx, onnx-tensorrt, torch"),
        (["run", "{photo}", "--devise", "cpu"], "--devise"),
        (["run", "{photo}", "-j", "0"], "greater than or equal to 1"),
        (["run", "{photo}", "-o", "x.xyz"], "no picture format for '.xyz'"),
        (["run", "{photo}", "-o", "{photo}"], "the output is the input"),
        (["run", "{photo}", "{photo2}", "-o", "one.png"], "several inputs need a folder"),
        (["run", "{photo}", "{photo2}", "-o", "-"], "one input at most"),
        (["run", "{photo}", "-o", "-", "--json"], "cannot both go to stdout"),
        (["rum"], "No such command 'rum'"),
        (["eval", "restore", "--data", "{folder}", "--protocol", "blind"], "unknown protocol"),
        (["eval", "restore", "--protocol", "blind-256"], "--data"),
        (["eval", "restore", "--data", "{folder}", "--protocol", "detection"], "detection"),
        (["train", "restor", "--data", "{folder}"], "did you mean 'restore'"),
        (["export", "restor"], "did you mean 'restore'"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    words: list[str], said: str, call: Call, portrait: Path, empty: Path
) -> None:
    before = names(portrait.parent)
    given = {"photo": portrait, "photo2": empty, "folder": portrait.parent}
    done = call(*(word.format(**given) for word in words))
    assert done.code == 2 and len(done.lines) == 1 and said in done.err and done.out == "", done
    assert names(portrait.parent) == before


def bad_inputs(folder: Path, picture: Picture) -> dict[str, Path]:
    photo = saved(picture, folder / "whole.jpg", quality=90).read_bytes()
    png = saved(picture, folder / "whole.png").read_bytes()
    deep = cv2.imencode(".png", picture.astype(np.uint16) * 257 + 3)[1].tobytes()
    for name in ("whole.jpg", "whole.png"):
        (folder / name).unlink()
    contents = {
        "text.jpg": b"Dear diary, today I took no photograph.\n" * 9,
        "truncated.jpg": photo[: len(photo) // 2],
        "truncated.png": png[: len(png) // 2],
        "truncated_deep.png": deep[: len(deep) // 2],
        "empty.jpg": b"",
        "empty.mp4": b"",
        "text.mp4": b"Dear diary, this is not a film.\n" * 40,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.new("1", (30_000, 30_000)).save(folder / "huge.png")
    return {p.name: p for p in folder.iterdir()}


BAD = ["text.jpg", "truncated.jpg", "truncated.png", "truncated_deep.png", "empty.jpg"]
BAD += ["huge.png", "empty.mp4", "text.mp4"]


@pytest.fixture(scope="module")
def bad(damaged: Picture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bad_inputs(tmp_path_factory.mktemp("bad"), damaged[:200, :240].copy())


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_its_own_line_exit_code_1_and_no_output(
    name: str, call: Call, bad: dict[str, Path], tmp_path: Path
) -> None:
    done = call("run", bad[name], "-o", tmp_path / "out")
    assert done.code == 1, done
    assert len(done.lines) == 1 and str(bad[name]) in done.err and done.out == "", done
    assert names(tmp_path) == []
    if name == "huge.png":
        assert "megapixels" in done.err


def test_a_film_goes_to_several_devices_with_faces_found_in_every_second_frame(
    call: Call, damaged: Picture, tmp_path: Path
) -> None:
    film = small_film(tmp_path / "film.mp4", damaged[:256, 90:346].copy(), 20)
    done = call("run", film, "--device", "cpu,cpu", "--every", "2", "--decoder", "auto")
    assert done.code == 0 and "20 frames, 20 faces" in done.err, done
    with av.open(str(tmp_path / "film_restored.mp4")) as restored:
        assert sum(1 for _ in restored.decode(video=0)) == 20
    for option, word, said in (
        ("--every", "0", "--every"),
        ("--decoder", "gpu", "unknown device 'gpu'"),
        ("--device", "cpu,gpu", "unknown device 'gpu'"),
    ):
        done = call("run", film, "-y", option, word)
        assert done.code == 2 and len(done.lines) == 1 and said in done.err, done


def test_the_other_items_go_on_when_one_is_bad(
    call: Call, bad: dict[str, Path], empty: Path, tmp_path: Path
) -> None:
    done = call("run", bad["text.jpg"], empty, bad["truncated.png"], "-o", tmp_path / "out")
    assert done.code == 3 and len(done.lines) == 3, done
    assert names(tmp_path / "out") == ["coffee.jpg"]


@needs_shared
def test_a_truncated_film_is_refused_and_nothing_is_left(call: Call, tmp_path: Path) -> None:
    whole = TALKING.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    done = call("run", "--video", cut)
    assert done.code == 1 and len(done.lines) == 1 and "cut.mp4" in done.err, done
    assert names(tmp_path) == ["cut.mp4"]


def test_missing_files_empty_folders_and_globs_without_a_match(call: Call, tmp_path: Path) -> None:
    for word, said in [
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "no photos or videos"),
        (f"{tmp_path}/*.jpg", "nothing matches"),
    ]:
        done = call("run", word)
        assert done.code == 1 and len(done.lines) == 1 and said in done.err, done


def test_a_picture_of_one_pixel_goes_through(call: Call, tmp_path: Path) -> None:
    one = saved(np.full((1, 1, 3), 99, np.uint8), tmp_path / "one.png")
    assert call("run", one).code == 0
    assert one.with_name("one_restored.png").read_bytes() == one.read_bytes()
    assert call("run", one, "--scale", "2", "-y").code == 0
    assert pixels(one.with_name("one_restored.png")).shape == (2, 2, 3)


def test_odd_pictures_are_restored_in_what_they_are(
    call: Call, portrait: Path, tmp_path: Path
) -> None:
    """Each holds the same face; each comes back changed, in its mode and depth."""
    rgb = Image.open(portrait).convert("RGB")
    picture = np.asarray(rgb)
    odd = tmp_path / "odd"
    odd.mkdir()
    rgb.convert("L").save(odd / "grey.png")
    rgb.quantize(200).save(odd / "palette.png")
    rgb.convert("CMYK").save(odd / "cmyk.jpg", quality=95)
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    alpha.save(odd / "alpha.png")
    deep = picture[..., ::-1].astype(np.uint16) * 257 + np.uint16(20)
    cv2.imwrite(str(odd / "deep.png"), deep.clip(0, 65535))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.transpose(Image.Transpose.ROTATE_90).save(odd / "turned.jpg", exif=exif, quality=97)
    done = call("run", odd, "-o", tmp_path / "out", "--json")
    assert done.code == 0, done
    lines = {Path(line["input"]).name: line for line in map(json.loads, done.out.splitlines())}
    assert len(lines) == 6
    for name, line in lines.items():
        # the middle of the face, in upright pixels
        faces = [f["box"] for f in line["faces"]]
        assert any(x0 < 164 < x1 and y0 < 120 < y1 for x0, y0, x1, y1 in faces), (name, faces)
    after = {name: Image.open(tmp_path / "out" / name) for name in lines}
    assert after["grey.png"].mode == "L" and after["alpha.png"].mode == "RGBA"
    assert after["palette.png"].mode == after["cmyk.jpg"].mode == "RGB"
    assert np.array_equal(
        np.asarray(after["alpha.png"].getchannel("A")), np.asarray(alpha.getchannel("A"))
    )
    kept = cv2.imread(str(tmp_path / "out" / "deep.png"), cv2.IMREAD_UNCHANGED)
    assert kept.dtype == np.uint16 and np.array_equal(kept[-40:, -40:], deep[-40:, -40:])
    assert not np.array_equal(kept, deep)
    assert after["turned.jpg"].size == (320, 320)
    assert after["turned.jpg"].getexif().get(0x0112) == 1
    upright = np.asarray(after["turned.jpg"]).astype(int)
    assert np.abs(upright - picture)[:20].mean() < 8 < np.abs(upright - picture[::-1])[:20].mean()


def test_a_folder_that_cannot_be_written_is_one_line(
    call: Call, portrait: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "file" / "out.png", f"{tmp_path}/file/into/"):
        done = call("run", portrait, "-o", target)
        assert done.code == 1 and len(done.lines) == 1, done
        assert str(tmp_path / "file") in done.err
    assert names(tmp_path) == ["file", "portrait.png"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    call: Call, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = call("run", portrait)
    assert done.code == 1 and len(done.lines) == 1 and "disk is full" in done.err, done
    assert names(portrait.parent) == ["portrait.png"]


def test_a_surprise_in_one_item_is_reported_and_the_next_goes_on(
    call: Call, portrait: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fhrt.restorer import Restorer

    restore = Restorer.restore

    def fail(self: Restorer, picture: Picture) -> object:
        if picture.shape[0] == 320:
            raise RuntimeError("out of luck\nsecond line")
        return restore(self, picture)

    monkeypatch.setattr(Restorer, "restore", fail)
    done = call("run", portrait, empty)
    assert done.code == 3 and len(done.lines) == 2, done
    assert "RuntimeError: out of luck second line" in done.err
    done = call("run", portrait, "--debug")
    assert done.code == 1 and "Traceback" in done.err and "out of luck" in done.err


def small_film(path: Path, picture: Picture, frames: int) -> Path:
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", 25, {"crf": "20", "preset": "ultrafast"})
        stream.width, stream.height = picture.shape[1], picture.shape[0]
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, index, 1))
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return path


def test_a_film_is_restored_with_and_without_the_flag(
    call: Call, damaged: Picture, tmp_path: Path
) -> None:
    film = small_film(tmp_path / "film.mp4", damaged[:256, 90:346].copy(), 6)
    for words in (["--video", film], [film, "-o", tmp_path / "named.mkv"]):
        done = call("run", *words, "--device", "cpu")
        assert done.code == 0 and "6 frames" in done.err, done
    for name in ("film_restored.mp4", "named.mkv"):
        with av.open(str(tmp_path / name)) as restored:
            assert sum(1 for _ in restored.decode(video=0)) == 6
    done = call("run", film, "--dry-run", "--json")
    line = json.loads(done.out)
    assert {face["frame"] for face in line["faces"]} == set(range(6)) and line["output"] is None
    assert names(tmp_path) == ["film.mp4", "film_restored.mp4", "named.mkv"]
    done = call("run", film, "-o", "-")
    assert done.code == 2 and "cannot be written to stdout" in done.err


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupt_in_mid_film_leaves_no_file_and_exits_130(
    damaged: Picture, tmp_path: Path
) -> None:
    film = small_film(tmp_path / "film.mp4", damaged[:256, 90:346].copy(), 400)
    process = subprocess.Popen(
        [*COMMAND, "run", "--video", str(film), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(names(tmp_path)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert any(name.endswith(".part") for name in names(tmp_path)), process.poll()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "" and err == "fhrt: interrupted\n"
    assert names(tmp_path) == ["film.mp4"]


def test_an_interrupt_among_photos_exits_130(
    call: Call, portrait: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fhrt.restorer import Restorer

    def interrupted(self: Restorer, picture: Picture) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(Restorer, "restore", interrupted)
    for jobs in ("1", "2"):
        done = call("run", portrait, empty, "-j", jobs)
        assert done.code == 130 and done.lines == ["fhrt: interrupted"], done
    assert names(portrait.parent) == ["coffee.jpg", "portrait.png"]


def test_defaults_come_from_the_environment_and_options_win(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHRT_DEVICE", "gpu")
    done = call("run", empty)
    assert done.code == 2 and "unknown device 'gpu'" in done.err
    assert call("run", empty, "--device", "cpu").code == 0


def test_a_gpu_that_is_not_here_is_refused_before_anything_is_written(
    call: Call, empty: Path
) -> None:
    if "CUDAExecutionProvider" in pytest.importorskip("onnxruntime").get_available_providers():
        pytest.skip("onnxruntime has CUDA here")
    done = call("run", empty, "--device", "cuda:0")
    assert done.code == 1 and len(done.lines) == 1 and "cuda:0" in done.err, done
    assert names(empty.parent) == ["coffee.jpg"]


def test_debug_shows_a_traceback_and_nothing_else_does(empty: Path) -> None:
    for words in (["run", "none.jpg"], ["run", str(empty), "--model", "x.onnx"]):
        plain = subprocess.run([*COMMAND, *words], capture_output=True, text=True)
        assert plain.returncode == 1 and "Traceback" not in plain.stderr
        assert len(plain.stderr.splitlines()) == 1
        debug = subprocess.run([*COMMAND, *words, "--debug"], capture_output=True, text=True)
        assert debug.returncode == 1 and "Traceback" in debug.stderr


HELP = """
import sys
from fhrt.cli.main import run_app
codes = [run_app([*words.split(), "--help"]) for words in ["", *sys.argv[1:]]]
codes.append(run_app(["--version"]))
heavy = {"torch", "cv2", "numpy", "onnxruntime", "av", "PIL"} & sys.modules.keys()
print("codes", codes, "heavy", sorted(heavy))
"""


def test_help_of_every_command_answers_without_heavy_imports() -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *COMMANDS], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert f"codes {[0] * (len(COMMANDS) + 2)} heavy []" in done.stdout
    for command in COMMANDS:
        assert f"fhrt {command}" in done.stdout or f" {command} " in done.stdout
    assert "--skip-existing" in done.stdout and f"fhrt {fhrt.__version__}" in done.stdout


def test_version_is_printed_at_once() -> None:
    code = "import sys; sys.argv = ['fhrt', '--version']; from fhrt.cli.main import main; main(); "
    code += "assert not {'typer', 'cv2', 'torch', 'numpy'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fhrt {fhrt.__version__}\n", "")


def test_without_words_the_help_is_shown(call: Call) -> None:
    done = call()
    assert "Usage" in done.out + done.err and done.code in (0, 2)


def test_models_lists_every_recipe(call: Call) -> None:
    done = call("models", "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0 and done.err == ""
    assert {"restore", "detector", "landmarks"} <= {line["name"] for line in lines}
    for line in lines:
        assert line["licence"] and isinstance(line["commercial"], bool)
        assert line["here"] == bool(line["path"]) and (
            not line["path"] or Path(line["path"]).exists()
        )
    assert "restore" in call("models").out


def test_doctor_names_versions_runtimes_and_what_adds_the_rest(call: Call) -> None:
    done = call("doctor")
    assert done.code == 0, done
    assert f"fhrt {fhrt.__version__}" in done.out and "numpy" in done.out
    assert "onnx on cpu: works" in done.out and "onnx on cuda:" in done.out
    assert "pip install" in done.out


def test_demo_makes_the_sheet_and_the_face_gains(call: Call, tmp_path: Path) -> None:
    done = call("demo", "-o", tmp_path / "demo.png", "--device", "cpu")
    assert done.code == 0, done
    assert pixels(tmp_path / "demo.png").shape == (512 + 8 + 512, 3 * 512 + 16, 3)
    before, after = (float(line.split()[3]) for line in done.out.splitlines()[:2])
    assert after > before + 0.5
    assert names(tmp_path) == ["demo.png"]


def test_eval_prints_and_writes_its_figures(call: Call, astronaut: Picture, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for index in range(3):
        saved(np.roll(astronaut[20:276, 90:346], index, 1), faces / f"{index}.png")
    out, sheet = tmp_path / "figures.json", tmp_path / "sheet.png"
    words = ["--protocol", "blind-256", "--json", out, "--sheet", sheet, "--device", "cpu"]
    done = call("eval", "restore", "--data", faces, *words)
    assert done.code == 0 and done.err == "", done
    figures = json.loads(out.read_text())
    assert json.loads(done.out) == figures
    assert (figures["model"], figures["protocol"], figures["n"]) == ("restore", "blind-256", 3)
    for side in ("input", "output"):
        for metric in ("psnr", "ssim"):
            assert figures[side][metric].keys() == {"mean", "se"}
    assert figures["output"]["psnr"]["mean"] > figures["input"]["psnr"]["mean"]
    assert pixels(sheet).shape == (256, 3 * 256, 3)
    done = call("eval", "restore", "--data", tmp_path / "none", "--protocol", "blind-256")
    assert done.code == 1 and len(done.lines) == 1 and "no pictures" in done.err


@needs_shared
def test_a_yunet_file_works_as_detector(call: Call, portrait: Path, tmp_path: Path) -> None:
    detector = SHARED / "weights" / "yunet.onnx"
    done = call("run", portrait, "--detector", detector, "--json")
    assert done.code == 0 and len(json.loads(done.out)["faces"]) == 1, done
    text = tmp_path / "text.onnx"
    text.write_text("no network")
    done = call("run", portrait, "-y", "--detector", text)
    assert done.code == 1 and len(done.lines) == 1 and "text.onnx" in done.err, done
