// wgmma of F16 operands with fp32 sums (PTX ISA, "Asynchronous warpgroup level matrix instructions"), as attention
// wants it: 64 pairs of row and head by positions, or by columns of values, 16 steps of a sum at a time.
//
// Operands in shared memory are rows of up to 64 elements, 16-byte pieces swapped about as PieceOffset says, which is
// what wgmma calls 128-, 64- or 32-byte swizzle.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace outrider::kernels::device {

// Of rows of kColumns elements, eight rows after eight. atom_stride: bytes between one kColumns and the next where the
// columns are not what is summed over (values).
template <int kColumns>
__device__ __forceinline__ uint64_t F16Descriptor(uint32_t address, uint32_t atom_stride) {
  constexpr uint64_t kSwizzle = kColumns == 64 ? 1 : kColumns == 32 ? 2 : 3;
  static_assert(kColumns == 64 || kColumns == 32 || kColumns == 16);
  return static_cast<uint64_t>(address >> 4 & 0x3FFF) | static_cast<uint64_t>(atom_stride >> 4 & 0x3FFF) << 16 |
         uint64_t{8 * kColumns * 2 >> 4} << 32 | kSwizzle << 62;
}

// scores[16 kPart + n][e] += q (64 x 16) * keys (128 positions x 16) transposed. Lane = 4 g + t of warp w holds in
// scores[n][e] pair 16 w + g + e / 2 * 8, position 8 n + 2 t + e % 2.
template <int kPart>
__device__ __forceinline__ void MultiplyKeys(float (&scores)[32][4], uint64_t q, uint64_t keys) {
  asm volatile(
      "{\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, 1, 1, 1, 0, 0;\n}\n"
      : "+f"(scores[16 * kPart + 0][0]), "+f"(scores[16 * kPart + 0][1]), "+f"(scores[16 * kPart + 0][2]),
        "+f"(scores[16 * kPart + 0][3]), "+f"(scores[16 * kPart + 1][0]), "+f"(scores[16 * kPart + 1][1]),
        "+f"(scores[16 * kPart + 1][2]), "+f"(scores[16 * kPart + 1][3]), "+f"(scores[16 * kPart + 2][0]),
        "+f"(scores[16 * kPart + 2][1]), "+f"(scores[16 * kPart + 2][2]), "+f"(scores[16 * kPart + 2][3]),
        "+f"(scores[16 * kPart + 3][0]), "+f"(scores[16 * kPart + 3][1]), "+f"(scores[16 * kPart + 3][2]),
        "+f"(scores[16 * kPart + 3][3]), "+f"(scores[16 * kPart + 4][0]), "+f"(scores[16 * kPart + 4][1]),
        "+f"(scores[16 * kPart + 4][2]), "+f"(scores[16 * kPart + 4][3]), "+f"(scores[16 * kPart + 5][0]),
        "+f"(scores[16 * kPart + 5][1]), "+f"(scores[16 * kPart + 5][2]), "+f"(scores[16 * kPart + 5][3]),
        "+f"(scores[16 * kPart + 6][0]), "+f"(scores[16 * kPart + 6][1]), "+f"(scores[16 * kPart + 6][2]),
        "+f"(scores[16 * kPart + 6][3]), "+f"(scores[16 * kPart + 7][0]), "+f"(scores[16 * kPart + 7][1]),
        "+f"(scores[16 * kPart + 7][2]), "+f"(scores[16 * kPart + 7][3]), "+f"(scores[16 * kPart + 8][0]),
        "+f"(scores[16 * kPart + 8][1]), "+f"(scores[16 * kPart + 8][2]), "+f"(scores[16 * kPart + 8][3]),
        "+f"(scores[16 * kPart + 9][0]), "+f"(scores[16 * kPart + 9][1]), "+f"(scores[16 * kPart + 9][2]),
        "+f"(scores[16 * kPart + 9][3]), "+f"(scores[16 * kPart + 10][0]), "+f"(scores[16 * kPart + 10][1]),
        "+f"(scores[16 * kPart + 10][2]), "+f"(scores[16 * kPart + 10][3]), "+f"(scores[16 * kPart + 11][0]),
        "+f"(scores[16 * kPart + 11][1]), "+f"(scores[16 * kPart + 11][2]), "+f"(scores[16 * kPart + 11][3]),
        "+f"(scores[16 * kPart + 12][0]), "+f"(scores[16 * kPart + 12][1]), "+f"(scores[16 * kPart + 12][2]),
        "+f"(scores[16 * kPart + 12][3]), "+f"(scores[16 * kPart + 13][0]), "+f"(scores[16 * kPart + 13][1]),
        "+f"(scores[16 * kPart + 13][2]), "+f"(scores[16 * kPart + 13][3]), "+f"(scores[16 * kPart + 14][0]),
        "+f"(scores[16 * kPart + 14][1]), "+f"(scores[16 * kPart + 14][2]), "+f"(scores[16 * kPart + 14][3]),
        "+f"(scores[16 * kPart + 15][0]), "+f"(scores[16 * kPart + 15][1]), "+f"(scores[16 * kPart + 15][2]),
        "+f"(scores[16 * kPart + 15][3])
      : "l"(q), "l"(keys));
}

// next[n][e] += weights (64 x 16 positions) * values (16 positions x head_dim), values as they lie: a row a position.
__device__ __forceinline__ void MultiplyValues(float (&next)[2][4], const uint32_t (&weights)[4], uint64_t values) {
  asm volatile(
      "{\nwgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7"
      "}, {%8, %9, %10, %11}, %12, 1, 1, 1, 1;\n}\n"
      : "+f"(next[0][0]), "+f"(next[0][1]), "+f"(next[0][2]), "+f"(next[0][3]), "+f"(next[1][0]), "+f"(next[1][1]),
        "+f"(next[1][2]), "+f"(next[1][3])
      : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "l"(values));
}

__device__ __forceinline__ void MultiplyValues(float (&next)[4][4], const uint32_t (&weights)[4], uint64_t values) {
  asm volatile(
      "{\nwgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
      "}, {%16, %17, %18, %19}, %20, 1, 1, 1, 1;\n}\n"
      : "+f"(next[0][0]), "+f"(next[0][1]), "+f"(next[0][2]), "+f"(next[0][3]), "+f"(next[1][0]), "+f"(next[1][1]),
        "+f"(next[1][2]), "+f"(next[1][3]), "+f"(next[2][0]), "+f"(next[2][1]), "+f"(next[2][2]), "+f"(next[2][3]),
        "+f"(next[3][0]), "+f"(next[3][1]), "+f"(next[3][2]), "+f"(next[3][3])
      : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "l"(values));
}

__device__ __forceinline__ void MultiplyValues(float (&next)[8][4], const uint32_t (&weights)[4], uint64_t values) {
  asm volatile(
      "{\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n}\n"
      : "+f"(next[0][0]), "+f"(next[0][1]), "+f"(next[0][2]), "+f"(next[0][3]), "+f"(next[1][0]), "+f"(next[1][1]),
        "+f"(next[1][2]), "+f"(next[1][3]), "+f"(next[2][0]), "+f"(next[2][1]), "+f"(next[2][2]), "+f"(next[2][3]),
        "+f"(next[3][0]), "+f"(next[3][1]), "+f"(next[3][2]), "+f"(next[3][3]), "+f"(next[4][0]), "+f"(next[4][1]),
        "+f"(next[4][2]), "+f"(next[4][3]), "+f"(next[5][0]), "+f"(next[5][1]), "+f"(next[5][2]), "+f"(next[5][3]),
        "+f"(next[6][0]), "+f"(next[6][1]), "+f"(next[6][2]), "+f"(next[6][3]), "+f"(next[7][0]), "+f"(next[7][1]),
        "+f"(next[7][2]), "+f"(next[7][3])
      : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "l"(values));
}

__device__ __forceinline__ void MultiplyValues(float (&next)[16][4], const uint32_t (&weights)[4], uint64_t values) {
  asm volatile(
      "{\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n}\n"
      : "+f"(next[0][0]), "+f"(next[0][1]), "+f"(next[0][2]), "+f"(next[0][3]), "+f"(next[1][0]), "+f"(next[1][1]),
        "+f"(next[1][2]), "+f"(next[1][3]), "+f"(next[2][0]), "+f"(next[2][1]), "+f"(next[2][2]), "+f"(next[2][3]),
        "+f"(next[3][0]), "+f"(next[3][1]), "+f"(next[3][2]), "+f"(next[3][3]), "+f"(next[4][0]), "+f"(next[4][1]),
        "+f"(next[4][2]), "+f"(next[4][3]), "+f"(next[5][0]), "+f"(next[5][1]), "+f"(next[5][2]), "+f"(next[5][3]),
        "+f"(next[6][0]), "+f"(next[6][1]), "+f"(next[6][2]), "+f"(next[6][3]), "+f"(next[7][0]), "+f"(next[7][1]),
        "+f"(next[7][2]), "+f"(next[7][3]), "+f"(next[8][0]), "+f"(next[8][1]), "+f"(next[8][2]), "+f"(next[8][3]),
        "+f"(next[9][0]), "+f"(next[9][1]), "+f"(next[9][2]), "+f"(next[9][3]), "+f"(next[10][0]), "+f"(next[10][1]),
        "+f"(next[10][2]), "+f"(next[10][3]), "+f"(next[11][0]), "+f"(next[11][1]), "+f"(next[11][2]),
        "+f"(next[11][3]), "+f"(next[12][0]), "+f"(next[12][1]), "+f"(next[12][2]), "+f"(next[12][3]),
        "+f"(next[13][0]), "+f"(next[13][1]), "+f"(next[13][2]), "+f"(next[13][3]), "+f"(next[14][0]),
        "+f"(next[14][1]), "+f"(next[14][2]), "+f"(next[14][3]), "+f"(next[15][0]), "+f"(next[15][1]),
        "+f"(next[15][2]), "+f"(next[15][3])
      : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "l"(values));
}

}  // namespace outrider::kernels::device
