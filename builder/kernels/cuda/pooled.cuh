// The larger of two sums, NaN where one is: pools look for the largest before anything follows it.
__device__ __forceinline__ int larger(int a, int b) { return max(a, b); }
__device__ __forceinline__ float larger(float a, float b) {
  float d;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}
