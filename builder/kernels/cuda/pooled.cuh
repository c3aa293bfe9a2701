// The larger of two results side by side each, as they are stored (Y_KIND): two halves, NaN where
// one is, or two bytes.
__device__ __forceinline__ u32 larger2(u32 a, u32 b) {
#if Y_KIND == 4
  return __vmaxu4(a, b);
#elif IS_INTEGER(Y_KIND)
  return __vmaxs4(a, b);
#else
  u32 d;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
#endif
}
