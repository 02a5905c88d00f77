"""A member's optimiser steps, written out: forward, backward and Adam as some forty calls of PyTorch, without autograd.

In: a member, encoded profiles, an order. Out: each batch's loss; the member's weights have moved.

At batch 32 the arithmetic of a step (17 million multiplications and additions) is done in the time that some hundred calls
take, so there are few calls. All weights lie in one buffer, of which the member's parameters are views, all gradients in
another: Adam is one call. Branches of neighbouring categories of radius 0 are one block-diagonal matrix. Dropout is drawn
sixteen bits a unit. Of a window only those cells are computed that the one cell in the end is made of.
"""

import math
from collections.abc import Callable
from itertools import groupby, islice, product
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from soilcarbon.network.network import MAPS, Member, dilations
from soilcarbon.training import distributed as crew
from soilcarbon.training.adam import Adam

EVALUATED_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Inputs that are evaluated together: on a CPU the activations stay in its cache."""
FOLDED_FROM = 128
"""Profiles in a batch from which on it is cheaper to multiply out what is affine in front of the first ReLU."""
LEVELS = 1 << 16
"""Dropout is decided by a whole number of so many: its probability is that of the layer to 1 in 131,072."""


class Pair(NamedTuple):
    """A piece of the weights' buffer, and the same piece of the gradients'."""

    value: Tensor
    gradient: Tensor

    def bind(self, parameter: Tensor) -> None:
        """Let a parameter be this piece from now on, and keep its values; where it is trained, its gradient too."""
        self.value.copy_(parameter.detach())
        parameter.data = self.value
        parameter.grad = self.gradient if parameter.requires_grad else None


class _Linear:
    """A fully connected layer (out, in), or a 1x1 convolution on a single cell."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, weight: Pair, bias: Pair) -> None:
        self.weight, self.bias = weight, bias
        Pair(*(each.view(layer.weight.shape) for each in weight)).bind(layer.weight)
        assert layer.bias is not None
        bias.bind(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias.value, x, self.weight.value.t())

    def learn(self, d: Tensor, x: Tensor) -> None:
        """Set the gradients for inputs x (B, in) and the loss's derivative d (B, out) by the outputs."""
        torch.mm(d.t(), x, out=self.weight.gradient)
        torch.sum(d, 0, out=self.bias.gradient)

    def backward(self, d: Tensor) -> Tensor:
        """Return the loss's derivative (B, in) by the inputs."""
        return d @ self.weight.value


class _Cells:
    """The branches of K neighbouring categories of radius 0: one block-diagonal matrix (32 K, E')."""

    def __init__(self, member: Member, layout: list[tuple[str, int, int]], weight: Pair, bias: Pair) -> None:
        self.weight, self.bias = weight, bias
        self.inside = torch.zeros_like(weight.value)
        column = 0
        for k, (name, channels, _) in enumerate(layout):
            layer = member.get_submodule(name).get_submodule("0")
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            rows, columns = slice(MAPS * k, MAPS * (k + 1)), slice(column, column + channels)
            Pair(*(each[rows, columns, None, None] for each in weight)).bind(layer.weight)
            Pair(*(each[rows] for each in bias)).bind(layer.bias)
            self.inside[rows, columns] = 1
            column += channels

    @staticmethod
    def shapes(layout: list[tuple[str, int, int]]) -> list[tuple[int, ...]]:
        return [(MAPS * len(layout), sum(channels for _, channels, _ in layout)), (MAPS * len(layout),)]

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        return torch.addmm(self.bias.value, x, self.weight.value.t()), x

    def learn(self, d: Tensor, x: Any) -> None:
        torch.mm(d.t(), x, out=self.weight.gradient).mul_(self.inside)
        torch.sum(d, 0, out=self.bias.gradient)


class Block(NamedTuple):
    """One convolution, pooling and ReLU of a branch on its one window, counted in cells of the grid it needs.

    Attributes
    ----------
    side
        Cells of the input along each axis.
    reach
        Between the 2 x 2 cells of the convolution, and between those of the pooling.
    stride
        Between the cells of the output that the next block needs.
    """

    side: int
    reach: int
    stride: int

    @property
    def outcome(self) -> int:
        """Cells of the output along each axis."""
        return (self.side - 2 * self.reach - 1) // self.stride + 1

    @property
    def shared(self) -> bool:
        """Whether a cell of the convolution's output is pooled into several cells."""
        return self.reach % self.stride == 0 and self.reach < self.stride * self.outcome

    def corners(self, x: Tensor) -> Tensor:
        """Return what is convolved and pooled: a view (C, 2, 2, 2, 2, N, N, B) of x (C, side, side, B).

        The corners of the convolution, those of the pooling, the places of the output.
        """
        channel, row, column, one = x.stride()
        near, far, n = self.reach, self.stride, self.outcome
        strides = (channel, near * row, near * column, near * row, near * column, far * row, far * column, one)
        return x.as_strided((len(x), 2, 2, 2, 2, n, n, x.shape[-1]), strides)


def blocks_of(radius: int) -> list[Block]:
    """Return the blocks of a branch on its one window: what `dilations` would compute at every cell, where it is needed."""
    steps = dilations(radius)
    spacing = [math.gcd(*steps[k:]) for k in range(len(steps))]
    blocks, side = [], 2 * radius + 1
    for step, here, following in zip(steps, spacing, [*spacing[1:], spacing[-1]], strict=True):
        blocks.append(Block(side, step // here, following // here))
        side = blocks[-1].outcome
    return blocks


class _Windows:
    """The branches of K neighbouring categories of one radius > 0, as matrix products of the convolutions' 2 x 2 cells.

    Activations are (channel, corner of the pooling, place, profile). The maximum is taken before ReLU, which gives the
    same on a quarter of the cells; equal cells share the gradient.
    """

    def __init__(self, member: Member, layout: list[tuple[str, int, int]], *pieces: Pair) -> None:
        count = len(layout)
        self.inputs, self.blocks = [4 * channels for _, channels, _ in layout], blocks_of((layout[0][2] - 1) // 2)
        self.first, self.weights, self.biases = pieces[:count], pieces[count + 1 :: 2], pieces[count::2]
        for k, (name, _, _) in enumerate(layout):
            convolutions = [layer for layer in member.get_submodule(name).modules() if isinstance(layer, nn.Conv2d)]
            weights = [self.first[k], *(Pair(*(each[k] for each in weight)) for weight in self.weights)]
            for layer, weight, bias in zip(convolutions, weights, self.biases, strict=True):
                assert layer.bias is not None
                Pair(*(each.view(layer.weight.shape) for each in weight)).bind(layer.weight)
                Pair(*(each[k] for each in bias)).bind(layer.bias)

    @staticmethod
    def shapes(layout: list[tuple[str, int, int]]) -> list[tuple[int, ...]]:
        """First a matrix (32, 4 C) per category; the rest for all categories at once."""
        count, later = len(layout), len(blocks_of((layout[0][2] - 1) // 2)) - 1
        bias = (count, MAPS)
        return [*((MAPS, 4 * channels) for _, channels, _ in layout), bias, *[(count, MAPS, 4 * MAPS), bias] * later]

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return (B, 32 K) for the categories' windows (B, sum of C S S), and what `learn` needs."""
        batch, count, kept = len(x), len(self.first), []
        maps = x.t().contiguous()
        for k, block in enumerate(self.blocks):
            inputs = block.corners(maps.view(-1, block.side, block.side, batch))
            if k == 0:
                inputs = inputs.reshape(sum(self.inputs), -1)
                convolved = x.new_empty(count, MAPS, inputs.shape[1])
                parts = zip(self.biases[0].value, self.first, inputs.split(self.inputs), convolved, strict=True)
                for bias, weight, part, out in parts:
                    torch.addmm(bias[:, None], weight.value, part, out=out)
            else:
                inputs = inputs.reshape(count, 4 * MAPS, -1)
                convolved = torch.baddbmm(self.biases[k].value[:, :, None], self.weights[k - 1].value, inputs)
            convolved = convolved.view(count, MAPS, 4, -1)
            maps = convolved.amax(2).relu_()
            kept.append((inputs, convolved, maps))
        return maps.view(-1, batch).t(), kept

    def learn(self, d: Tensor, kept: Any) -> None:
        """Set the gradients for the loss's derivative d (B, 32 K) by the maps."""
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


class Descent:
    """The way down of one member's weights: its steps, and what they remember.

    Parameters
    ----------
    member
        On its device; what is frozen stays. From now on its parameters are views of one buffer, and change in place.
    lr
        Adam's learning rate of the last layer.
    layer_decay
        The rate of each part is so many times that of the one behind it: last layer, hidden layers, fusion, branches
        (Howard and Ruder 2018, ULMFiT, arXiv 1801.06146).
    loss
        "mse", or "huber" with delta 1; a batch's mean.
    l2_sp
        Half of it times the squared distance to where the weights are now is added to the loss
        (Li, Grandvalet and Davoine 2018, arXiv 1802.01483).

    Attributes
    ----------
    adam
        Its steps, over pieces of the buffer from the branches to the last layer, one for each rate.
    """

    def __init__(
        self, member: Member, lr: float, layer_decay: float = 1.0, loss: Literal["mse", "huber"] = "mse", l2_sp: float = 0.0
    ) -> None:
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
        halves = zip(*(half.split(sizes) for half in buffer), shapes, strict=True)
        pieces = (Pair(value.view(shape), gradient.view(shape)) for value, gradient, shape in halves)
        with torch.no_grad():
            banks = zip(kinds, runs, in_banks, strict=True)
            self.banks = [kind(member, run, *islice(pieces, len(each))) for kind, run, each in banks]
            self.linear = [_Linear(layer, next(pieces), next(pieces)) for layer in linear]
        self.widths = [sum(channels * size**2 for _, channels, size in run) for run in runs]
        self.maps = [MAPS * len(run) for run in runs]
        self.dropout = [round(layer.p * LEVELS) for layer in member.classifier if isinstance(layer, nn.Dropout)]

        # Branches, fusion, hidden layers, last layer: what is trained is the buffer's end.
        self.learning = sum(layer.weight.requires_grad for layer in linear)
        parts = zip((sizes[:-8], sizes[-8:-6], sizes[-6:-2], sizes[-2:]), (0, 0, 1, 3), strict=True)
        lengths = [sum(part) for part, k in parts if linear[k].weight.requires_grad]
        self.trained = Pair(*(half[len(half) - sum(lengths) :] for half in buffer))
        rates = [lr * layer_decay**k for k in reversed(range(len(lengths)))]
        if layer_decay == 1:
            lengths, rates = [sum(lengths)], [lr]
        values, gradients = (list(half.split(lengths)) for half in self.trained)
        self.adam = Adam(values, gradients, rates)
        self.loss, self.l2_sp, self.start = loss, l2_sp, self.trained.value.clone() if l2_sp else None

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.trained.value.device

    @torch.no_grad()
    def epoch(self, encoded: Tensor, output: Tensor, order: Tensor, batch_size: int) -> Tensor:
        """Take one pass over encoded inputs (n, E) and outputs (n,) in the given order; return each batch's loss, (batches,).

        Nothing in it waits for the device. Of several processes (`crew`) each takes its share of every batch.
        """
        batches = order.split(batch_size)
        losses = output.new_empty(len(batches))
        for k, rows in enumerate(batches):
            mine = rows[crew.share(len(rows))]
            losses[k] = self.gradients(encoded[mine], output[mine], len(rows))
            self.adam.step()
        return losses

    @torch.no_grad()
    def outputs(self, encoded: Tensor) -> Tensor:
        """Return (n,) for encoded inputs (n, E), without dropout."""
        batches = []
        for x in encoded.split(max(1, EVALUATED_AT_ONCE[encoded.device.type] // encoded.shape[1])):
            hidden = self.linear[2].forward(self._front(x)[0].relu_()).relu_()
            batches.append(self.linear[3].forward(hidden)[:, 0])
        return torch.cat(batches)

    def _front(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Return what the first ReLU of the head takes, (B, 256), for inputs (B, E).

        And what is to be called with the loss's derivative by it: it sets the gradients of what is in front of that ReLU.
        """
        bank, (fusion, first) = self.banks[0], self.linear[:2]
        if len(self.banks) == 1 and isinstance(bank, _Cells) and len(x) >= FOLDED_FROM:
            return self._folded(x, bank)
        made = [bank.forward(part) for bank, part in zip(self.banks, x.split(self.widths, 1), strict=True)]
        maps = torch.cat([each for each, _ in made], 1)
        fused = fusion.forward(maps)

        def learn(d: Tensor) -> None:
            first.learn(d, fused)
            if self.learning == 4:
                d = first.backward(d)
                fusion.learn(d, maps)
                parts = fusion.backward(d).split(self.maps, 1)
                for bank, part, (_, kept) in zip(self.banks, parts, made, strict=True):
                    bank.learn(part, kept)

        return first.forward(fused), learn

    def _folded(self, x: Tensor, bank: _Cells) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Do the same where all is affine: branches, fusion and the first layer are multiplied out to one matrix (256, E)."""
        fusion, first = self.linear[:2]
        weight = fusion.weight.value @ bank.weight.value
        bias = torch.addmv(fusion.bias.value, fusion.weight.value, bank.bias.value)
        whole = torch.addmv(first.bias.value, first.weight.value, bias)

        def learn(d: Tensor) -> None:
            dweight, dbias = d.t() @ x, d.sum(0)
            torch.mm(dweight, weight.t(), out=first.weight.gradient).addr_(dbias, bias)
            first.bias.gradient.copy_(dbias)
            if self.learning == 4:
                dweight, dbias = first.weight.value.t() @ dweight, first.weight.value.t() @ dbias
                torch.mm(dweight, bank.weight.value.t(), out=fusion.weight.gradient).addr_(dbias, bank.bias.value)
                fusion.bias.gradient.copy_(dbias)
                torch.mm(fusion.weight.value.t(), dweight, out=bank.weight.gradient).mul_(bank.inside)
                torch.mv(fusion.weight.value.t(), dbias, out=bank.bias.gradient)

        return torch.addmm(whole, x, (first.weight.value @ weight).t()), learn

    def gates(self, batch: int) -> list[Tensor]:
        """Draw what the hidden layers' units (B, 256) and (B, 128) are multiplied with: 0, or what keeps their mean."""
        widths = [layer.weight.value.shape[0] for layer in self.linear[1:3]]
        bits = torch.empty(batch * sum(widths) // 4, dtype=torch.int64, device=self.device)
        levels = bits.random_(-(2**63), None).view(torch.int16).view(batch, -1).split(widths, 1)
        return [
            (each >= dropped - LEVELS // 2).to(self.trained.value.dtype).mul_(LEVELS / (LEVELS - dropped))
            for each, dropped in zip(levels, self.dropout, strict=True)
        ]

    def gradients(self, x: Tensor, output: Tensor, batch: int) -> Tensor:
        """Set the gradients of the loss of one batch of so many profiles, of which this process has inputs (B, E) and outputs (B,).

        Return the loss.
        """
        front, learn = self._front(x)
        gates = [gate[crew.share(batch)] for gate in self.gates(batch)]  # all processes draw alike
        first = front.relu_().mul_(gates[0])
        second = self.linear[2].forward(first).relu_().mul_(gates[1])
        predicted = self.linear[3].forward(second)[:, 0]
        error = predicted - output
        if self.loss == "mse":
            value, d = functional.mse_loss(predicted, output, reduction="sum"), error * (2 / batch)
        else:
            value, d = functional.huber_loss(predicted, output, reduction="sum"), error.clamp(-1, 1) / batch
        value, d = value / batch, d[:, None]
        self.linear[3].learn(d, second)
        if self.learning > 1:
            d = self.linear[3].backward(d).mul_(gates[1]).mul_(second.sign())
            self.linear[2].learn(d, first)
            learn(self.linear[2].backward(d).mul_(gates[0]).mul_(first.sign()))
        value = self._added_up(value)
        if self.start is not None:
            gone = self.trained.value - self.start
            value = value + self.l2_sp / 2 * gone.dot(gone)
            self.trained.gradient.add_(gone, alpha=self.l2_sp)
        return value

    def _added_up(self, value: Tensor) -> Tensor:
        """Add the gradients and a loss up over all processes, in one message; return the loss."""
        if crew.size() > 1:
            crew.add_up(message := torch.cat([self.trained.gradient, value[None]]))
            self.trained.gradient.copy_(message[:-1])
            value = message[-1]
        return value
