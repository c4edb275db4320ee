# SPDX-License-Identifier: MIT
"""Operations as PyTorch offers them, at the shapes of our benches: what a user would call instead.

usage: python3 bench/peers/operations.py [--seconds 0.5]

Prints a line for each: name of our bench, milliseconds, TFLOP/s, and who computed it. Attention goes through
scaled_dot_product_attention with cuDNN's kernel and with FlashAttention's, products through cuBLASLt and CUTLASS. What
an installed version cannot do is printed with its reason.
"""
import argparse
import functools

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def seconds_of(work, least):
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times, total = [], 0.0
    while total < least or len(times) < 5:
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
        total += times[-1]
    return sorted(times)[len(times) // 2]


def report(name, who, flops, least, work):
    try:
        took = seconds_of(work, least)
        print(f"{name:58s} {took * 1e3:9.3f} ms {flops / took / 1e12:8.1f} TFLOP/s  {who}", flush=True)
    except Exception as error:  # a version that lacks it says so in many ways
        print(f"{name:58s} not run: {who}: {str(error).splitlines()[0][:120]}", flush=True)


def attention(name, batch, length, heads, least):
    """Causal, queries and keys of width 192, values of width 128."""
    flops = 2 * batch * heads * (192 + 128) * length * (length + 1) / 2
    make = functools.partial(torch.randn, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    q, k = make(batch, heads, length, 192), make(batch, heads, length, 192)
    v, dy = make(batch, heads, length, 128), torch.randn(batch, heads, length, 128, device="cuda", dtype=torch.bfloat16)
    for backend, who in ((SDPBackend.CUDNN_ATTENTION, "cuDNN"), (SDPBackend.FLASH_ATTENTION, "FlashAttention 2")):

        def forward():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        def forward_alone():
            with torch.no_grad():
                forward()

        report(f"mla_attention.forward {name}", who, flops, least, forward_alone)
        try:
            y = forward()
        except RuntimeError:
            continue
        report(f"mla_attention.backward {name}", who, 2.5 * flops, least,
               lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True))


def grouped(name, groups, rows, k, n, least):
    flops = 2 * groups * rows * k * n
    x = torch.randn(groups * rows, k, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(groups, n, k, device="cuda", dtype=torch.bfloat16)
    dy = torch.randn(groups * rows, n, device="cuda", dtype=torch.bfloat16)
    ends = torch.arange(1, groups + 1, device="cuda", dtype=torch.int32) * rows
    report(f"grouped_gemm.forward {name}", "grouped_mm", flops, least,
           lambda: torch._grouped_mm(x, w.transpose(-2, -1), offs=ends))
    report(f"grouped_gemm.data {name}", "grouped_mm", flops, least, lambda: torch._grouped_mm(dy, w, offs=ends))
    report(f"grouped_gemm.weights {name}", "grouped_mm (output in bf16)", flops, least,
           lambda: torch._grouped_mm(dy.t(), x, offs=ends))
    if not hasattr(torch, "_scaled_grouped_mm"):
        return
    codes, weights = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
    row_scale = torch.ones(groups * rows, device="cuda")
    column_scale = torch.ones(groups, n, device="cuda")
    report(f"scaled_grouped_gemm.forward {name}", "scaled_grouped_mm (one scale a row)", flops, least,
           lambda: torch._scaled_grouped_mm(codes, weights.transpose(-2, -1), row_scale, column_scale, offs=ends,
                                            out_dtype=torch.bfloat16, use_fast_accum=True))


def scaled(name, tokens, k, n, least):
    """1 x 128 tiles times 128 x 128 tiles, which cuBLASLt has for Hopper."""
    flops = 2 * tokens * k * n
    a = torch.randn(tokens, k, device="cuda").to(torch.float8_e4m3fn)
    b = torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn)
    scale_a = torch.ones(k // 128, tokens, device="cuda").t()
    scale_b = torch.ones(n // 128, k // 128, device="cuda")
    report(f"scaled_gemm.forward {name}", "scaled_mm in tiles", flops, least,
           lambda: torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16))


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--seconds", type=float, default=0.5, help="of each measurement, at least")
    least = flags.parse_args().seconds
    if not torch.cuda.is_available():
        raise SystemExit("operations.py: there is no GPU")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    attention("compared", 1, 4096, 16, least)
    attention("step", 4, 4096, 16, least)
    attention("long_row", 1, 16384, 16, least)
    attention("v3", 1, 4096, 128, least)
    grouped("wide", 8, 4096, 7168, 4096, least)
    grouped("narrow", 8, 4096, 2048, 7168, least)
    grouped("small", 64, 1536, 2048, 2048, least)
    scaled("output", 4096, 16384, 7168, least)
    scaled("gate_up", 4096, 7168, 4096, least)
    scaled("down", 4096, 2048, 7168, least)


if __name__ == "__main__":
    main()
