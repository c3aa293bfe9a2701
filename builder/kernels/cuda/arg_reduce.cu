// The place of the largest element along an axis (SMALLEST: of the smallest), of equal ones the
// first (SELECT_LAST: the last). A NaN wins over every number.
struct Best {
  VALUE value;
  Index place;  // COUNT: none yet
};
__device__ __forceinline__ bool wins(const Best& a, const Best& b) {
  if (b.place == (Index)COUNT || a.place == (Index)COUNT) return a.place != (Index)COUNT;
  bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  bool later = SELECT_LAST ? a.place > b.place : a.place < b.place;
  if (a_nan || b_nan) return a_nan && (!b_nan || later);
  if (a.value == b.value) return later;
  return SMALLEST ? a.value < b.value : a.value > b.value;
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, long long* y) {
  release_dependents();
  wait_for_producers();
  Index row = (Index)blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / LANES;
  int lane = threadIdx.x % LANES;
  bool live = row < ROWS;
  Offset first = X_OFFSET, oy = Y_OFFSET;
  KEPT(row, first, oy)
  Best best = {(VALUE)0, (Index)COUNT};
  if (live)
    for (Index j = lane; j < COUNT; j += LANES) {
      Best one = {(VALUE)LOAD(x[first + (Offset)j * X_STEP]), j};
      if (wins(one, best)) best = one;
    }
#pragma unroll
  for (int m = (LANES < 32 ? LANES : 32) / 2; m > 0; m /= 2) {
    Best other = {__shfl_xor_sync(0xffffffffu, best.value, m), __shfl_xor_sync(0xffffffffu, best.place, m)};
    if (wins(other, best)) best = other;
  }
#if LANES > 32
  __shared__ Best parts[LANES / 32];
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = best;
  __syncthreads();
  for (int w = 0; w < LANES / 32; w++)
    if (wins(parts[w], best)) best = parts[w];
#endif
  if (live && lane == 0) y[oy] = (long long)best.place;
}
