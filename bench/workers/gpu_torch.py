"""What bench/gpu.py runs of torch: BERT with scaled_dot_product_attention, compiled; a JSON object a line."""

import argparse
import json
import time

SIZES = {"tiny": (2, 128, 2), "base": (12, 768, 12), "large": (24, 1_024, 16)}  # layers, width, heads
PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}


def main() -> None:
    """Steps of base and large at 128 and packed 512, as long as there is time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("torch",))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    try:
        import torch
    except ImportError:
        print(json.dumps({"not_here": "torch is not installed"}))
        return
    print(json.dumps({"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", "torch": torch.__version__}))  # fmt: skip  # noqa: E501
    sizes = [("tiny", 4, 128, 1)] if options.toy else [("base", 256, 128, 1), ("base", 64, 512, 4), ("large", 128, 128, 1), ("large", 32, 512, 4)]  # fmt: skip  # noqa: E501
    for preset, rows, length, sequences in sizes:
        if time.monotonic() > end - (0 if options.toy else 50):
            print(json.dumps({"model": preset, "batch": f"{rows} x {length}", "error": "no time was left"}), flush=True)
            continue
        print(json.dumps(measure(preset, rows, length, sequences, options.toy)), flush=True)


def measure(preset: str, rows: int, length: int, sequences: int, toy: bool) -> dict[str, object]:
    """Tokens a second of training one size, all of them real."""
    import torch
    from torch import nn
    from torch.nn import functional as f

    layers, width, heads = SIZES[preset]
    vocab, slots, dropout = 512 if toy else 30_522, round(0.15 * length) + 1, 0.1
    device = "cuda" if torch.cuda.is_available() else "cpu"

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.first, self.second = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
            mixed = f.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(x.shape)
            x = self.first(x + f.dropout(self.out(mixed), dropout))
            return self.second(x + f.dropout(self.down(f.gelu(self.up(x))), dropout))

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(512, width)
            self.norm, self.layers = nn.LayerNorm(width, 1e-12), nn.ModuleList(Layer() for _ in range(layers))
            self.transform, self.last = nn.Linear(width, width), nn.LayerNorm(width, 1e-12)
            self.bias = nn.Parameter(torch.zeros(vocab))

        def forward(self, ids, places, mask, masked, targets):  # noqa: ANN001, ANN202
            x = f.dropout(self.norm(self.tokens(ids) + self.places(places)), dropout)
            for layer in self.layers:
                x = layer(x, mask)
            x = x.gather(1, masked[:, :, None].expand(-1, -1, width))
            x = self.last(f.gelu(self.transform(x)))
            return f.cross_entropy((x @ self.tokens.weight.T + self.bias).float().flatten(0, 1), targets.flatten())

    torch.manual_seed(0)
    model = Bert().to(device)
    run = model if toy else torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    place = torch.arange(length, device=device)
    sequence = place // (length // sequences)
    mask = (sequence[:, None] == sequence)[None, None] if sequences > 1 else None
    batch = (
        torch.randint(vocab, (rows, length), device=device),
        (place % (length // sequences)).expand(rows, -1),
        mask,
        torch.randint(length, (rows, slots), device=device),
        torch.randint(vocab, (rows, slots), device=device),
    )

    def steps(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            with torch.autocast(device, torch.bfloat16):
                loss = run(*batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    compiled, count, took = steps(1), 2, 0.0
    while took < (0.1 if toy else 5):
        count *= 2
        took = steps(count)
    rate = rows * length * count / took
    flops = rate * flops_per_token(layers, width, vocab, length, slots / length)
    peak = PEAKS.get(torch.cuda.get_device_name()) if device == "cuda" else None
    work = {"mfu": round(flops / peak, 3)} if peak else {"tflops_per_second": float(f"{flops / 1e12:.3g}")}
    shape = f"{rows} x {length}" + (f", {sequences} packed" if sequences > 1 else "")
    return {"model": preset, "batch": shape, "tokens_per_second": round(rate), **work, "compile_seconds": round(compiled, 1)}  # fmt: skip  # noqa: E501


def flops_per_token(layers: int, width: int, vocab: int, length: int, masked: float) -> float:
    """As in bertjax.models.bert, without the pooler."""
    return 3.0 * (layers * (24 * width**2 + 4 * length * width) + masked * 2 * (width**2 + width * vocab))


if __name__ == "__main__":
    main()
