// Mean or maximum over all pixels, NHWC: x [BATCH, PIXELS, LDX] -> y [BATCH, LDY].
//
// A block takes CHUNKS_PER_BLOCK groups of 8 channels; its LANES thread rows share the pixels
// and add up through shared memory. A mean of integers is the sum of their distances from X_ZERO
// times X_SCALE (the scale by PIXELS), stored as Y_KIND says.
#if T_KIND >= 4 && !MAX
typedef Numbers<Y_KIND>::Type Y;
#else
typedef T Y;
#endif
#define THREADS (CHUNKS_PER_BLOCK * LANES)
#define CHUNKS (C_STORED / 8)
#define GROUPS ((CHUNKS + CHUNKS_PER_BLOCK - 1) / CHUNKS_PER_BLOCK)

#if T_KIND >= 4
__device__ __forceinline__ int larger(int a, int b) { return max(a, b); }
#else
__device__ __forceinline__ float larger(float a, float b) { return upper(a, b); }
#endif

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const T* x, Y* y) {
  __shared__ A sums[LANES][CHUNKS_PER_BLOCK * 8 + 1];
  release_dependents();
  wait_for_producers();
  int n = blockIdx.x / GROUPS, local = threadIdx.x % CHUNKS_PER_BLOCK, lane = threadIdx.x / CHUNKS_PER_BLOCK;
  int chunk = blockIdx.x % GROUPS * CHUNKS_PER_BLOCK + local;
  A acc[8];
#pragma unroll
#if T_KIND >= 4
  for (int q = 0; q < 8; q++) acc[q] = MAX ? -128 : 0;
#else
  for (int q = 0; q < 8; q++) acc[q] = MAX ? -__int_as_float(0x7f800000) : 0.0f;
#endif
  if (chunk < CHUNKS) {
#pragma unroll 4
    for (int p = lane; p < PIXELS; p += LANES) {
      A v[8];
      load8(v, x + (u64)(n * PIXELS + p) * LDX + chunk * 8);
#pragma unroll
      for (int q = 0; q < 8; q++) acc[q] = MAX ? larger(acc[q], v[q]) : acc[q] + v[q];
    }
  }
#pragma unroll
  for (int q = 0; q < 8; q++) sums[lane][local * 8 + q] = acc[q];
  __syncthreads();
  if (lane == 0 && chunk < CHUNKS) {
    for (int l = 1; l < LANES; l++)
#pragma unroll
      for (int q = 0; q < 8; q++) acc[q] = MAX ? larger(acc[q], sums[l][local * 8 + q]) : acc[q] + sums[l][local * 8 + q];
#if T_KIND >= 4 && !MAX
    float mean[8];
#pragma unroll
    for (int q = 0; q < 8; q++) mean[q] = __fmul_rn((float)(acc[q] - PIXELS * X_ZERO), X_SCALE);
    store_numbers<Y_KIND>(y + (u64)n * LDY + chunk * 8, mean, Y_INVERSE, Y_ZERO);
#else
#pragma unroll
    for (int q = 0; q < 8; q++) acc[q] = MAX ? acc[q] : acc[q] * (1.0f / PIXELS);
    store8(y + (u64)n * LDY + chunk * 8, acc);
#endif
  }
}
