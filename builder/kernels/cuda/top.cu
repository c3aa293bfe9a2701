// The classes with the highest scores, best first, of equal ones the first: scores [CLASSES]
// into results as those of boxes (nms.cu), without the box. Scores that are not finite are
// passed over. One block.
extern "C" __global__ void __launch_bounds__(1024) top(const O* scores, u32* results) {
  __shared__ u64 best[32];
  release_dependents();
  wait_for_producers();
  u64 last = 0;
  u32 count = 0;
  for (; count < TOP; count++) {
    u64 mine = ~0ull;
    for (u32 c = threadIdx.x; c < CLASSES; c += 1024) {
      float s = O_F32(scores[(u64)c * O_ROW]);
      if (!finite(s)) continue;
      // Zeros of both signs are equal.
      u64 key = (u64)score_key(__fadd_rn(s, 0.0f)) << 32 | c;
      if ((count == 0 || key > last) && key < mine) mine = key;
    }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      u64 other = __shfl_xor_sync(0xffffffffu, mine, d);
      mine = other < mine ? other : mine;
    }
    if (threadIdx.x % 32 == 0) best[threadIdx.x / 32] = mine;
    __syncthreads();
    mine = best[threadIdx.x % 32];
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      u64 other = __shfl_xor_sync(0xffffffffu, mine, d);
      mine = other < mine ? other : mine;
    }
    __syncthreads();
    if (mine == ~0ull) break;
    last = mine;
    if (threadIdx.x < 8) {
      u32 field = threadIdx.x == 4 ? __float_as_int(key_score((u32)(mine >> 32))) : threadIdx.x == 5 ? (u32)mine : 0;
      results[4 + 8 * count + threadIdx.x] = field;
    }
  }
  if (threadIdx.x < 4) results[threadIdx.x] = threadIdx.x == 0 ? count : threadIdx.x == 1 ? CLASSES : 0;
}
