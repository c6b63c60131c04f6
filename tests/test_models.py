"""The catalogue: recipes, where weights lie, and what an ONNX file says of itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fhrt import weights
from fhrt.errors import ModelError, UsageError
from fhrt.models import Checkpoint, Recipe, recipe, recipe_from_metadata, recipes
from fhrt.runtime.onnx import read_recipe
from fhrt.runtime.session import find_recipe, open_session
from fhrt.weights import WeightFile, data_folder

OFFICIAL = {
    *("gfpgan-v1.2", "gfpgan-v1.3", "gfpgan-v1.4", "restoreformer", "parsenet"),
    *("realesrgan-x4plus", "realesrgan-x2plus", "realesrgan-anime-6b"),
    *("realesr-general-x4v3", "realesr-animevideov3"),
    *("retinaface-resnet50", "retinaface-mobilenet0.25"),
}
PUBLISHED = """
scale = 4

[checkpoint]
state_keys = ["params_ema", "params"]
prefix = "module."
blend = 0.25

[[checkpoint.files]]
file = "one.pth"
url = "https://example.org/one.pth"
sha256 = "00"

[[checkpoint.files]]
file = "two.pth"
"""

MINIMAL = """
about = "a test"
task = "restore"
network = "restore"
licence = "MIT"
commercial = true
"""


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty catalogue: a package folder with export/ and weights/ beside it."""
    for name in ("fhrt", "export", "weights"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(weights, "PACKAGE", tmp_path / "fhrt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_every_bundled_recipe_is_complete_and_free() -> None:
    found = recipes()
    assert {"restore", "detector", "landmarks"} <= found.keys()
    assert list(found) == sorted(found)
    for name, entry in found.items():
        assert entry.name == name and entry.about and entry.licence and entry.task
        assert entry.scale >= 1 and entry.multiple >= 1
        assert all(side % entry.multiple == 0 for side in entry.sizes)
    restore = found["restore"]
    assert (restore.task, restore.scale, restore.sizes) == ("restore", 1, (256, 384, 512))
    assert restore.commercial


def test_the_official_recipes_say_where_their_files_come_from() -> None:
    found = recipes()
    assert {name for name, entry in found.items() if entry.checkpoint.files} == OFFICIAL
    files = [file for name in OFFICIAL for file in found[name].checkpoint.files]
    assert len({file.file for file in files}) == len(files) == 13
    for file in files:
        assert file.url.startswith("https://github.com/") and file.url.endswith("/" + file.file)
        assert len(file.sha256) == 64 or file.file == "detection_mobilenet0.25_Final.pth"
    for name in OFFICIAL:
        assert not found[name].protocol and not found[name].steps  # `fhrt eval --all` is of ours
    assert [name for name in sorted(OFFICIAL) if not found[name].commercial] == ["parsenet"]


def test_the_network_of_every_official_recipe_can_be_built() -> None:
    torch = pytest.importorskip("torch")
    from fhrt.networks import build

    with torch.device("meta"):  # no memory, no initial values
        for name in OFFICIAL:
            entry = recipe(name)
            assert any(True for _ in build(entry.network, **entry.options).parameters())


def test_the_bundled_files_are_as_small_as_promised() -> None:
    files = [path for path in data_folder("weights").iterdir() if path.suffix != ".md"]
    size = {path.stem: path.stat().st_size for path in files if path.suffix == ".onnx"}
    assert max(path.stat().st_size for path in files) <= 25 * 1024 * 1024
    assert sum(path.stat().st_size for path in files) <= 80 * 1024 * 1024
    assert {path.with_suffix(".md") for path in files} <= {*data_folder("weights").iterdir()}
    assert size["detector"] + size["landmarks"] <= 2 * 1024 * 1024
    assert size["restore"] <= 12 * 1024 * 1024


def test_a_recipe_is_read_from_its_toml(catalogue: Path) -> None:
    (catalogue / "export" / "mine.toml").write_text(MINIMAL + "scale = 2\nsizes = [64, 128]\n")
    mine = recipe("mine")
    assert mine == Recipe("mine", "a test", "restore", "restore", "MIT", True, 2, (64, 128))


def test_what_is_said_of_a_published_checkpoint_is_read(catalogue: Path) -> None:
    (catalogue / "export" / "mine.toml").write_text(MINIMAL + PUBLISHED)
    mine = recipe("mine")
    one = WeightFile("one.pth", "https://example.org/one.pth", "00")
    files = (one, WeightFile("two.pth"))
    assert mine.checkpoint == Checkpoint(files, ("params_ema", "params"), "module.", 0.25)
    assert mine.published().files == files
    assert "checkpoint" not in mine.metadata()
    for wrong in ("[checkpoint]\nprefx = 1", "[[checkpoint.files]]\nfile = 'a'\nlink = 'b'"):
        (catalogue / "export" / "mine.toml").write_text(MINIMAL + wrong)
        with pytest.raises(ModelError, match=r"mine\.toml: unknown key"):
            recipe("mine")
    (catalogue / "export" / "mine.toml").write_text(MINIMAL + "[[checkpoint.files]]\nurl = 'b'")
    with pytest.raises(ModelError, match=r"mine\.toml: .*file"):
        recipe("mine")


def test_published_weights_are_needed_all(catalogue: Path) -> None:
    (catalogue / "export" / "mine.toml").write_text(MINIMAL + PUBLISHED)
    mine = recipe("mine")
    folder = catalogue / "cache" / "fhrt" / "weights"
    folder.mkdir(parents=True)
    (folder / "one.pth").write_bytes(b"1")
    assert mine.here() == []
    with pytest.raises(ModelError, match=r"two\.pth is in none of.*`fhrt models pull mine`"):
        mine.weights_paths()
    with pytest.raises(ModelError, match=r"mine\.onnx.*`fhrt models pull mine`.*`fhrt export mine"):
        mine.onnx_path()
    (catalogue / "weights" / "two.pth").write_bytes(b"2")
    both = [folder / "one.pth", catalogue / "weights" / "two.pth"]
    assert mine.weights_paths() == mine.here() == both and mine.weights_path() == both[0]
    with pytest.raises(ModelError, match=r"mine\.onnx is in none of.*; `fhrt export mine -o") as e:
        mine.onnx_path()
    assert "models pull" not in str(e.value)
    (folder / "mine.onnx").write_bytes(b"o")
    assert mine.onnx_path() == folder / "mine.onnx" and mine.here() == [mine.onnx_path(), *both]


def test_a_licence_without_commercial_use_is_accepted_before_the_weights_are_used(
    catalogue: Path,
) -> None:
    text = MINIMAL.replace("commercial = true", "commercial = false")
    (catalogue / "export" / "mine.toml").write_text(text)
    mine = recipe("mine")
    for name in ("mine.onnx", "mine.pth"):
        (catalogue / "weights" / name).write_bytes(b"x")
    for used in (mine.onnx_path, mine.weights_path):
        with pytest.raises(UsageError, match="`fhrt models pull mine --accept-licence`"):
            used()
    assert weights.pull(mine.published(), accept_licence=True) == []
    assert mine.onnx_path().is_file() and mine.weights_path().is_file()
    (catalogue / "export" / "mine.toml").write_text(text.replace("MIT", "another"))
    with pytest.raises(UsageError, match="licence: another"):
        recipe("mine").onnx_path()


def test_the_weights_of_a_recipe_are_taken_out_of_what_is_published(
    catalogue: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from fhrt.runtime.torch import recipe_weights

    (catalogue / "export" / "mine.toml").write_text(MINIMAL + PUBLISHED)
    mine = recipe("mine")
    one, two, own = torch.full((3,), 4.0), torch.full((3,), 8.0), torch.zeros(3)
    torch.save({"params": {"module.a": one}, "step": 3}, catalogue / "weights" / "one.pth")
    state = {"params": {"a": own}, "params_ema": {"module.a": two}}
    torch.save(state, catalogue / "weights" / "two.pth")
    torch.save({"a": own}, tmp_path / "own.pth")
    assert recipe_weights(mine)["a"].tolist() == [7.0] * 3  # a quarter of 4, the rest of 8
    assert recipe_weights(mine, tmp_path / "own.pth")["a"].tolist() == [0.0] * 3
    torch.save({"params": {"b": two}}, catalogue / "weights" / "two.pth")
    with pytest.raises(ModelError, match="not hold the same layers"):
        recipe_weights(mine)


def test_an_unknown_key_is_refused_with_the_nearest_name(catalogue: Path) -> None:
    (catalogue / "export" / "mine.toml").write_text(MINIMAL + "licens = 3\n")
    with pytest.raises(ModelError, match=r"mine\.toml: unknown key 'licens'.*'licence'"):
        recipes()


def test_a_missing_key_and_broken_toml_are_model_errors(catalogue: Path) -> None:
    path = catalogue / "export" / "mine.toml"
    for text in ("about = 'a test'\n", "about = \n"):
        path.write_text(text)
        with pytest.raises(ModelError, match=r"mine\.toml"):
            recipes()


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="unknown model 'detectr'; did you mean 'detector'"):
        recipe("detectr")
    with pytest.raises(UsageError, match="there are: detector, facesr-attention, "):
        recipe("qqq")


def test_a_wheels_data_inside_the_package_comes_first(catalogue: Path) -> None:
    assert data_folder("export") == catalogue / "export"
    (catalogue / "fhrt" / "_data" / "export").mkdir(parents=True)
    assert data_folder("export") == catalogue / "fhrt" / "_data" / "export"


def test_weights_are_looked_for_in_fhrt_weights_first(
    catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (catalogue / "export" / "mine.toml").write_text(MINIMAL)
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("FHRT_WEIGHTS", str(own))
    with pytest.raises(ModelError, match=r"mine\.onnx is in none of: .*own.*weights"):
        recipe("mine").onnx_path()
    bundled = catalogue / "weights" / "mine.onnx"
    bundled.write_bytes(b"bundled")
    assert recipe("mine").onnx_path() == bundled
    (own / "mine.onnx").write_bytes(b"own")
    assert recipe("mine").onnx_path() == own / "mine.onnx"
    monkeypatch.delenv("FHRT_WEIGHTS")
    assert recipe("mine").onnx_path() == bundled


def test_an_onnx_file_says_which_model_it_is(tmp_path: Path) -> None:
    for name in ("restore", "detector"):
        copied = tmp_path / f"renamed_{name}.onnx"
        shutil.copy(recipe(name).onnx_path(), copied)
        found = read_recipe(copied)
        assert found.file == str(copied) and found.onnx_path() == copied
        assert found.metadata() == recipe(name).metadata()
        with pytest.raises(ModelError, match="no torch weights"):
            found.weights_path()
    session = open_session(tmp_path / "renamed_restore.onnx", "cpu", threads=1)
    assert session.name == "restore" and session.sizes == (256, 384, 512)
    assert find_recipe(str(tmp_path / "renamed_restore.onnx")).name == "restore"


def test_the_metadata_goes_round_through_an_exported_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from fhrt.exporting.sources import export_onnx
    from fhrt.networks import build

    wanted = recipe("landmarks")
    network = build("landmarks")
    torch.save(network.state_dict(), tmp_path / "fresh.pth")
    parity = export_onnx(wanted, tmp_path / "fresh.pth", tmp_path / "landmarks.onnx")
    assert parity.largest < 1e-3 and parity.not_finite == 0
    found = read_recipe(tmp_path / "landmarks.onnx")
    assert found.metadata() == wanted.metadata()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.pth", "landmarks.onnx"]


def test_weights_that_do_not_fit_are_refused_and_nothing_is_published(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from fhrt.exporting.sources import export_onnx

    torch.save({"other": torch.zeros(3)}, tmp_path / "wrong.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("wrong.pth", "text.pth"):
        with pytest.raises(
            ModelError, match=rf"{name}: (no torch weights|not weights of)"
        ) as raised:
            export_onnx(recipe("landmarks"), tmp_path / name, tmp_path / "out.onnx")
        assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.pth", "wrong.pth"]


def test_a_foreign_onnx_file_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["a"], ["b"])],
        "foreign",
        [value("a", onnx.TensorProto.FLOAT, [1])],
        [value("b", onnx.TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(ModelError, match="carries no recipe"):
        read_recipe(tmp_path / "foreign.onnx")


@pytest.mark.parametrize(
    "properties, said",
    [
        ({}, "carries no recipe"),
        ({"name": "not json"}, "cannot be read"),
        ({"name": '"x"', "sise": "1"}, "unknown key 'sise'"),
        ({"name": '"x"'}, "missing"),
    ],
)
def test_damaged_metadata_is_a_model_error(properties: dict[str, str], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        recipe_from_metadata(Path("x.onnx"), properties)


def test_the_bundled_restorer_leaves_smooth_pictures_nearly_alone() -> None:
    session = open_session("restore", "cpu", threads=1)
    flat = np.full((1, 3, 256, 256), 0.5, np.float32)
    assert np.abs(session(flat) - flat).mean() < 0.1
