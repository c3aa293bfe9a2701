// Results in planes (Y_PLANES): floats of pictures Y_STEP_N, filters Y_STEP_C and pixels Y_STEP_P elements
// apart, as who runs the network wants them.
// Then neighbouring threads store neighbouring pixels, not filters.
#define PIXELS_FIRST (Y_PLANES && Y_STEP_P < Y_STEP_C)
#if Y_PLANES
// Stores COUNT results of a pixel, of the filters from `n` on as far as there are ALL; pixels are counted
// through all pictures.
template <int ALL, int COUNT>
__device__ __forceinline__ void store_planes(Numbers<Y_KIND>::Type* y, u32 pixel, int n, const float (&v)[COUNT]) {
  y += (u64)(pixel / (OH * OW)) * Y_STEP_N + (u64)(pixel % (OH * OW)) * Y_STEP_P + (u64)n * Y_STEP_C;
#pragma unroll
  for (int q = 0; q < COUNT; q++) {
    if (n + q >= ALL) continue;
#if Y_KIND == 1
    y[(u64)q * Y_STEP_C] = to_f16(v[q]);
#else
    y[(u64)q * Y_STEP_C] = v[q];
#endif
  }
}
#endif
