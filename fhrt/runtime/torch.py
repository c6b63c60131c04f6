"""PyTorch: eager fp32 is the reference that other runtimes are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fhrt.errors import ModelError, RuntimeMissing, UsageError, known_names
from fhrt.models import Recipe, recipes
from fhrt.networks import build
from fhrt.networks.inception import Inception
from fhrt.networks.lpips import AlexFeatures
from fhrt.networks.srvgg import blend
from fhrt.runtime.session import Batch, in_parts, parse_device

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchSession:
    """A session over the network and the weights of a recipe; see runtime.session.Session.

    precision: fp32, or on a GPU fp16 or bf16, by autocast, which leaves fp32 what a network wants
    so. compiled: on a GPU, torch.compile with CUDA graphs; each new shape takes it a minute or so.
    Raises UsageError for either on a CPU, RuntimeMissing without the GPU, ModelError for weights
    that do not fit.
    """

    runtime = "torch"
    batch_max = 8

    def __init__(
        self,
        model: Recipe,
        device: str,
        index: int,
        threads: int,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        self.name, self.scale, self.sizes = model.name, model.scale, model.sizes
        if precision not in DTYPES:
            known = known_names(precision, DTYPES)
            raise UsageError(f"torch has no precision {precision!r}{known}")
        if device == "cuda" and index >= torch.cuda.device_count():
            raise RuntimeMissing(f"cuda:{index} was asked for, and torch sees no such GPU here")
        on_cuda = device != "cpu" and torch.cuda.is_available()
        if not on_cuda and (precision != "fp32" or compiled):
            raise UsageError("torch runs fp32, eagerly, on a CPU; anything else needs a GPU")
        self.device, self.precision = f"cuda:{index}" if on_cuda else "cpu", precision
        if threads:
            torch.set_num_threads(threads)
        network = build(model.network, **model.options)
        try:
            network.load_state_dict(recipe_weights(model))
        except RuntimeError as error:
            line = str(error).splitlines()[0]
            raise ModelError(f"{model.weights_path()}: not weights of it: {line}") from error
        network.eval().to(self.device)
        if on_cuda:
            nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
        self._network: Any = torch.compile(network, mode="reduce-overhead") if compiled else network
        self._multiple = model.multiple

    def __call__(self, batch: Batch) -> Batch:
        return in_parts(self._run, batch, self.batch_max, self._multiple)

    @torch.inference_mode()
    def _run(self, batch: Batch) -> Batch:
        given = torch.from_numpy(batch)
        if self.device == "cpu":
            output: Batch = self._network(given).numpy()
            return output
        given = given.to(self.device, memory_format=torch.channels_last)
        lower = torch.autocast("cuda", DTYPES[self.precision], self.precision != "fp32")
        # cuDNN would take TF32 for fp32
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), lower:
            made = self._network(given)
        copied: Batch = made.float().contiguous().cpu().numpy()
        return copied


class TorchFeatures:
    """A fixed feature network of the metrics: (N, 3, H, W) RGB in [0, 1] -> its outputs, as NumPy.

    `name` is alexnet (LPIPS) or inception (FID). Raises ModelError; see `load_layers`.
    """

    def __init__(self, name: str, weights: Path, device: str = "cpu") -> None:
        networks: dict[str, type[nn.Module]] = {"alexnet": AlexFeatures, "inception": Inception}
        network = networks[name]()
        load_layers(network, weights, name)
        kind, index = parse_device(device)
        on_cuda = kind != "cpu" and torch.cuda.is_available()
        if kind == "cuda" and index >= torch.cuda.device_count():
            raise RuntimeMissing(f"cuda:{index} was asked for, and torch sees no such GPU here")
        self.device = f"cuda:{index}" if on_cuda else "cpu"
        self._network = network.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> list[Batch]:
        found = self._network(torch.from_numpy(batch).to(self.device))
        outputs = found if isinstance(found, list) else [found]
        return [output.cpu().numpy() for output in outputs]


def recipe_weights(model: Recipe, checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
    """The state dict of a recipe's network, out of what its authors publish, or out of the user's
    own `checkpoint`, in their shape or a plain one. Raises ModelError, UsageError; see `Recipe`."""
    shape = model.checkpoint
    found = []
    for path in [checkpoint] if checkpoint else model.weights_paths():
        state = load_weights(path)
        state = next((state[key] for key in shape.state_keys if key in state), state)
        found.append({key.removeprefix(shape.prefix): value for key, value in state.items()})
    if len(found) == 1:
        return found[0]
    first, second = found
    if first.keys() != second.keys():
        raise ModelError(f"{model.name}: its two files do not hold the same layers")
    return blend(first, second, shape.blend)


def check_fit(network: nn.Module, weights: dict[str, torch.Tensor], origin: object) -> None:
    """Raises ModelError where weights are not the network's; it names the first key that does not
    fit, and the recipes whose weights they would be."""
    if wrong := _misfit(network, weights):
        fitting = []
        for name, other in recipes().items():
            with torch.device("meta"):
                if not _misfit(build(other.network, **other.options), weights):
                    fitting.append(name)
        fit = f"; they fit: {', '.join(fitting)}" if fitting else ""
        raise ModelError(f"{origin}: not weights of this network: {wrong}{fit}")


def _misfit(network: nn.Module, weights: dict[str, torch.Tensor]) -> str:
    wanted = network.state_dict()
    for key in sorted(wanted.keys() ^ weights.keys()):
        return f"{key} is {'missing' if key in wanted else 'not of it'}"
    for key, value in wanted.items():
        if value.shape != weights[key].shape:
            return f"{key} is {tuple(weights[key].shape)}, and {tuple(value.shape)} is wanted"
    return ""


def load_layers(network: nn.Module, weights: Path, name: str) -> None:
    """Take the layers that the network has from a file that may hold others as well; all of them
    must be there, in their shapes. `name` is what a message calls it. Raises ModelError."""
    given = load_weights(weights)
    # counters of training steps, which files of different ages have or have not
    wanted = {key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    if missing := sorted(wanted - given.keys()):
        raise ModelError(f"{weights}: no weights of {name}: {missing[0]} is missing")
    try:
        network.load_state_dict({key: given[key] for key in wanted}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{weights}: no weights of {name}: layers of other shapes") from error


def load_weights(path: Path) -> dict[str, Any]:
    """The state dict in a torch file, opened without running anything in it. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; see `fhrt models pull`")
    try:
        given = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own
        if "unsupported global" in str(error).lower():  # a pickle can name code, which is never run
            raise ModelError(f"{path}: holds more than tensors and was refused") from error
        raise ModelError(f"{path}: no torch weights: {str(error).splitlines()[0]}") from error
    if not isinstance(given, dict):
        raise ModelError(f"{path}: no torch weights: it holds a {type(given).__name__}")
    return given
