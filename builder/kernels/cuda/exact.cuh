// The arithmetic of integer layers, equal to the CPU's to the last bit (tobiuo_ops::quant):
// operations rounded one by one, which the compiler must not contract. EXP2_0 to EXP2_5 are the
// coefficients of tobiuo_ops::EXP2.
__device__ __forceinline__ float exact_exp(float x) {
  float t = fminf(fmaxf(__fmul_rn(x, 1.4426950408889634f), -126.0f), 126.0f), n = rintf(t), r = __fsub_rn(t, n);
  float p = __fmaf_rn(EXP2_0, r, EXP2_1);
  p = __fmaf_rn(p, r, EXP2_2);
  p = __fmaf_rn(p, r, EXP2_3);
  p = __fmaf_rn(p, r, EXP2_4);
  p = __fmaf_rn(p, r, EXP2_5);
  return __fmul_rn(p, __int_as_float(((int)n + 127) << 23));
}

// tobiuo_ops::Activation::exact.
template <int KIND>
__device__ __forceinline__ float activate_exact(float x, float a, float b) {
  if (KIND == ACT_RELU) return fmaxf(x, 0.0f);
  if (KIND == ACT_LEAKY_RELU) return x < 0.0f ? __fmul_rn(a, x) : x;
  if (KIND == ACT_CLIP) return fminf(fmaxf(x, a), b);
  if (KIND == ACT_SIGMOID) return __frcp_rn(__fadd_rn(1.0f, exact_exp(-x)));
  if (KIND == ACT_SILU) return __fdiv_rn(x, __fadd_rn(1.0f, exact_exp(-x)));
  if (KIND == ACT_HARD_SIGMOID) return fminf(fmaxf(__fmaf_rn(a, x, b), 0.0f), 1.0f);
  if (KIND == ACT_HARD_SWISH) return __fmul_rn(x, fminf(fmaxf(__fmaf_rn(1.0f / 6.0f, x, 0.5f), 0.0f), 1.0f));
  return x;
}
