"""What bench/gpu.py runs of torch: BERT with scaled_dot_product_attention, compiled; a JSON object a line.

The parts of the model are compiled one by one, and all layers by one program (torch's "regional compilation"): it takes
a fraction of the time that the whole model does, of which a size with `whole` says what else it gives.
"""

import math
import sys
import time
from typing import Any

from gpu_shared import Size, asked, each, flops_per_token, rates, say, slots, timed

try:
    import torch
    from torch import nn
    from torch.nn import functional as f
except ImportError:
    say(not_here="torch is not installed")
    sys.exit()

SIZES = {"tiny": (2, 128, 2), "base": (12, 768, 12), "large": (24, 1_024, 16)}  # layers, width, heads
DROPOUT = 0.1
NEEDED = 25  # seconds to compile and measure a size
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
NAME = torch.cuda.get_device_name() if CUDA else "cpu"


class Embed(nn.Module):
    """Tokens and places i64[B,L] as f[B,L,D]."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width, 1e-12)

    def forward(self, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return f.dropout(self.norm(self.tokens(ids) + self.places(places)), DROPOUT)


class Layer(nn.Module):
    """One of BERT's layers, f[B,L,D] to f[B,L,D]; `mask` bool[1,1,L,L] where rows are packed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = f.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(x.shape)
        x = self.first(x + f.dropout(self.out(mixed), DROPOUT))
        return self.second(x + f.dropout(self.down(f.gelu(self.up(x))), DROPOUT))


class Head(nn.Module):
    """The loss at the places `masked` i64[B,M], whose tokens were `targets` i64[B,M]; `table` is that of the tokens."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.transform, self.norm = nn.Linear(width, width), nn.LayerNorm(width, 1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab))

    def forward(
        self, x: torch.Tensor, table: torch.Tensor, masked: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        x = x.gather(1, masked[:, :, None].expand(-1, -1, x.shape[-1]))
        x = self.norm(f.gelu(self.transform(x)))
        return f.cross_entropy((x @ table.T + self.bias).float().flatten(0, 1), targets.flatten())


class Bert(nn.Module):
    """The masked language model of a preset, without types and pooler."""

    def __init__(self, preset: str, vocab: int) -> None:
        super().__init__()
        layers, width, heads = SIZES[preset]
        self.embed, self.head = Embed(vocab, width), Head(vocab, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))

    def forward(
        self,
        ids: torch.Tensor,
        places: torch.Tensor,
        mask: torch.Tensor | None,
        masked: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        x = self.embed(ids, places)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x, self.embed.tokens.weight, masked, targets)


def measure(size: Size, toy: bool) -> dict[str, Any]:
    """Tokens a second of training one size, all of them real."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # else it takes the sizes of a program that it has met twice for variables
    layers, width, _ = SIZES[size.model]
    vocab = 512 if toy else 30_522
    with torch.device(DEVICE):
        model, batch = Bert(size.model, vocab), inputs(size, vocab)
    for part in (model,) if size.whole else (model.embed, *model.layers, model.head):
        part.compile(dynamic=False, fullgraph=True, backend="aot_eager" if toy else "inductor")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def steps(count: int) -> float:
        for _ in range(count):
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = model(*batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()  # which waits for the device

    began = time.perf_counter()
    loss = steps(1)
    compiled = time.perf_counter() - began
    seconds, spread = timed(steps, toy=toy)
    read = slots(size.length) / size.length
    sizes = (layers, width, vocab, size.length, read)
    rate = rates(size, seconds, spread, flops_per_token(*sizes), NAME, ours=flops_per_token(*sizes, read))
    how = {"whole": size.whole, "loss": round(loss, 3), "right": math.isfinite(loss)}
    return how | rate | {"compile_seconds": round(compiled, 1)}


def inputs(size: Size, vocab: int) -> tuple[torch.Tensor | None, ...]:
    """A batch of random tokens, all real: ids, places, mask, masked, targets."""
    place = torch.arange(size.length)
    sequence = place // (size.length // size.sequences)
    return (
        torch.randint(vocab, (size.rows, size.length)),
        (place % (size.length // size.sequences)).expand(size.rows, -1),
        (sequence[:, None] == sequence)[None, None] if size.sequences > 1 else None,
        torch.randint(size.length, (size.rows, slots(size.length))),
        torch.randint(vocab, (size.rows, slots(size.length))),
    )


def too_large(error: Exception) -> bool:
    """Whether the memory of the device did not do."""
    return isinstance(error, torch.cuda.OutOfMemoryError)


if __name__ == "__main__":
    options = asked()
    say(device=NAME, torch=torch.__version__)
    each(options.sizes, options.until, 0 if options.toy else NEEDED, lambda s: measure(s, options.toy), too_large)
