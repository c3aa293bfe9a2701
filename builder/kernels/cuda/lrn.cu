// Local response normalisation over channels: x / (BIAS + ALPHA * sum of squares of SIZE
// neighbours)^BETA, one thread per element; neighbours come from the cache.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, Y* y) {
  release_dependents();
  wait_for_producers();
  Index i = (Index)blockIdx.x * THREADS + threadIdx.x;
  if (i >= TOTAL) return;
  Offset ox = X_OFFSET, oy = Y_OFFSET;
  LOCATE(i, ox, oy)
  int c = (int)PLACE, first = max(c - BEFORE, 0), last = min(c + AFTER, CHANNELS - 1);
  float squares = 0.0f;
  for (int w = first; w <= last; w++) {
    float v = LOAD(x[ox + (Offset)(w - c) * STEP]);
    squares += v * v;
  }
  float t = BIAS + ALPHA * squares;
#if BETA_KIND == 3
  float root = sqrtf(t), power = root * sqrtf(root);
#elif BETA_KIND == 2
  float power = sqrtf(t);
#else
  float power = powf(t, BETA);
#endif
  y[oy] = STORE(LOAD(x[ox]) / power);
}
