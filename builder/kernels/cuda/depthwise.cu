// Depthwise convolution, NHWC: each thread makes 8 channels of a column of COLS output pixels.
//
// x [BATCH, IH, IW, LDX], w [KH*KW, C] (tap-major), ends [C]: bias, y [BATCH, OH, OW, LDY], res
// like y with LDR. T is f16 or float, sums are f32; or T is integers from X_ZERO on, w i8, sums are
// s32 and an end is a multiplier and a bias. Results are stored as Y_KIND says, the residual is as
// R_KIND says. Filter taps stay in registers; a loaded input pixel serves every output of the
// column that needs it, so that each input row is read once per thread.
typedef Numbers<Y_KIND>::Type Y;
typedef Numbers<R_KIND>::Type R;
#if T_KIND >= 4
typedef i8 W;
typedef float2 End;
#define INSIDE(v) ((v) - X_ZERO)
#else
typedef T W;
typedef float End;
#define INSIDE(v) (v)
#endif
#define CHUNKS (C_STORED / 8)
#define COLUMN_BLOCKS ((OW + COLS - 1) / COLS)
#define TOTAL (BATCH * OH * COLUMN_BLOCKS * CHUNKS)
#define SPAN ((COLS - 1) * SW + (KW - 1) * DW + 1)

// The inputs of output channels c to c + 7; `p` is at the first of them.
__device__ __forceinline__ void load_inputs(A* d, const T* p, int c) {
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
#pragma unroll
  for (int q = 0; q < 8; q++) d[q] = INSIDE(d[q]);
}
__device__ __forceinline__ void load_taps(A* d, const W* p) {
#if T_KIND >= 4
  uint2 v = *(const uint2*)p;
#pragma unroll
  for (int q = 0; q < 8; q++) d[q] = (i8)((q < 4 ? v.x : v.y) >> (q % 4 * 8));
#else
  load8(d, p);
#endif
}
// A sum through its end, the residual `r` (an integer's distance from its zero) and the activation.
__device__ __forceinline__ float finished(A sum, End end, float r) {
#if T_KIND >= 4
  float v = __fmaf_rn((float)sum, end.x, end.y);
#define ACTIVATED(v) activate_exact<ACT>(v, ACT_A, ACT_B)
#else
  float v = sum;  // which began with its end
#define ACTIVATED(v) activate<ACT>(v, ACT_A, ACT_B)
#endif
  if (RESIDUAL && !RESIDUAL_LAST) v = IS_INTEGER(R_KIND) ? __fmaf_rn(r, R_SCALE, v) : __fadd_rn(v, r);
  v = ACTIVATED(v);
  if (RESIDUAL && RESIDUAL_LAST) v = IS_INTEGER(R_KIND) ? __fmaf_rn(r, R_SCALE, v) : __fadd_rn(v, r);
  return v;
}

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const T* x, const W* __restrict__ w, const End* __restrict__ ends, Y* y, const R* res) {
  int i = blockIdx.x * THREADS + threadIdx.x;
  bool mine = i < TOTAL;
  int chunk = i % CHUNKS, rest = i / CHUNKS, block = rest % COLUMN_BLOCKS, oh = rest / COLUMN_BLOCKS % OH, n = rest / COLUMN_BLOCKS / OH;
  int c = chunk * 8, ow0 = block * COLS;
  End end[8];
  A acc[COLS][8];
#pragma unroll
  for (int q = 0; q < 8; q++) end[q] = mine ? ends[c + q] : End{};
  release_dependents();
  wait_for_producers();
  if (!mine) return;
#pragma unroll
  for (int o = 0; o < COLS; o++)
#pragma unroll
#if T_KIND >= 4
    for (int q = 0; q < 8; q++) acc[o][q] = 0;
#else
    for (int q = 0; q < 8; q++) acc[o][q] = end[q];
#endif
#pragma unroll
  for (int r = 0; r < KH; r++) {
    int ih = oh * SH - PT + r * DH;
    if (ih < 0 || ih >= IH) continue;
    const T* row = x + (u64)((n * IH + ih) * IW) * LDX + c / MULTIPLIER;
    A taps[KW][8];
#pragma unroll
    for (int s = 0; s < KW; s++) load_taps(taps[s], w + (r * KW + s) * C_STORED + c);
#pragma unroll
    for (int v = 0; v < SPAN; v++) {
      int iw = ow0 * SW - PL + v;
      A in[8];
      if (iw >= 0 && iw < IW) load_inputs(in, row + iw * LDX, c);
      else
#pragma unroll
        for (int q = 0; q < 8; q++) in[q] = 0;
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
    float add[8], v[8];
    if (RESIDUAL) load_numbers<R_KIND>(add, res + pixel * LDR + c, R_ZERO);
#pragma unroll
    for (int q = 0; q < 8; q++) v[q] = finished(acc[o][q], end[q], RESIDUAL ? add[q] : 0.0f);
    store_numbers<Y_KIND>(y + pixel * LDY + c, v, Y_INVERSE, Y_ZERO);
  }
}
