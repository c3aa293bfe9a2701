// One axis resampled by weighted sums of TAPS neighbours: linear, cubic, with or without
// antialiasing. `starts` gives the first neighbour of each output place (negative: none, the
// element is EXTRAPOLATION), `weights` TAPS numbers for each.
extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const X* x, Y* y, const int* __restrict__ starts, const float* __restrict__ weights) {
  release_dependents();
  Index i = (Index)blockIdx.x * THREADS + threadIdx.x;
  if (i >= TOTAL) return;
  Offset ox = X_OFFSET, oy = Y_OFFSET;
  LOCATE(i, ox, oy)
  int place = (int)PLACE, start = starts[place];
  wait_for_producers();
  float sum[V];
#pragma unroll
  for (int q = 0; q < V; q++) sum[q] = start < 0 ? EXTRAPOLATION : 0.0f;
  if (start >= 0) {
    ox += (Offset)start * STEP;
#pragma unroll 4
    for (int t = 0; t < TAPS; t++, ox += STEP) {
      float w = weights[place * TAPS + t];
      Pack<X, V> v = load_pack<X, V>(x + ox);
#pragma unroll
      for (int q = 0; q < V; q++) sum[q] += w * LOAD(v.v[q]);
    }
  }
  Pack<Y, V> r;
#pragma unroll
  for (int q = 0; q < V; q++) r.v[q] = STORE(sum[q]);
  store_pack<Y, V>(y + oy, r);
}
