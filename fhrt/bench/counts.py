"""Counts that are the same in every run: of a graph, and of what a picture costs on its way."""

from __future__ import annotations

import math
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from fhrt.detect import BundledDetector
from fhrt.errors import ModelError, UsageError
from fhrt.faces import Picture
from fhrt.models import recipe
from fhrt.restorer import Restorer
from fhrt.runtime.session import Batch, Session, need

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger")


@dataclass(frozen=True)
class Work:
    """Of one call of a graph at a shape. flops: of Conv, ConvTranspose, MatMul and Gemm, a multiply
    and an add being two, as torch's FlopCounterMode counts. bytes: what every node reads and
    writes, as though nothing were fused, in the graph as ONNX Runtime's CPU runs it. nodes,
    weights: of the file; weights in bytes."""

    flops: int
    bytes: int
    nodes: int
    weights: int

    def figures(self) -> dict[str, int]:
        return asdict(self)


def count_graph(path: Path, shape: tuple[int, ...]) -> Work:
    """Count an ONNX file with one input, at the shape (N, 3, H, W). Raises ModelError where it
    cannot be given that shape, RuntimeMissing without the onnx package."""
    need("onnx", "bench")
    import onnx

    model = onnx.load(str(path))
    nodes = len(model.graph.node)
    weights = sum(_stored(tensor) for tensor in model.graph.initializer)
    settled = _settled(model, shape, path)
    known = {tensor.name: tuple(tensor.dims) for tensor in settled.graph.initializer}
    sizes = {tensor.name: _item(tensor.data_type) for tensor in settled.graph.initializer}
    for value in [*settled.graph.input, *settled.graph.value_info, *settled.graph.output]:
        kind = value.type.tensor_type
        known[value.name] = tuple(d.dim_value for d in kind.shape.dim)
        sizes[value.name] = _item(kind.elem_type)
    flops = moved = 0
    for node in settled.graph.node:
        names = [name for name in [*node.input, *node.output] if name]
        if lacking := [name for name in names if name not in known]:
            raise ModelError(f"{path}: at {shape} the shape of {lacking[0]} is not known")
        moved += sum(math.prod(known[name]) * sizes[name] for name in names)
        if node.op_type in PRODUCTS:
            flops += _flops(node, known)
    return Work(flops, moved, nodes, weights)


def precision_of(path: Path) -> str:
    """int8 where values are quantized on the way, else what most products of a graph are computed
    in as it stands: fp32, fp16 or bf16. Raises RuntimeMissing without the onnx package."""
    need("onnx", "bench")
    import onnx
    from onnx import TensorProto

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    if any(node.op_type in QUANTIZED for node in model.graph.node):
        return "int8"
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        kinds[value.name] = value.type.tensor_type.elem_type
    names = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    found = Counter(
        names.get(kinds.get(node.input[0], 0), "fp32")
        for node in model.graph.node
        if node.op_type in PRODUCTS
    )
    return found.most_common(1)[0][0] if found else "fp32"


def count_path(restorer: Restorer, pictures: list[Picture]) -> dict[str, int]:
    """What the main path does for these pictures. pictures: pulled from the source, which a film
    decodes. calls, crops: of the session. bytes: of the arrays handed to the session and back,
    which a GPU copies. peak, blocks: bytes held at most beyond those at the start, and blocks
    still held at the end with the results gone, by Python and NumPy (tracemalloc; what the runtimes
    allocate for themselves is not seen)."""
    counted = _Counting(restorer.session)
    pulled = 0

    def source() -> Iterable[Picture]:
        nonlocal pulled
        for picture in pictures:
            pulled += 1
            yield picture

    def once() -> None:
        for _ in restorer.frames(source()):
            pass

    once()  # what is kept for good (masks, arenas) is there from now on
    peak, blocks = _traced(once)
    pulled = 0
    inner, restorer.session = restorer.session, cast(Session, counted)
    try:
        once()
    finally:
        restorer.session = inner
    return {
        "pictures": pulled,
        "calls": counted.calls,
        "crops": counted.crops,
        "bytes": counted.bytes,
        "peak": peak,
        "blocks": blocks,
    }


def count_networks(restorer: Restorer, picture: Picture, file: Path) -> dict[str, int]:
    """FLOPs of the networks in each stage (detect, restore) of a picture, at the shapes that they
    are given; file: the graph that the session runs. Raises UsageError for a detector of the user's
    own, whose graph is not known, and as `count_graph`."""
    detect = restorer.detect
    if not isinstance(detect, BundledDetector):
        raise UsageError("the FLOPs of a detector of the user's own are not known")
    places = (
        ("restore", restorer, "session", file),
        ("detect", detect, "finder", recipe("detector").onnx_path()),
        ("detect", detect, "refiner", recipe("landmarks").onnx_path()),
    )
    flops: Counter[str] = Counter()
    with ExitStack() as back:
        noted = []
        for stage, owner, name, path in places:
            inner = getattr(owner, name)
            noted.append((stage, path, _Noting(inner)))
            back.callback(setattr, owner, name, inner)
            setattr(owner, name, noted[-1][2])
        restorer.restore(picture)
    for stage, path, noting in noted:
        flops[stage] += sum(count_graph(path, shape).flops for shape in noting.shapes)
    return dict(flops)


def _traced(call: Callable[[], object]) -> tuple[int, int]:
    tracemalloc.start()
    try:
        call()
        before, _ = tracemalloc.get_traced_memory()
        held = len(tracemalloc.take_snapshot().traces)
        tracemalloc.reset_peak()
        call()
        _, most = tracemalloc.get_traced_memory()
        left = len(tracemalloc.take_snapshot().traces)
    finally:
        tracemalloc.stop()
    return most - before, left - held


class _Noting:
    """A session, or an onnxruntime session, that notes the shapes it is given."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.shapes: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, batch: Batch) -> Any:
        self.shapes.append(batch.shape)
        return self._inner(batch)

    def run(self, names: Any, given: dict[str, Batch]) -> Any:
        self.shapes += [array.shape for array in given.values()]
        return self._inner.run(names, given)


class _Counting:
    """A session that counts what passes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.calls = self.crops = self.bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __call__(self, batch: Batch) -> Batch:
        output = self._session(batch)
        self.calls, self.crops = self.calls + 1, self.crops + len(batch)
        self.bytes += batch.nbytes + output.nbytes
        return output


def _settled(model: Any, shape: tuple[int, ...], path: Path) -> Any:
    """The model at one input shape, with every shape inside known: ONNX Runtime folds what is
    computed from shapes, which onnx.shape_inference alone does not."""
    import onnx
    import onnxruntime as ort

    del model.graph.value_info[:]
    (given,) = model.graph.input
    del given.type.tensor_type.shape.dim[:]
    for size in shape:
        given.type.tensor_type.shape.dim.add().dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    with tempfile.TemporaryDirectory() as folder:
        source, folded = Path(folder) / "given.onnx", Path(folder) / "folded.onnx"
        onnx.save(model, str(source))
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        try:
            ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors share no public class
            line = str(error).strip().splitlines()[0]
            raise ModelError(f"{path}: does not take {shape}: {line}") from error
        return onnx.shape_inference.infer_shapes(onnx.load(str(folded)), data_prop=True)


def _flops(node: Any, known: dict[str, tuple[int, ...]]) -> int:
    first, second, made = known[node.input[0]], known[node.input[1]], known[node.output[0]]
    if node.op_type == "Conv":  # weights (out, in / groups, …)
        return 2 * math.prod(made) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # weights (in, out / groups, …)
        return 2 * math.prod(first) * math.prod(second[1:])
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    inner = first[0] if node.op_type == "Gemm" and turned else first[-1]
    return 2 * math.prod(made) * inner


def _item(kind: int) -> int:
    """Bytes of one value of an ONNX type."""
    import onnx

    size: int = onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    return size


def _stored(tensor: Any) -> int:
    values: int = math.prod(tensor.dims)
    return values * _item(tensor.data_type)
