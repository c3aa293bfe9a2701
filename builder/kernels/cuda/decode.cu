// A detector's output into candidates: boxes above the score threshold, as keys.
//
// The output holds ROWS = 4 + CLASSES numbers for each of ANCHORS boxes: centre x, centre y,
// width, height in pixels of the network's input, then class scores; O_ROW and O_ANCHOR are the
// elements from one row and one anchor to the next.
//
// Candidates: a count (32 bits), 12 bytes unused, then 64-bit keys, in no order. A smaller key is
// a better box: the score's bits turned so that higher scores come first, then
// anchor * CLASSES + class.
__device__ __forceinline__ float output_at(const O* output, u32 row, u32 anchor) {
  return O_F32(output[(u64)row * O_ROW + (u64)anchor * O_ANCHOR]);
}

struct Box {
  float left, top, right, bottom;
};
// The box of an anchor; false when it has no area or is not finite.
__device__ __forceinline__ bool box_of(Box* box, const O* output, u32 anchor) {
  float x = output_at(output, 0, anchor), y = output_at(output, 1, anchor);
  float w = output_at(output, 2, anchor), h = output_at(output, 3, anchor);
  box->left = __fsub_rn(x, __fmul_rn(w, 0.5f)), box->top = __fsub_rn(y, __fmul_rn(h, 0.5f));
  box->right = __fadd_rn(x, __fmul_rn(w, 0.5f)), box->bottom = __fadd_rn(y, __fmul_rn(h, 0.5f));
  return w > 0.0f && h > 0.0f && finite(box->left) && finite(box->top) && finite(box->right) && finite(box->bottom);
}

__device__ __forceinline__ void add_candidate(u32* candidates, float score, u32 anchor, u32 label) {
  u32 at = atomicAdd(candidates, 1u);
  ((u64*)(candidates + 4))[at] = (u64)score_key(score) << 32 | (anchor * CLASSES + label);
}

// Output, candidates, the threshold's bits, and whether every class above it makes a box instead
// of an anchor's best one alone. Eight threads share an anchor; blocks of 32 anchors.
extern "C" __global__ void __launch_bounds__(256)
decode(const O* output, u32* candidates, u64 threshold_bits, u64 multi_label) {
  __shared__ float scores[8][33];
  __shared__ u32 labels[8][33];
  release_dependents();
  wait_for_producers();
  float threshold = __int_as_float((int)threshold_bits);
#if O_ANCHOR < O_ROW
  u32 local = threadIdx.x % 32, part = threadIdx.x / 32;
#else
  u32 local = threadIdx.x / 8, part = threadIdx.x % 8;
#endif
  u32 anchor = blockIdx.x * 32 + local;
  bool inside = anchor < ANCHORS;
  if (multi_label) {
    if (!inside) return;
    Box box;
    int sane = -1;
    for (u32 c = part; c < CLASSES; c += 8) {
      float s = output_at(output, 4 + c, anchor);
      if (s > threshold && finite(s)) {
        if (sane < 0) sane = box_of(&box, output, anchor);
        if (sane) add_candidate(candidates, s, anchor, c);
      }
    }
    return;
  }
  float best = __int_as_float(0xff800000);
  u32 label = 0;
  if (inside) {
#pragma unroll 4
    for (u32 c = part; c < CLASSES; c += 8) {
      float s = output_at(output, 4 + c, anchor);
      if (s > best) best = s, label = c;
    }
  }
  scores[part][local] = best, labels[part][local] = label;
  __syncthreads();
  if (part != 0 || !inside) return;
  // Of equal scores the first class wins.
#pragma unroll
  for (int i = 1; i < 8; i++) {
    float s = scores[i][local];
    u32 l = labels[i][local];
    if (s > best || (s == best && l < label)) best = s, label = l;
  }
  Box box;
  if (best > threshold && finite(best) && box_of(&box, output, anchor)) add_candidate(candidates, best, anchor, label);
}
