"""PyTorch, eager fp32: the reference that other runtimes are compared with."""

from __future__ import annotations

import torch

from fhrt.errors import RuntimeMissing
from fhrt.models import Recipe
from fhrt.networks import build
from fhrt.runtime.session import Batch


class TorchSession:
    """A session over the network and the weights of a recipe; see runtime.session.Session."""

    runtime = "torch"
    precision = "fp32"
    batch_max = 8

    def __init__(self, model: Recipe, device: str, index: int, threads: int) -> None:
        self.name, self.scale, self.sizes = model.name, model.scale, model.sizes
        if device == "cuda" and index >= torch.cuda.device_count():
            raise RuntimeMissing(f"cuda:{index} was asked for, and torch sees no such GPU here")
        on_cuda = device != "cpu" and torch.cuda.is_available()
        self.device = f"cuda:{index}" if on_cuda else "cpu"
        if threads:
            torch.set_num_threads(threads)
        weights = torch.load(model.weights_path(), map_location="cpu", weights_only=True)
        network = build(model.network)
        network.load_state_dict(weights)
        self._network = network.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Batch:
        output: Batch = self._network(torch.from_numpy(batch).to(self.device)).cpu().numpy()
        return output
