// Rows normalised to mean 0 and variance 1, then scaled and shifted: LayerNorm, InstanceNorm.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, const S* scale, const B* bias, Y* y) {
  release_dependents();
  wait_for_producers();
  Index row = (Index)blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / LANES;
  int lane = threadIdx.x % LANES;
  Offset fx = X_OFFSET, fs = S_OFFSET, fb = B_OFFSET, fy = Y_OFFSET;
  Index count = row < ROWS ? (Index)COUNT : (Index)0;
  KEPT(row, fx, fs, fb, fy)
  float mean = 0.0f, variance = 0.0f;
  for (Index j = lane; j < count; j += LANES) {
    Offset ox = fx;
    ROW_X(j, ox)
    mean += LOAD(x[ox]);
  }
  mean = across<Sum>(mean) * (1.0f / COUNT);
  for (Index j = lane; j < count; j += LANES) {
    Offset ox = fx;
    ROW_X(j, ox)
    float d = LOAD(x[ox]) - mean;
    variance += d * d;
  }
  variance = across<Sum>(variance) * (1.0f / COUNT);
  float factor = 1.0f / sqrtf(variance + EPSILON);
  for (Index j = lane; j < count; j += LANES) {
    Offset ox = fx, os = fs, ob = fb, oy = fy;
    ROW(j, ox, os, ob, oy)
    y[oy] = STORE((LOAD(x[ox]) - mean) * factor * LOAD_S(scale[os]) + LOAD_B(bias[ob]));
  }
}
