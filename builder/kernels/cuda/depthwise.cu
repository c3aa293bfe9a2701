// Depthwise convolution, NHWC: each thread makes 8 channels of a column of COLS output pixels.
//
// x [BATCH, IH, IW, LDX], w [KH*KW, C] (tap-major), bias [C] f32, y [BATCH, OH, OW, LDY], res
// like y with LDR. T is f16 or float; sums are f32. Filter taps stay in registers; a loaded
// input pixel serves every output of the column that needs it, so that each input row is read
// once per thread.
#define CHUNKS (C_STORED / 8)
#define COLUMN_BLOCKS ((OW + COLS - 1) / COLS)
#define TOTAL (BATCH * OH * COLUMN_BLOCKS * CHUNKS)
#define SPAN ((COLS - 1) * SW + (KW - 1) * DW + 1)

// The inputs of output channels c to c + 7; `p` is at the first of them.
__device__ __forceinline__ void load_inputs(float* d, const T* p, int c) {
#if MULTIPLIER == 1
  load8(d, p);
#else
#pragma unroll
  for (int q = 0; q < 8; q++) {
    T v = p[(c + q) / MULTIPLIER - c / MULTIPLIER];
#if T_F16
    d[q] = to_f32(v);
#else
    d[q] = v;
#endif
  }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const T* x, const T* __restrict__ w, const float* __restrict__ bias, T* y, const T* res) {
  int i = blockIdx.x * THREADS + threadIdx.x;
  bool mine = i < TOTAL;
  int chunk = i % CHUNKS, rest = i / CHUNKS, block = rest % COLUMN_BLOCKS, oh = rest / COLUMN_BLOCKS % OH, n = rest / COLUMN_BLOCKS / OH;
  int c = chunk * 8, ow0 = block * COLS;
  float start[8], acc[COLS][8];
#pragma unroll
  for (int q = 0; q < 8; q++) start[q] = mine ? bias[c + q] : 0.0f;
  release_dependents();
  wait_for_producers();
  if (!mine) return;
#pragma unroll
  for (int o = 0; o < COLS; o++)
#pragma unroll
    for (int q = 0; q < 8; q++) acc[o][q] = start[q];
#pragma unroll
  for (int r = 0; r < KH; r++) {
    int ih = oh * SH - PT + r * DH;
    if (ih < 0 || ih >= IH) continue;
    const T* row = x + (u64)((n * IH + ih) * IW) * LDX + c / MULTIPLIER;
    float taps[KW][8];
#pragma unroll
    for (int s = 0; s < KW; s++) load8(taps[s], w + (r * KW + s) * C_STORED + c);
#pragma unroll
    for (int v = 0; v < SPAN; v++) {
      int iw = ow0 * SW - PL + v;
      float in[8];
      if (iw >= 0 && iw < IW) load_inputs(in, row + iw * LDX, c);
      else
#pragma unroll
        for (int q = 0; q < 8; q++) in[q] = 0.0f;
#pragma unroll
      for (int o = 0; o < COLS; o++)
#pragma unroll
        for (int s = 0; s < KW; s++)
          if (o * SW + s * DW == v)
#pragma unroll
            for (int q = 0; q < 8; q++) acc[o][q] += in[q] * taps[s][q];
    }
  }
#pragma unroll
  for (int o = 0; o < COLS; o++) {
    int ow = ow0 + o;
    if (ow >= OW) break;
    u64 pixel = (u64)(n * OH + oh) * OW + ow;
    if (RESIDUAL) {
      float add[8];
      load8(add, res + pixel * LDR + c);
#pragma unroll
      for (int q = 0; q < 8; q++) acc[o][q] += add[q];
    }
#pragma unroll
    for (int q = 0; q < 8; q++) acc[o][q] = activate<ACT>(acc[o][q], ACT_A, ACT_B);
    store8(y + pixel * LDY + c, acc[o]);
  }
}
