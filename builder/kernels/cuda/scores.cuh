// A network's scores: their type (O_F16) and their order.
#if O_F16
typedef f16 O;
#define O_F32(x) to_f32(x)
#else
typedef float O;
#define O_F32(x) (x)
#endif

__device__ __forceinline__ bool finite(float v) { return (__float_as_int(v) & 0x7f800000) != 0x7f800000; }

// Scores of all signs as unsigned numbers, higher scores first.
__device__ __forceinline__ u32 score_key(float score) {
  u32 bits = __float_as_int(score);
  return bits >> 31 ? bits : ~bits & 0x7fffffff;
}
__device__ __forceinline__ float key_score(u32 key) {
  return __int_as_float(key >> 31 ? key : ~key & 0x7fffffff);
}
