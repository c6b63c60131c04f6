"""An ONNX file of somebody else's becomes one of ours: RGB in [0, 1] in and out, and its recipe
inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fhrt.errors import ModelError, first_line
from fhrt.exporting.parity import Run, of_graph
from fhrt.exporting.to_onnx import samples
from fhrt.models import Recipe, Values


def adopt(source: Path, recipe: Recipe, target: Path) -> Run:
    """Write `target`: the graph of `source` with the values of `recipe.export.input` and `output`
    folded in, its batch made free where its nodes allow it, and the recipe in its metadata. Returns
    the untouched file as a function of RGB in [0, 1].

    Raises ModelError where it cannot be read, has another input than one of (N, 3, H, W) floats, or
    takes other sizes than the recipe says.
    """
    import onnx

    model = _read(source)
    given, made = _ends(source, recipe, model)
    reference = _untouched(source, recipe)
    graph = model.graph
    graph.ClearField("value_info")  # shapes inside still have the old batch
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    outside = ["input" if "input" not in used else "fhrt_input"]
    outside.append("output" if "output" not in used else "fhrt_output")
    nodes = [
        *_encode(recipe.export.input, outside[0], given.name, graph),
        *graph.node,
        *_decode(recipe.export.output, made.name, outside[1], graph),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    given.name, made.name = outside
    del graph.output[1:]  # what else it gives, no session looks at
    onnx.helper.set_model_props(model, recipe.metadata())
    fixed = _batch(given).dim_value
    for tensor in (given, made):
        _batch(tensor).dim_param = "n"
    _save(model, source, target)
    picture = samples(recipe)[0]
    try:
        of_graph(target)(np.concatenate([picture, picture]))
    except Exception:  # onnxruntime's own errors share no public class
        if not fixed:
            raise
        for tensor in (given, made):  # its nodes hold the batch fast, and it is run one by one
            _batch(tensor).dim_value = fixed
        _save(model, source, target)
    return reference


def _batch(tensor: Any) -> Any:
    return tensor.type.tensor_type.shape.dim[0]


def _save(model: Any, source: Path, target: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's own errors share no public class
        raise ModelError(f"{source}: no valid ONNX: {first_line(error)}") from error
    onnx.save(model, str(target))


def _read(source: Path) -> Any:
    import onnx

    if not source.is_file():
        raise ModelError(f"{source}: no such model file")
    try:
        return onnx.load(str(source))
    except Exception as error:  # protobuf's own errors share no public class
        raise ModelError(f"{source}: no ONNX file: {first_line(error)}") from error


def _ends(source: Path, recipe: Recipe, model: Any) -> tuple[Any, Any]:
    """The input and the first output of a graph, after a look at them."""
    from onnx import TensorProto

    weights = {tensor.name for tensor in model.graph.initializer}  # old files list them as inputs
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or not model.graph.output:
        raise ModelError(f"{source}: {len(inputs)} inputs; one, and an output, is needed")
    tensor = inputs[0].type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    if sizes and sizes[0] > 1:
        raise ModelError(
            f"{source}: it takes {sizes[0]} pictures at once, neither one nor any number"
        )
    if tensor.elem_type != TensorProto.FLOAT or len(sizes) != 4 or sizes[1] not in (3, -1):
        raise ModelError(f"{source}: its input is {sizes}, not float pictures (N, 3, H, W)")
    if model.graph.output[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(f"{source}: its first output is not float")
    for side in sizes[2:]:
        if side > 0 and (recipe.sizes, recipe.multiple) != ((side,), side):
            raise ModelError(
                f"{source}: it takes pictures of {side} pixels only; its recipe has to say so: "
                f"sizes = [{side}] and multiple = {side}"
            )
    return inputs[0], model.graph.output[0]


def _untouched(source: Path, recipe: Recipe) -> Run:
    run_batch = of_graph(source)
    before, after = recipe.export.input, recipe.export.output

    def run(pictures: np.ndarray) -> list[np.ndarray]:
        values = pictures if before.order == "rgb" else pictures[:, ::-1]
        values = np.ascontiguousarray((values - _columns(before.mean)) / _columns(before.std))
        output = run_batch(values)[0] * _columns(after.std) + _columns(after.mean)
        return [output if after.order == "rgb" else output[:, ::-1]]

    return run


def _encode(values: Values, source: str, target: str, graph: Any) -> list[Any]:
    """Nodes from RGB in [0, 1] to what the graph takes; mean and std are in its order."""
    steps: list[tuple[str, np.ndarray]] = []
    if values.order == "bgr":
        steps.append(("Gather", np.array([2, 1, 0])))
    if any(values.mean):
        steps.append(("Sub", _columns(values.mean)))
    if set(values.std) != {1.0}:
        steps.append(("Div", _columns(values.std)))
    return _chain(steps, source, target, graph)


def _decode(values: Values, source: str, target: str, graph: Any) -> list[Any]:
    """Nodes from what the graph gives back to RGB in [0, 1]."""
    steps: list[tuple[str, np.ndarray]] = []
    if set(values.std) != {1.0}:
        steps.append(("Mul", _columns(values.std)))
    if any(values.mean):
        steps.append(("Add", _columns(values.mean)))
    if values.order == "bgr":
        steps.append(("Gather", np.array([2, 1, 0])))
    return _chain(steps, source, target, graph)


def _chain(steps: list[tuple[str, np.ndarray]], source: str, target: str, graph: Any) -> list[Any]:
    from onnx import helper, numpy_helper

    nodes = []
    for number, (operator, constant) in enumerate(steps):
        name = f"fhrt_{target}_{number}"
        graph.initializer.append(numpy_helper.from_array(constant, name))
        out = f"{name}_done"
        node = helper.make_node(operator, [source, name], [out], name)
        if operator == "Gather":
            node.attribute.append(helper.make_attribute("axis", 1))
        nodes.append(node)
        source = out
    return [*nodes, helper.make_node("Identity", [source], [target], name=f"fhrt_{target}")]


def _columns(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)
