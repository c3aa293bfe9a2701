// Reductions over any axes. JOIN: Sum, Product, Largest, Smallest; TERM: 0 x, 1 |x|, 2 x*x;
// LAST: 0 as it is, 1 mean, 2 square root, 3 logarithm. LOG_SUM_EXP: max + ln(sum of
// e^(x - max)). ACC is the accumulator: float, or long long, whose low bits are right whatever
// the type is.
__device__ __forceinline__ ACC term(ACC x) {
  if (TERM == 1) return x < 0 ? -x : x;
  if (TERM == 2) return x * x;
  return x;
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, Y* y) {
  release_dependents();
  wait_for_producers();
  Index row = (Index)blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / LANES;
  int lane = threadIdx.x % LANES;
  bool live = row < ROWS;
  Offset first = X_OFFSET, oy = Y_OFFSET;
  KEPT(row, first, oy)
  ACC acc = INIT;
  if (live)
    for (Index j = lane; j < COUNT; j += LANES) {
      Offset ox = first;
      ROW(j, ox)
      acc = JOIN::of(acc, term((ACC)LOAD(x[ox])));
    }
  acc = across<JOIN>(acc);
#if LOG_SUM_EXP
  // An infinite maximum would give inf - inf; the sum is right without it.
  float most = acc - acc == 0.0f ? acc : 0.0f, sum = 0.0f;
  if (live)
    for (Index j = lane; j < COUNT; j += LANES) {
      Offset ox = first;
      ROW(j, ox)
      sum += expf(LOAD(x[ox]) - most);
    }
  acc = most + logf(across<Sum>(sum));
#endif
#if LAST == 1 && FLOATS
  acc /= (float)COUNT;
#elif LAST == 1
  acc = COUNT == 0 ? 0 : (ACC)((VALUE)acc / (ACC)(COUNT + (COUNT == 0)));
#elif LAST == 2
  acc = sqrtf(acc);
#elif LAST == 3
  acc = logf(acc);
#endif
  if (live && lane == 0) y[oy] = STORE((VALUE)acc);
}
