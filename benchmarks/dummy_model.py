#!/usr/bin/env python3
"""Writes a GGUF file of the llama architecture with seeded random BF16 weights, so that speed can be measured in any shape
without a download. The weights say nothing; their scale is sane (1/64 to 1/32, either sign), so activations stay finite.

    benchmarks/dummy_model.py SHAPE FILE       SHAPE is one of those below
A tensor repeats one random buffer of 64 MiB from an offset of its own.
"""

import array
import math
import random
import struct
import sys

# layers, hidden, intermediate, heads, KV heads, head_dim, vocabulary, tied
SHAPES = {
    "llama-3.2-1b": (16, 2048, 8192, 32, 8, 64, 128256, True),
    "llama-3.1-8b": (32, 4096, 14336, 32, 8, 128, 128256, False),
    "llama-3.1-70b": (80, 8192, 28672, 64, 8, 128, 128256, False),
}
ALIGNMENT = 32
F32, BF16 = 0, 30
UINT32, FLOAT32, STRING = 4, 6, 8


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit("usage: dummy_model.py %s FILE" % "|".join(sorted(SHAPES)))
    layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, tied = SHAPES[sys.argv[1]]
    metadata = [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, sys.argv[1] + " with random weights"),
        ("llama.block_count", UINT32, layers),
        ("llama.context_length", UINT32, 8192),
        ("llama.embedding_length", UINT32, hidden),
        ("llama.feed_forward_length", UINT32, intermediate),
        ("llama.attention.head_count", UINT32, heads),
        ("llama.attention.head_count_kv", UINT32, kv_heads),
        ("llama.attention.key_length", UINT32, head_dim),
        ("llama.attention.value_length", UINT32, head_dim),
        ("llama.rope.dimension_count", UINT32, head_dim),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("llama.rope.freq_base", FLOAT32, 500000.0),
        ("llama.vocab_size", UINT32, vocab),
    ]
    tensors = [("token_embd.weight", (hidden, vocab), BF16)]
    for i in range(layers):
        blk = "blk.%d." % i
        tensors += [
            (blk + "attn_norm.weight", (hidden,), F32),
            (blk + "attn_q.weight", (hidden, heads * head_dim), BF16),
            (blk + "attn_k.weight", (hidden, kv_heads * head_dim), BF16),
            (blk + "attn_v.weight", (hidden, kv_heads * head_dim), BF16),
            (blk + "attn_output.weight", (heads * head_dim, hidden), BF16),
            (blk + "ffn_norm.weight", (hidden,), F32),
            (blk + "ffn_gate.weight", (hidden, intermediate), BF16),
            (blk + "ffn_up.weight", (hidden, intermediate), BF16),
            (blk + "ffn_down.weight", (intermediate, hidden), BF16),
        ]
    tensors.append(("output_norm.weight", (hidden,), F32))
    if not tied:
        tensors.append(("output.weight", (hidden, vocab), BF16))

    # Sign and mantissa at random, the exponent that of 1/64.
    size = 1 << 26
    bits = int.from_bytes(random.Random(1).randbytes(size), "little")
    bits &= int.from_bytes(b"\x7f\x80" * (size // 2), "little")
    bits |= int.from_bytes(b"\x80\x3c" * (size // 2), "little")
    buffer = memoryview(bits.to_bytes(size, "little"))

    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, kind, value in metadata:
        packed = text(value) if kind == STRING else struct.pack("<I" if kind == UINT32 else "<f", value)
        header += text(key) + struct.pack("<I", kind) + packed
    offset = 0
    sizes = []
    for name, shape, dtype in tensors:
        elements = math.prod(shape)
        sizes.append(elements * (2 if dtype == BF16 else 4))
        header += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", d) for d in shape)
        header += struct.pack("<IQ", dtype, offset)
        offset += -(-sizes[-1] // ALIGNMENT) * ALIGNMENT
    with open(sys.argv[2], "wb") as out:
        out.write(header)
        out.write(b"\0" * (-len(header) % ALIGNMENT))
        for index, ((_, shape, dtype), size) in enumerate(zip(tensors, sizes)):
            if dtype == F32:
                out.write(array.array("f", [1.0]) * shape[0])
            else:
                at = index * 65536 % len(buffer)
                left = size
                while left > 0:
                    piece = buffer[at:at + left]
                    out.write(piece)
                    left -= len(piece)
                    at = 0
            out.write(b"\0" * (-size % ALIGNMENT))


if __name__ == "__main__":
    main()
