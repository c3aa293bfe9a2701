// Max and average pooling over windows, NHWC: one thread per output pixel and 8 channels.
//
// x [BATCH, IH, IW, LDX], y [BATCH, OH, OW, LDY]. AVERAGE: 0 max, 1 mean over the elements
// inside the picture, 2 mean over the window with its padding (PT, PL, PB, PR) but without its
// overhang. A mean of integers is sum * (X_SCALE / count) of their distances from X_ZERO, stored as
// Y_KIND says.
#if T_KIND >= 4 && AVERAGE
typedef Numbers<Y_KIND>::Type Y;
#else
typedef T Y;
#endif
#define CHUNKS (C_STORED / 8)
// Unrolled windows of more taps than this cost more instructions than they save.
#define UNROLL (KH * KW <= 49 ? 49 : 1)
// Windows without gaps that meet the picture.
#define CLAMPED (AVERAGE == 0 && DH == 1 && DW == 1 && WINDOWS_MEET)
#define TOTAL (BATCH * OH * OW * CHUNKS)

#if T_KIND >= 4
__device__ __forceinline__ int larger(int a, int b) { return max(a, b); }
#else
__device__ __forceinline__ float larger(float a, float b) { return upper(a, b); }
#endif

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const T* x, Y* y) {
  release_dependents();
  wait_for_producers();
  int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= TOTAL) return;
  int c = i % CHUNKS * 8, pixel = i / CHUNKS, ow = pixel % OW, oh = pixel / OW % OH, n = pixel / OW / OH;
  A acc[8];
#pragma unroll
#if T_KIND >= 4
  for (int q = 0; q < 8; q++) acc[q] = AVERAGE ? 0 : -128;
#else
  for (int q = 0; q < 8; q++) acc[q] = AVERAGE ? 0.0f : -__int_as_float(0x7f800000);
#endif
  int count = 0, inside = 0;
#pragma unroll UNROLL
  for (int r = 0; r < KH; r++) {
    int ih = oh * SH - PT + r * DH;
#if CLAMPED
    // An element of the window's edge stands for those outside: the maximum is the same.
    ih = min(max(ih, 0), IH - 1);
#endif
#pragma unroll UNROLL
    for (int s = 0; s < KW; s++) {
      int iw = ow * SW - PL + s * DW;
#if CLAMPED
      iw = min(max(iw, 0), IW - 1);
#else
      if (AVERAGE == 2) count += ih < IH + PB && iw < IW + PR;
      if (ih < 0 || ih >= IH || iw < 0 || iw >= IW) continue;
      if (AVERAGE == 1) count++;
      inside++;
#endif
      A v[8];
      load8(v, x + (u64)((n * IH + ih) * IW + iw) * LDX + c);
#pragma unroll
      for (int q = 0; q < 8; q++) acc[q] = AVERAGE ? acc[q] + v[q] : larger(acc[q], v[q]);
    }
  }
#if T_KIND >= 4 && AVERAGE
  float factor = __fdiv_rn(X_SCALE, (float)max(count, 1)), mean[8];
#pragma unroll
  for (int q = 0; q < 8; q++) mean[q] = __fmul_rn((float)(acc[q] - inside * X_ZERO), factor);
  store_numbers<Y_KIND>(y + (u64)pixel * LDY + c, mean, Y_INVERSE, Y_ZERO);
#else
#if AVERAGE
  float factor = 1.0f / (float)max(count, 1);
#pragma unroll
  for (int q = 0; q < 8; q++) acc[q] *= factor;
#endif
  store8(y + (u64)pixel * LDY + c, acc);
#endif
}
