// The arithmetic of integer layers, equal to the CPU's to the last bit (tobiuo_ops::quant):
// operations rounded one by one, which the compiler must not contract. EXP2_0 to EXP2_5 and
// RECIPROCAL are tobiuo_ops::quant's. Conversions between floats and integers are slow
// (a sixteenth of the lanes a clock): numbers.cuh's ROUNDER does without.
__device__ __forceinline__ float exact_exp(float x) {
  float t = fminf(fmaxf(__fmul_rn(x, 1.4426950408889634f), -100.0f), 100.0f);
  float m = __fadd_rn(t, ROUNDER), r = __fsub_rn(t, __fsub_rn(m, ROUNDER));
  float p = __fmaf_rn(EXP2_0, r, EXP2_1);
  p = __fmaf_rn(p, r, EXP2_2);
  p = __fmaf_rn(p, r, EXP2_3);
  p = __fmaf_rn(p, r, EXP2_4);
  p = __fmaf_rn(p, r, EXP2_5);
  // The integer in m's low bits goes to the exponent.
  return __int_as_float(__float_as_int(p) + (__float_as_int(m) << 23));
}
// tobiuo_ops::quant::reciprocal.
__device__ __forceinline__ float exact_reciprocal(float d) {
  float r = __uint_as_float(RECIPROCAL - __float_as_uint(d));
#pragma unroll
  for (int i = 0; i < 3; i++) r = __fmaf_rn(r, __fmaf_rn(-d, r, 1.0f), r);
  return r;
}

// tobiuo_ops::Activation::exact.
template <int KIND>
__device__ __forceinline__ float activate_exact(float x, float a, float b) {
  if (KIND == ACT_RELU) return fmaxf(x, 0.0f);
  if (KIND == ACT_LEAKY_RELU) return x < 0.0f ? __fmul_rn(a, x) : x;
  if (KIND == ACT_CLIP) return fminf(fmaxf(x, a), b);
  if (KIND == ACT_SIGMOID) return exact_reciprocal(__fadd_rn(1.0f, exact_exp(-x)));
  if (KIND == ACT_SILU) return __fmul_rn(x, exact_reciprocal(__fadd_rn(1.0f, exact_exp(-x))));
  if (KIND == ACT_HARD_SIGMOID) return fminf(fmaxf(__fmaf_rn(a, x, b), 0.0f), 1.0f);
  if (KIND == ACT_HARD_SWISH) return __fmul_rn(x, fminf(fmaxf(__fmaf_rn(1.0f / 6.0f, x, 0.5f), 0.0f), 1.0f));
  return x;
}
