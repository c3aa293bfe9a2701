// Softmax, or its logarithm (LOGARITHM), over one axis: the largest element is subtracted
// first, so that no exponential overflows.
#if FAST_ACTIVATION
#define EXP(x) exp_fast(x)
#else
#define EXP(x) expf(x)
#endif

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, Y* y) {
  release_dependents();
  wait_for_producers();
  Index row = (Index)blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / LANES;
  int lane = threadIdx.x % LANES;
  bool live = row < ROWS;
  Offset first_x = X_OFFSET, first_y = Y_OFFSET;
  KEPT(row, first_x, first_y)
  float most = -__int_as_float(0x7f800000), sum = 0.0f;
  Index count = live ? (Index)COUNT : (Index)0;
  for (Index j = lane; j < count; j += LANES) most = upper(most, LOAD(x[first_x + (Offset)j * X_STEP]));
  most = across<Largest>(most);
  for (Index j = lane; j < count; j += LANES) sum += EXP(LOAD(x[first_x + (Offset)j * X_STEP]) - most);
  sum = across<Sum>(sum);
  float factor = LOGARITHM ? logf(sum) : 1.0f / sum;
  for (Index j = lane; j < count; j += LANES) {
    float v = LOAD(x[first_x + (Offset)j * X_STEP]) - most;
    v = LOGARITHM ? v - factor : EXP(v) * factor;
    y[first_y + (Offset)j * Y_STEP] = STORE(v);
  }
}
