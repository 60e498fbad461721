#include "kernels/attention/device_attention.h"
#include "kernels/attention/device_attention_shared.cuh"
#include "kernels/common/cuda_launch.h"

namespace outrider::kernels {
namespace {

using device::ClampF16;
using device::LetLaterKernelsStart;
using device::WaitForEarlierKernels;

// ---- rope and append: a block some heads of a row, a thread a pair of elements

__global__ void __launch_bounds__(256) RopeAppend(const DeviceRopeAppendArgs args) {
  LetLaterKernelsStart();
  const int row = blockIdx.x;
  const int head_dim = args.layout.head_dim, num_kv_heads = args.layout.num_kv_heads;
  const int num_pairs = head_dim / 2, num_turned = args.rotary_dim / 2;
  const int num_rope_heads = args.num_heads + num_kv_heads;
  // The step's inputs are there since before its first kernel: they are on their way while the one ahead ends.
  const int kv_slot = device::LoadInput(args.kv_slots + row);
  const int64_t block = kv_slot / args.layout.block_size;
  const int slot = kv_slot % args.layout.block_size;
  const float* const cosines =
      args.cos_sin + static_cast<int64_t>(device::LoadInput(args.positions + row)) * args.rotary_dim;
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  const int head = i / num_pairs, pair = i % num_pairs;
  const bool is_turned = head < num_rope_heads && pair < num_turned;
  float c = 1, s = 0;
  if (is_turned) {
    c = cosines[pair];
    s = cosines[num_turned + pair];
  }
  WaitForEarlierKernels();

  uint16_t* const qkv = args.qkv + row * args.qkv_stride;
  __half* const k_storage = static_cast<__half*>(args.k_storage);
  __half* const v_storage = static_cast<__half*>(args.v_storage);
  const auto value = [&](int index) { return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(qkv)[index]); };
  if (i < (num_rope_heads + num_kv_heads) * num_pairs) {
    const auto [first, second] = device::ElementsOfPair(pair, num_turned, args.interleaved);
    float2 v = make_float2(value(head * head_dim + first), value(head * head_dim + second));
    if (is_turned) v = device::Turned(v, make_float2(c, s));
    const __half a16 = __float2half_rn(ClampF16(v.x)), b16 = __float2half_rn(ClampF16(v.y));
    if (head < args.num_heads) {
      reinterpret_cast<__half*>(qkv)[head * head_dim + first] = a16;
      reinterpret_cast<__half*>(qkv)[head * head_dim + second] = b16;
    } else if (kv_slot >= 0) {
      const bool is_key = head < num_rope_heads;
      const int kv_head = is_key ? head - args.num_heads : head - num_rope_heads;
      __half* const to = (is_key ? k_storage : v_storage) + args.layout.slot(block, kv_head, slot);
      to[args.layout.place(slot, first)] = a16;
      to[args.layout.place(slot, second)] = b16;
    }
  }
}

}  // namespace

KernelError DeviceKvLayout::Check() const {
  const bool power_of_two = block_size > 0 && (block_size & (block_size - 1)) == 0;
  const bool known_head = head_dim == 16 || head_dim == 32 || head_dim == 64 || head_dim == 128;
  if (!power_of_two || block_size < 16 || block_size > kAttentionRangeSize || num_blocks < 0 || num_kv_heads < 1 ||
      !known_head) {
    return KernelError::kInvalidShape;
  }
  return KernelError::kOk;
}

int64_t DeviceAttentionWorkspaceBytes(const DeviceKvLayout& layout, int64_t num_partials_max) {
  const int64_t partial_bytes = int64_t{DeviceAttentionPlan::kNarrowPairs} * (layout.head_dim + 2) * 4;
  return num_partials_max * (partial_bytes + static_cast<int64_t>(sizeof(int32_t)));
}

namespace {

KernelError CheckRope(const DeviceRopeAppendArgs& args) {
  if (args.layout.Check() != KernelError::kOk || args.num_rows < 0 || args.num_heads < 0 || args.rotary_dim % 2 != 0 ||
      args.rotary_dim > args.layout.head_dim ||
      args.qkv_stride < int64_t{args.num_heads + 2 * args.layout.num_kv_heads} * args.layout.head_dim) {
    return KernelError::kInvalidShape;
  }
  const bool missing = args.qkv == nullptr || args.positions == nullptr || args.kv_slots == nullptr ||
                       args.k_storage == nullptr || args.v_storage == nullptr;
  return missing && args.num_rows > 0 ? KernelError::kNullPointer : KernelError::kOk;
}

}  // namespace

KernelError DeviceRopeAppend(const DeviceRopeAppendArgs& args, Stream stream) {
  const KernelError error = CheckRope(args);
  if (error != KernelError::kOk || args.num_rows == 0) return error;
  const int num_pairs = (args.num_heads + 2 * args.layout.num_kv_heads) * args.layout.head_dim / 2;
  return Launch(RopeAppend,
                {.grid = dim3(static_cast<unsigned>(args.num_rows), static_cast<unsigned>((num_pairs + 255) / 256)),
                 .block = 256},
                stream, args);
}

namespace {

KernelError Attend(const DeviceAttentionArgs& args, const DeviceRopeAppendArgs* rope, Stream stream) {
  if (args.layout.Check() != KernelError::kOk || args.num_heads < 1 || args.num_heads % args.layout.num_kv_heads != 0 ||
      args.sliding_window < 0) {
    return KernelError::kInvalidShape;
  }
  if (args.plan->tiles().empty()) return KernelError::kOk;
  if (args.q == nullptr || args.out == nullptr || args.tiles == nullptr || args.block_tables == nullptr ||
      args.workspace == nullptr) {
    return KernelError::kNullPointer;
  }
  device::AttentionView view{.q = args.q,
                             .out = reinterpret_cast<__nv_bfloat16*>(args.out),
                             .q_stride = args.q_stride,
                             .out_stride = args.out_stride,
                             .num_heads = args.num_heads,
                             .group = args.num_heads / args.layout.num_kv_heads,
                             .scale = args.scale,
                             .sliding_window = args.sliding_window,
                             .layout = args.layout,
                             .k_storage = static_cast<const __half*>(args.k_storage),
                             .v_storage = static_cast<const __half*>(args.v_storage),
                             .tiles = args.tiles,
                             .block_tables = args.block_tables};
  view.partial_values = static_cast<float*>(args.workspace);
  view.partial_sums =
      reinterpret_cast<float2*>(view.partial_values + args.num_partials_max * 16 * args.layout.head_dim);
  view.arrivals = reinterpret_cast<int32_t*>(view.partial_sums + args.num_partials_max * 16);
  if (rope != nullptr) {
    view.rope = {.kv_slots = rope->kv_slots,
                 .cos_sin = rope->cos_sin,
                 .rotary_dim = rope->rotary_dim,
                 .interleaved = rope->interleaved,
                 .k_storage = static_cast<__half*>(rope->k_storage),
                 .v_storage = static_cast<__half*>(rope->v_storage)};
  }
  const DeviceAttentionPlan& plan = *args.plan;
  if (plan.num_narrow() > 0) {
    const KernelError error = plan.kernel() == DeviceAttentionPlan::Kernel::kBlocks
                                  ? device::LaunchAttentionBlocks(args, view, rope != nullptr, stream)
                                  : device::LaunchAttentionWarps(args, view, stream);
    if (error != KernelError::kOk) return error;
  }
  if (static_cast<size_t>(plan.num_narrow()) == plan.tiles().size()) return KernelError::kOk;
  view.tiles += plan.num_narrow();
  return device::LaunchAttentionPrompts(args, view, stream);
}

}  // namespace

KernelError DeviceAttention(const DeviceAttentionArgs& args, Stream stream) { return Attend(args, nullptr, stream); }

KernelError DeviceRopeAppendAttend(const DeviceRopeAppendArgs& rope, const DeviceAttentionArgs& args, Stream stream) {
  if (args.plan->whole_spans() && args.plan->num_rows() == rope.num_rows) {
    const KernelError error = CheckRope(rope);
    return error != KernelError::kOk ? error : Attend(args, &rope, stream);
  }
  const KernelError error = DeviceRopeAppend(rope, stream);
  return error != KernelError::kOk ? error : DeviceAttention(args, stream);
}

}  // namespace outrider::kernels
