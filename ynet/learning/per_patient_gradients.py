"""Per-patient gradients of a whole batch in one backward pass.

A batch's gradient is a sum, from which one patient's part cannot be recovered. So the backward pass computes gradients
of activations only, and hooks compute the weights' gradients per layer: as one tensor per patient where that is small,
else as two factors, from which both the norm and the clipped sum follow ("ghost norm", Goodfellow 2015, Li et al., ICLR
2022; "book-keeping", Bu et al., ICML 2023).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

ROUNDING = 1e-6  # share of a patient's largest possible sum over positions: the sum is in single precision
DOUBLE = 2  # cost of double precision relative to single precision


class Geometry(NamedTuple):
    """The geometry of a convolution; each pair is (y, x)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def weights(self, x: Tensor, shape: Sequence[int], gradient: Tensor) -> Tensor:
        """Return the gradient of weights of this shape, summed over all rows, in single precision on every device."""
        like = gradient.new_empty(shape)  # torch.nn.grad expands a single number, which the call then copies
        geometry = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if x.is_cuda else nullcontext():
            made = torch.ops.aten.convolution_backward(gradient, x, like, None, *geometry, (False, True, False))
        weights: Tensor = made[1]
        return weights


@dataclass(frozen=True)
class Factored:
    """The gradient of a convolution's weights for each patient, as two factors."""

    inputs: Float[Tensor, "patients views in h w"]
    outputs: Float[Tensor, "patients views out h2 w2"]  # the gradients of them
    geometry: Geometry

    def norms(self) -> Float64[Tensor, " patients"]:
        """Return upper bounds of the norms of the gradients that `sum` adds.

        In double precision: where a patient's positions cancel, the small rest would be mostly rounding error.
        """
        squares = self._products_of_inputs() * products(self.outputs.double())
        longest = squares.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().sum(1)
        return squares.sum((1, 2)).clamp(min=0).sqrt() + ROUNDING * longest

    def _products_of_inputs(self) -> Float64[Tensor, "patients positions positions"]:
        """Return the inner products of the input patches at each pair of positions, from products of single pixels."""
        (ky, kx), (sy, sx), (y, x), (dy, dx), _ = self.geometry
        padded = F.pad(self.inputs.double(), (x, x, y, y))
        (patients, views, _, height, width), (h, w) = padded.shape, self.outputs.shape[-2:]
        pixels = products(padded).contiguous()
        # Pixel (view, row, column) times (view', row', column'); both move with the kernel's pixel.
        one, other = (height * width * across for across in (views * height * width, 1))
        column, row = (views * height * width, 1), (views * height * width * width, width)
        strides = (pixels.stride(0), one, row[0] * sy, column[0] * sx, other, row[1] * sy, column[1] * sx)
        patches = pixels.as_strided((patients, *(views, h, w) * 2, ky, kx), (*strides, sum(row) * dy, sum(column) * dx))
        return patches.sum((-2, -1)).view(patients, views * h * w, -1)

    def sum(self, scales: Float[Tensor, " patients"]) -> Float[Tensor, "out in kernel kernel"]:
        """Return the sum of the patients' gradients, each times its scale."""
        inputs, outputs = self.inputs.flatten(0, 1), (self.outputs * scales.view(-1, 1, 1, 1, 1)).flatten(0, 1)
        return self.geometry.weights(inputs, (outputs.shape[1], inputs.shape[1], *self.geometry.kernel), outputs)

    def only(self, chosen: Bool[Tensor, " patients"]) -> "Factored":
        """Select patients."""
        return replace(self, inputs=self.inputs[chosen], outputs=self.outputs[chosen])

    def is_cheap(self) -> bool:
        """Return whether the norm is cheaper from the factors than from the gradient itself."""
        (_, views, inputs, h, w), (_, _, outputs, h2, w2) = self.inputs.shape, self.outputs.shape
        (ky, kx), (y, x), seen = self.geometry.kernel, self.geometry.padding, views * h2 * w2
        by_products = (views * (h + 2 * y) * (w + 2 * x)) ** 2 * inputs + seen**2 * (outputs + ky * kx)
        return self.geometry.groups == 1 and DOUBLE * by_products < inputs * ky * kx * outputs * seen

    def each(self) -> Float[Tensor, "patients out in kernel kernel"]:
        """Return each patient's gradient."""
        patients, views, outputs = self.outputs.shape[:3]
        (inputs, *_), rows, (ky, kx) = self.inputs.shape[2:], patients * views, self.geometry.kernel
        if self.geometry == Geometry(stride=self.geometry.stride):
            seen = self.inputs[..., :: self.geometry.stride[0], :: self.geometry.stride[1]]
            matrices: Tensor = self.outputs.flatten(3) @ seen.flatten(3).mT
            return matrices.sum(1)[..., None, None]
        # One grouped convolution with a group per row: its weights' gradient holds the rows' gradients.
        beside = [part.reshape(1, -1, *part.shape[3:]) for part in (self.inputs, self.outputs)]
        geometry = self.geometry._replace(groups=rows * self.geometry.groups)
        shape = (outputs, inputs // self.geometry.groups, ky, kx)
        each = geometry.weights(beside[0], (rows * shape[0], *shape[1:]), beside[1])
        return each.view(patients, views, *shape).sum(1) if views > 1 else each.view(patients, *shape)


def products(rows: Float64[Tensor, "patients views channels h w"]) -> Float64[Tensor, "patients positions positions"]:
    """Return the inner products over the channels of all pairs of positions in a patient's views."""
    positions = rows.transpose(1, 2).flatten(2)
    return positions.mT @ positions


@dataclass(frozen=True)
class Whole:
    """A tensor for each patient."""

    each: Float[Tensor, "patients ..."]

    def norms(self) -> Float64[Tensor, " patients"]:
        """Lengths."""
        found: Tensor = torch.linalg.vector_norm(self.each.flatten(1), dim=1, dtype=torch.float64)
        return found

    def sum(self, scales: Float[Tensor, " patients"]) -> Float[Tensor, "..."]:
        """Return the sum of the patients' tensors, each times its scale."""
        total: Tensor = torch.tensordot(scales, self.each.float(), dims=1)
        return total

    def only(self, chosen: Bool[Tensor, " patients"]) -> "Whole":
        """Select patients."""
        return Whole(self.each[chosen])


Gradient = Factored | Whole


class PatientGradients:
    """Computes per-patient gradients with respect to some parameters of a network, in the parameters' order."""

    def __init__(
        self, net: nn.Module, parameters: Sequence[nn.Parameter], kinds: "Mapping[type, Recorded] | None" = None
    ) -> None:
        """Find the layers of the parameters.

        Args:
            net: The network.
            parameters: Those to compute gradients for.
            kinds: Layers that are supported besides LAYERS.

        Raises:
            TypeError: A layer's kind is not supported, or a parameter is shared.
        """
        self._net, self._parameters, self._kinds = net, parameters, {**LAYERS, **(kinds or {})}
        wanted, self._layers = {id(parameter) for parameter in parameters}, []
        for name, layer in net.named_modules():
            if any(id(parameter) in wanted for parameter in layer.parameters(recurse=False)):
                _refuse_unknown(name, layer, self._kinds)
                self._layers.append(layer)
        shared = [name for name, one in net.named_parameters(remove_duplicate=False) if id(one) in wanted]
        if len(shared) != len(parameters):
            raise TypeError(
                "per-patient gradients are not supported: two layers share a parameter, or it is not the network's"
            )

    def __call__(self, patients: int, loss: Callable[[], Float[Tensor, " rows"]]) -> list[Gradient]:
        """Return the gradients of each patient's mean loss.

        Args:
            patients: Their number. Each has the same number of rows, those of the first patient first.
            loss: Runs the network. No row of its result may depend on another row's image.

        Raises:
            RuntimeError: The network uses a layer twice, or changes a layer's input in place.
        """
        recorder = Recorder(self._parameters, patients)
        with _no_weight_gradients(self._net), _recording(self._layers, self._kinds, recorder):
            rows = loss()
            (rows.sum() * (patients / len(rows))).backward()  # type: ignore[no-untyped-call]
        return recorder.gradients()


class Recorder:
    """Records the gradients that the layers' hooks compute in one pass."""

    def __init__(self, parameters: Sequence[nn.Parameter], patients: int) -> None:
        self._parameters, self._patients = parameters, patients
        self._gradients: dict[int, Gradient | None] = {id(parameter): None for parameter in parameters}

    def wants(self, parameter: Any) -> bool:
        """Return whether the parameter's gradients are asked for."""
        return id(parameter) in self._gradients

    def put(self, parameter: nn.Parameter, rows: Float[Tensor, "rows ..."]) -> None:
        """Record a parameter's gradient of every row."""
        self._gradients[id(parameter)] = Whole(self._by_patient(rows).sum(1).view(self._patients, *parameter.shape))

    def put_product(self, layer: Any, geometry: Geometry, inputs: Tensor, outputs: Tensor) -> None:
        """Record the gradients of a layer's weight and bias from its inputs and its outputs' gradients."""
        if self.wants(layer.bias):
            self.put(layer.bias, outputs.sum((2, 3), dtype=torch.float32))
        if self.wants(layer.weight):
            factored = Factored(self._by_patient(inputs), self._by_patient(outputs), geometry)
            self._gradients[id(layer.weight)] = factored if factored.is_cheap() else Whole(factored.each())

    def _by_patient(self, rows: Tensor) -> Float[Tensor, "patients views ..."]:
        return rows.float().reshape(self._patients, -1, *rows.shape[1:])

    def gradients(self) -> list[Gradient]:
        """Return the gradients of all parameters; 0 where the loss does not depend on one."""
        found = [self._gradients[id(parameter)] for parameter in self._parameters]
        return [
            gradient or Whole(parameter.new_zeros(()).expand(self._patients, *parameter.shape))
            for gradient, parameter in zip(found, self._parameters, strict=True)
        ]


def _refuse_unknown(name: str, layer: nn.Module, kinds: "Mapping[type, Recorded]") -> None:
    odd = isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str))
    if type(layer) not in kinds or odd:
        raise TypeError(f"per-patient gradients are not supported: {name!r} is {layer}, an unknown kind of layer")


@contextmanager
def _no_weight_gradients(net: nn.Module) -> Iterator[None]:
    """Switch off the weights' gradients: the backward pass does not compute the sum over the patients."""
    before = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in before:
            parameter.requires_grad_(True)


@contextmanager
def _recording(layers: Sequence[nn.Module], kinds: "Mapping[type, Recorded]", recorder: Recorder) -> Iterator[None]:
    """Replace each layer's forward by one that records its gradients."""
    used: set[nn.Module] = set()

    def forward_of(layer: nn.Module) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if layer in used:
                raise RuntimeError(f"per-patient gradients are not supported: {layer} is used twice")
            used.add(layer)
            return kinds[type(layer)](layer, x, recorder)

        return forward

    try:
        for layer in layers:
            layer.__dict__["forward"] = forward_of(layer)
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def hooked(y: Tensor, x: Tensor, record: Callable[[Tensor, Tensor], None]) -> Tensor:
    """Return the output with a hook that records the input and the output's gradient.

    An activation may change the output in place; that is why one that begins the backward graph is copied.
    """
    held, version = [x.detach()], x._version
    if not y.requires_grad:
        y = y.requires_grad_().clone()

    def hook(gradient: Tensor) -> None:
        if held[0]._version != version:
            raise RuntimeError("per-patient gradients are not supported: a layer's input was changed in place")
        record(held.pop(), gradient)

    y.register_hook(hook)  # type: ignore[no-untyped-call]
    return y


def convolution(layer: Any, x: Float[Tensor, "rows in h w"], recorder: Recorder) -> Tensor:
    """Run a convolution, and record its gradients."""
    geometry = Geometry(layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    return hooked(nn.Conv2d.forward(layer, x), x, lambda *factors: recorder.put_product(layer, geometry, *factors))


def _linear(layer: Any, x: Float[Tensor, "rows ... in"], recorder: Recorder) -> Tensor:
    """Treat the layer as a convolution with a kernel of one pixel."""

    def record(*factors: Tensor) -> None:
        as_images = (part.flatten(1, -2).mT[..., None] if part.ndim > 2 else part[..., None, None] for part in factors)
        recorder.put_product(layer, Geometry(), *as_images)

    return hooked(nn.Linear.forward(layer, x), x, record)


def _group_norm(layer: Any, x: Float[Tensor, "rows channels ..."], recorder: Recorder) -> Tensor:
    """Run one GroupNorm over the channels of all rows, with a separate scale and bias for each row's channel."""
    rows, channels = x.shape[:2]
    flat = x.reshape(1, rows * channels, *x.shape[2:])
    weight, bias = (repeated(part, rows, recorder) for part in (layer.weight, layer.bias))
    return F.group_norm(flat, rows * layer.num_groups, weight, bias, layer.eps).view_as(x)


def repeated(parameter: nn.Parameter, rows: int, recorder: Recorder) -> Float[Tensor, " rows_channels"]:
    """Return a separate copy of the parameter for each row, and record the copies' gradients."""
    each = parameter.detach().expand(rows, -1).flatten()
    if recorder.wants(parameter):
        each.requires_grad_()
        each.register_hook(lambda gradient: recorder.put(parameter, gradient.view(rows, -1)))  # type: ignore[no-untyped-call]
    return each


Recorded = Callable[[Any, Tensor, Recorder], Tensor]
"""A layer's forward that also records gradients: layer, input and recorder to output."""

LAYERS: dict[type, Recorded] = {nn.Conv2d: convolution, nn.Linear: _linear, nn.GroupNorm: _group_norm}
"""The recorded forward of each kind of layer."""
