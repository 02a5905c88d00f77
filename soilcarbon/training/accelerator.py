"""Accelerator of the training step: forward pass, gradients and Adam of the project's network without autograd.

Nothing here need be read to train or extend a network: `optimiser.Optimiser` does the same for any network by autograd, the tests
check that both agree, and a network that `covers` does not accept is trained by autograd.

At batch 32 the arithmetic of a step (17 million multiply-adds) takes as long as about a hundred calls of PyTorch, so there are only
some forty. All weights lie in one buffer, of which the member's parameters are views, all gradients in another: Adam is one call.
Branches of neighbouring categories of radius 0 are one block-diagonal matrix. Dropout draws 16 bits per value. Of a window only
those cells are computed that its one output cell depends on. On a GPU steps are replayed as a CUDA graph (`cuda_graph.py`).
"""

import math
from collections.abc import Callable, Mapping
from itertools import groupby, islice, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adam import adam

from soilcarbon.categories import consecutive
from soilcarbon.network.network import MAPS, MaxPool, Member, dilations
from soilcarbon.training import distributed

EVALUATED_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 22}  # inputs; on a CPU their activations stay in its cache
FOLDED_FROM = 128  # profiles in a batch: from here on it is cheaper to multiply out what is affine before the first ReLU
LEVELS = 1 << 16  # dropout is decided by a whole number of so many: its probability is the layer's to 1 in 131,072
SLICES = 32  # of the weights, for Adam on a GPU, which gives each tensor of a list few of its processors
Layout = list[tuple[str, int, int]]  # name, channels and window's side of branches


def relu_gradient(d: Tensor, outputs: Tensor) -> Tensor:
    """Return the loss's derivative d by a ReLU's outputs, which may have been dropped after it, as one by its inputs."""
    gradient: Tensor = torch.ops.aten.threshold_backward(d, outputs, 0)
    return gradient


def covers(member: nn.Module) -> bool:
    """Return whether a network consists of exactly the layers whose gradients this module implements."""
    if not isinstance(member, Member) or type(member).forward is not Member.forward or type(member).hidden is not Member.hidden:
        return False
    kinds: list[tuple[nn.Module, list[type[nn.Module]]]] = [
        (member.features_merge, [nn.Conv2d]),
        (member.classifier, [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout]),
        (member.final_regressor, [nn.Linear]),
    ]
    for name, _, size in member.layout:
        blocks = len(dilations((size - 1) // 2))
        kinds.append((member.get_submodule(name), [nn.Conv2d, nn.ReLU, MaxPool] * blocks or [nn.Conv2d]))
    return all([type(layer) for layer in part.children()] == expected for part, expected in kinds)


class Pair(NamedTuple):
    """Views of the same part of the weights' buffer and of the gradients' buffer."""

    value: Tensor
    gradient: Tensor


def _bind(layer: nn.Module, weight: Pair, bias: Pair) -> None:
    """Make a layer's parameters views of these buffers; their values are kept."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None
    for pair, parameter in ((weight, layer.weight), (bias, layer.bias)):
        value, gradient = (each.view(parameter.shape) for each in pair)
        parameter.data = value.copy_(parameter.detach())
        parameter.grad = gradient if parameter.requires_grad else None


class _Linear:
    """A fully connected layer (out, in), or a 1x1 convolution on a single cell: (B, in) to (B, out)."""

    def __init__(self, weight: Pair, bias: Pair) -> None:
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.value.t()  # on a GPU products by the transposed view take three times as long as with its copy
        return torch.addmm(self.bias.value, x, weight.contiguous() if weight.is_cuda else weight)

    def set_gradients(self, d: Tensor, x: Tensor) -> None:
        """Set the weights' gradients for inputs x and the loss's derivative d by the outputs."""
        torch.mm(d.t(), x, out=self.weight.gradient)
        torch.sum(d, 0, out=self.bias.gradient)

    def backward(self, d: Tensor) -> Tensor:
        return d @ self.weight.value


class _Cells(_Linear):
    """The branches of K neighbouring categories of radius 0: one block-diagonal matrix (32 K, E')."""

    def __init__(self, member: Member, layout: Layout, weight: Pair, bias: Pair) -> None:
        super().__init__(weight, bias)
        self.inside = torch.zeros_like(weight.value)
        columns = consecutive([channels for _, channels, _ in layout])
        for k, (name, _, _) in enumerate(layout):
            rows = slice(MAPS * k, MAPS * (k + 1))
            layer = member.get_submodule(name).get_submodule("0")
            _bind(layer, Pair(*(each[rows, columns[k]] for each in weight)), Pair(*(each[rows] for each in bias)))
            self.inside[rows, columns[k]] = 1

    @staticmethod
    def shapes(layout: Layout) -> list[tuple[int, ...]]:
        return [(MAPS * len(layout), sum(channels for _, channels, _ in layout)), (MAPS * len(layout),)]

    def forward_and_keep(self, x: Tensor) -> tuple[Tensor, Any]:
        return self.forward(x), x

    def set_gradients(self, d: Tensor, x: Any) -> None:
        super().set_gradients(d, x)
        self.weight.gradient.mul_(self.inside)


class Block(NamedTuple):
    """One convolution, pooling and ReLU of a branch on its one window, counted in cells of the grid that it needs."""

    side: int  # cells of the input along each axis
    reach: int  # between the 2 x 2 cells of the convolution, and between those of the pooling
    stride: int  # between the cells of the output that the next block needs

    @property
    def outcome(self) -> int:
        """Cells of the output along each axis."""
        return (self.side - 2 * self.reach - 1) // self.stride + 1

    @property
    def shared(self) -> bool:
        """Whether a cell of the convolution's output is pooled into several cells."""
        return self.reach % self.stride == 0 and self.reach < self.stride * self.outcome

    def corners(self, x: Tensor) -> Tensor:
        """Return x (C, side, side, B) as a view (C, 2, 2, 2, 2, N, N, B): corners of convolution and pooling, output cells."""
        channel, row, column, one = x.stride()
        near, far, n = self.reach, self.stride, self.outcome
        strides = (channel, near * row, near * column, near * row, near * column, far * row, far * column, one)
        return x.as_strided((len(x), 2, 2, 2, 2, n, n, x.shape[-1]), strides)


def blocks_of(radius: int) -> list[Block]:
    """Return the convolution blocks of a branch on a single window, computed only where its output needs them."""
    steps = dilations(radius)
    spacing = [math.gcd(*steps[k:]) for k in range(len(steps))]
    blocks, side = [], 2 * radius + 1
    for step, here, following in zip(steps, spacing, [*spacing[1:], spacing[-1]], strict=True):
        blocks.append(Block(side, step // here, following // here))
        side = blocks[-1].outcome
    return blocks


class _Windows:
    """The branches of K neighbouring categories of one radius > 0: (B, sum of C S S) to (B, 32 K), as products of 2 x 2 cells.

    Activations are (channel, corner of the pooling, place, profile). The maximum is taken before ReLU, which gives the
    same on a quarter of the cells; equal cells share the gradient.
    """

    def __init__(self, member: Member, layout: Layout, *pieces: Pair) -> None:
        count = len(layout)
        self.inputs, self.blocks = [4 * channels for _, channels, _ in layout], blocks_of((layout[0][2] - 1) // 2)
        self.first, self.weights, self.biases = pieces[:count], pieces[count + 1 :: 2], pieces[count::2]
        for k, (name, _, _) in enumerate(layout):
            convolutions = [layer for layer in member.get_submodule(name).modules() if isinstance(layer, nn.Conv2d)]
            weights = [self.first[k], *(Pair(*(each[k] for each in weight)) for weight in self.weights)]
            for layer, weight, bias in zip(convolutions, weights, self.biases, strict=True):
                _bind(layer, weight, Pair(*(each[k] for each in bias)))

    @staticmethod
    def shapes(layout: Layout) -> list[tuple[int, ...]]:
        """First a matrix (32, 4 C) per category; the rest for all categories at once."""
        count, later = len(layout), len(blocks_of((layout[0][2] - 1) // 2)) - 1
        bias = (count, MAPS)
        return [*((MAPS, 4 * channels) for _, channels, _ in layout), bias, *[(count, MAPS, 4 * MAPS), bias] * later]

    def forward_and_keep(self, x: Tensor) -> tuple[Tensor, Any]:
        batch, count, kept = len(x), len(self.first), []
        maps = x.t().contiguous()
        for k, block in enumerate(self.blocks):
            inputs = block.corners(maps.view(-1, block.side, block.side, batch))
            if k == 0:  # categories differ in channels
                inputs = inputs.reshape(sum(self.inputs), -1)
                parts = zip(self.biases[0].value, self.first, inputs.split(self.inputs), strict=True)
                convolved = torch.stack([torch.addmm(bias[:, None], weight.value, part) for bias, weight, part in parts])
            else:
                inputs = inputs.reshape(count, 4 * MAPS, -1)
                convolved = torch.baddbmm(self.biases[k].value[:, :, None], self.weights[k - 1].value, inputs)
            convolved = convolved.view(count, MAPS, 4, -1)
            maps = convolved.amax(2).relu_()
            kept.append((inputs, convolved, maps))
        return maps.view(-1, batch).t(), kept

    def set_gradients(self, d: Tensor, kept: Any) -> None:
        batch = len(d)
        d = d.t().contiguous()
        for k, block in reversed(list(enumerate(self.blocks))):
            inputs, convolved, maps = kept[k]
            largest = convolved.sub_(maps[:, :, None]).sign_().add_(1)  # 1 where it is, 0 elsewhere
            d = d.view(maps.shape) * maps.sign() / largest.sum(2).clamp_(min=1)
            d = largest.mul_(d[:, :, None]).flatten(2)
            torch.sum(d, 2, out=self.biases[k].gradient)
            if k == 0:
                for each, part, weight in zip(d, inputs.split(self.inputs), self.first, strict=True):
                    torch.mm(each, part.t(), out=weight.gradient)
                return
            torch.bmm(d, inputs.transpose(1, 2), out=self.weights[k - 1].gradient)
            n = block.outcome
            parts = torch.bmm(self.weights[k - 1].value.transpose(1, 2), d).view(-1, 2, 2, 2, 2, n, n, batch)
            d = d.new_zeros(len(parts), block.side, block.side, batch)
            corners = block.corners(d)
            for at in product((0, 1), repeat=4 if block.shared else 2):  # no cell is added to twice at once
                index: Any = (slice(None), *at)
                corners[index].add_(parts[index])


class Accelerator:
    """Adam optimiser with hand-written gradients, for members that `covers` accepts; interface as `optimiser.Optimiser`."""

    def __init__(self, member: Member, lr: float, l2_sp: float = 0.0) -> None:
        assert covers(member)
        runs = [list(run) for _, run in groupby(member.layout, key=lambda branch: branch[2])]
        kinds = [_Cells if run[0][2] == 1 else _Windows for run in runs]
        in_banks = [kind.shapes(run) for kind, run in zip(kinds, runs, strict=True)]
        behind = (member.features_merge, member.classifier, member.final_regressor)
        linear = [layer for part in behind for layer in part if isinstance(layer, (nn.Conv2d, nn.Linear))]
        in_linear = [[tuple(layer.weight.shape[:2]), (len(layer.weight),)] for layer in linear]
        shapes = [shape for each in [*in_banks, *in_linear] for shape in each]
        sizes = [math.prod(shape) for shape in shapes]
        like = next(member.parameters())
        buffer = Pair(like.new_zeros(sum(sizes)), like.new_zeros(sum(sizes)))
        split = zip(*(half.split(sizes) for half in buffer), shapes, strict=True)
        pieces = (Pair(value.view(shape), gradient.view(shape)) for value, gradient, shape in split)
        with torch.no_grad():
            banks = zip(kinds, runs, in_banks, strict=True)
            self.banks = [kind(member, run, *islice(pieces, len(each))) for kind, run, each in banks]
            self.linear = [_Linear(next(pieces), next(pieces)) for _ in linear]
            for layer, pair in zip(linear, self.linear, strict=True):
                _bind(layer, pair.weight, pair.bias)
        self.widths = [sum(channels * size**2 for _, channels, size in run) for run in runs]
        self.maps = [MAPS * len(run) for run in runs]
        hidden = [len(layer.weight.value) for layer in self.linear[1:3]]
        dropped = [round(layer.p * LEVELS) for layer in member.classifier if isinstance(layer, nn.Dropout)]
        self.dropout = hidden if any(dropped) else []
        by_value = torch.tensor(dropped, device=like.device).repeat_interleave(torch.tensor(hidden, device=like.device))
        self.least, self.factors = (by_value - LEVELS // 2).to(torch.int16), (LEVELS / (LEVELS - by_value)).to(like.dtype)

        # Branches, fusion, hidden layers, last layer: what is trained is the buffer's end.
        self.trained_layers = sum(layer.weight.requires_grad for layer in linear)
        parts = zip((sizes[:-8], sizes[-8:-6], sizes[-6:-2], sizes[-2:]), (0, 0, 1, 3), strict=True)
        length = sum(sum(part) for part, k in parts if linear[k].weight.requires_grad)
        self.trained = Pair(*(half[len(half) - length :] for half in buffer))
        mean, square = (torch.zeros_like(self.trained.value) for _ in range(2))
        size = -(-length // (4 * SLICES)) * 4 if like.is_cuda else length
        slices = [each.split(size) for each in (*self.trained, mean, square)]
        self.memory = [mean, square, like.new_zeros(len(slices[0]), dtype=torch.float32)]
        """Adam's: running means of the gradients and of their squares, and steps taken, by slice; they change in place."""
        self._by_slice = [list(each) for each in (*slices, self.memory[2].unbind())]
        self.lr, self.l2_sp, self.start = lr, l2_sp, self.trained.value.clone() if l2_sp else None
        # On a GPU the rate is a tensor there, which a captured step reads.
        self.rate: Any = torch.tensor(lr, device=like.device) if like.is_cuda else lr
        self._graph: Any = None

    @torch.no_grad()
    def epoch(self, encoded: Tensor, output: Tensor, order: Tensor, batch_size: int) -> Tensor:
        """Take one pass in the given order (n,), and return each batch's loss; nothing in it waits for the device."""
        if not encoded.is_cuda or distributed.size() > 1 or len(order) < batch_size:
            return self.steps(encoded, output, order, batch_size)
        if self._graph is None or self._graph.encoded is not encoded or self._graph.output is not output:
            from soilcarbon.training.cuda_graph import GraphedSteps  # here: without a GPU there is nothing to capture

            self._graph = GraphedSteps(self, encoded, output, batch_size)
        return self._graph.epoch(order)

    def steps(self, encoded: Tensor, output: Tensor, order: Tensor, batch_size: int) -> Tensor:
        """Take the same steps without a CUDA graph."""
        batches = order.split(batch_size)
        losses = output.new_empty(len(batches))
        for k, rows in enumerate(batches):
            mine = rows[distributed.share(len(rows))]
            losses[k] = self.gradients(encoded[mine], output[mine], len(rows))
            self.adam_step()
        return losses

    def adam_step(self) -> None:
        """Take one Adam step by PyTorch's functional interface: importing the class takes longer than a first step."""
        value, gradient, mean, square, steps = self._by_slice
        adam(
            value, gradient, mean, square, [], steps, fused=True, capturable=value[0].is_cuda,
            amsgrad=False, beta1=0.9, beta2=0.999, lr=self.rate, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip

    @torch.no_grad()
    def outputs(self, encoded: Tensor) -> Tensor:
        """Return (n,) for encoded inputs (n, E), without dropout."""
        batches = []
        for x in encoded.split(max(1, EVALUATED_AT_ONCE[encoded.device.type] // encoded.shape[1])):
            hidden = self.linear[2].forward(self._front(x)[0].relu_()).relu_()
            batches.append(self.linear[3].forward(hidden)[:, 0])
        return torch.cat(batches)

    def scale_rate(self, factor: float) -> None:
        """Multiply the initial learning rate by a factor."""
        if isinstance(self.rate, Tensor):
            self.rate.fill_(self.lr * factor)
        else:
            self.rate = self.lr * factor

    def state(self) -> dict[str, Tensor]:
        """Return a copy of Adam's state (running means and step counts)."""
        mean, square, steps = self.memory
        return {"0": mean.clone(), "1": square.clone(), "2": steps[0].clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state`; ValueError if it belongs to another network."""
        ours = self.state()
        theirs = [value for name in ours if isinstance(value := state.get(name), Tensor)]
        shapes = [[(each.shape, each.dtype) for each in tensors] for tensors in (ours.values(), theirs)]
        if len(state) != len(ours) or shapes[0] != shapes[1]:
            raise ValueError("the optimiser's state is of another network")
        for tensor, value in zip(self.memory, theirs, strict=True):
            tensor.copy_(value)

    def _front(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Return the input of the head's first ReLU, (B, 256), for inputs (B, E), and the backward pass of the layers before it."""
        bank, (fusion, first) = self.banks[0], self.linear[:2]
        if len(self.banks) == 1 and isinstance(bank, _Cells) and len(x) >= FOLDED_FROM:
            return self._folded(x, bank)
        made = [bank.forward_and_keep(part) for bank, part in zip(self.banks, x.split(self.widths, 1), strict=True)]
        maps = torch.cat([each for each, _ in made], 1)
        fused = fusion.forward(maps)

        def set_gradients(d: Tensor) -> None:
            first.set_gradients(d, fused)
            if self.trained_layers == 4:
                d = first.backward(d)
                fusion.set_gradients(d, maps)
                parts = fusion.backward(d).split(self.maps, 1)
                for bank, part, (_, kept) in zip(self.banks, parts, made, strict=True):
                    bank.set_gradients(part, kept)

        return first.forward(fused), set_gradients

    def _folded(self, x: Tensor, bank: _Cells) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Return the same with affine branches, fusion and first layer multiplied out to one matrix (256, E)."""
        fusion, first = self.linear[:2]
        weight = fusion.weight.value @ bank.weight.value
        bias = torch.addmv(fusion.bias.value, fusion.weight.value, bank.bias.value)
        whole = torch.addmv(first.bias.value, first.weight.value, bias)

        def set_gradients(d: Tensor) -> None:
            dweight, dbias = d.t() @ x, d.sum(0)
            torch.mm(dweight, weight.t(), out=first.weight.gradient).addr_(dbias, bias)
            first.bias.gradient.copy_(dbias)
            if self.trained_layers == 4:
                dweight, dbias = first.weight.value.t() @ dweight, first.weight.value.t() @ dbias
                torch.mm(dweight, bank.weight.value.t(), out=fusion.weight.gradient).addr_(dbias, bank.bias.value)
                fusion.bias.gradient.copy_(dbias)
                torch.mm(fusion.weight.value.t(), dweight, out=bank.weight.gradient).mul_(bank.inside)
                torch.mv(fusion.weight.value.t(), dbias, out=bank.bias.gradient)

        return torch.addmm(whole, x, (first.weight.value @ weight).t()), set_gradients

    def dropout_masks(self, batch: int) -> tuple[Tensor, ...]:
        """Draw the dropout masks of the hidden layers, (B, 256) and (B, 128): 0, or 1 / (1 - p)."""
        bits = torch.empty(batch * sum(self.dropout) // 4, dtype=torch.int64, device=self.trained.value.device)
        levels = bits.random_(-(2**63), None).view(torch.int16).view(batch, -1)
        return (levels >= self.least).to(self.factors.dtype).mul_(self.factors).split(self.dropout, 1)

    def gradients(self, x: Tensor, output: Tensor, batch: int) -> Tensor:
        """Compute the gradients of a batch, of which this process has inputs (B, E) and outputs (B,), and return its loss."""
        front, set_gradients = self._front(x)
        masks: list[Any] = [1.0, 1.0]  # without dropout nothing need be drawn
        if self.dropout:
            masks = [mask[distributed.share(batch)] for mask in self.dropout_masks(batch)]  # all processes draw the same mask
        first = front.relu_().mul_(masks[0])
        second = self.linear[2].forward(first).relu_().mul_(masks[1])
        predicted = self.linear[3].forward(second)[:, 0]
        value = functional.mse_loss(predicted, output, reduction="sum") / batch
        d = ((predicted - output) * (2 / batch))[:, None]
        self.linear[3].set_gradients(d, second)
        if self.trained_layers > 1:
            d = relu_gradient(self.linear[3].backward(d).mul_(masks[1]), second)
            self.linear[2].set_gradients(d, first)
            set_gradients(relu_gradient(self.linear[2].backward(d).mul_(masks[0]), first))
        value = distributed.add_gradients([self.trained.gradient], value)
        if self.start is not None:
            moved = self.trained.value - self.start
            value = value + self.l2_sp / 2 * moved.dot(moved)
            self.trained.gradient.add_(moved, alpha=self.l2_sp)
        return value
