// Numbers as they lie in memory: KIND 0 f32, 1 f16, 4 u8, 5 i8. Integers q stand for
// (q - zero) * scale.
#define IS_INTEGER(KIND) ((KIND) >= 4)
#define BYTES_OF(KIND) (IS_INTEGER(KIND) ? 1 : (KIND) == 1 ? 2 : 4)

template <int KIND>
struct Numbers;
template <>
struct Numbers<0> {
  typedef float Type;
};
template <>
struct Numbers<1> {
  typedef f16 Type;
};
template <>
struct Numbers<4> {
  typedef u8 Type;
};
template <>
struct Numbers<5> {
  typedef i8 Type;
};

__device__ __forceinline__ float number(float v) { return v; }
__device__ __forceinline__ float number(f16 v) { return to_f32(v); }
__device__ __forceinline__ float number(u8 v) { return (float)(int)v; }
__device__ __forceinline__ float number(i8 v) { return (float)(int)v; }

// 1.5 * 2^23: a float below 2^22 plus this one has the nearest integer, ties to even, in its low
// bits. On every GPU additions are eight times as fast as conversions.
#define ROUNDER 12582912.0f

// `v` as an integer of a kind, in the low byte of what is returned: the nearest to v * inverse, ties
// to even, from zero on, within the type's range. The range's ends are integers, so that clamping
// may come first.
template <int KIND>
__device__ __forceinline__ int quantised(float v, float inverse, int zero) {
  constexpr int LOW = KIND == 4 ? 0 : -128, HIGH = LOW + 255;
  float t = fminf(fmaxf(__fmul_rn(v, inverse), (float)(LOW - zero)), (float)(HIGH - zero));
  return __float_as_int(__fadd_rn(t, ROUNDER)) + zero;
}
__device__ __forceinline__ u32 bytes2(int a, int b) { return __byte_perm((u32)a, (u32)b, 0x0040); }
__device__ __forceinline__ u32 bytes4(int a, int b, int c, int d) {
  return __byte_perm(__byte_perm((u32)a, (u32)b, 0x0040), __byte_perm((u32)c, (u32)d, 0x0040), 0x5410);
}

// A byte's distance from `zero`, by way of 2^23 + byte: conversions are slow.
template <int KIND>
__device__ __forceinline__ float distance(typename Numbers<KIND>::Type q, int zero) {
  const int up = KIND == 4 ? (int)q : (int)(u8)q ^ 0x80;
  return __fsub_rn(__int_as_float(0x4b000000 | up), 8388608.0f + (float)(zero + (KIND == 4 ? 0 : 128)));
}

// Four products of neighbouring bytes, added to a sum: of u8 or i8, as KIND says, by i8.
template <int KIND>
__device__ __forceinline__ int dot4(u32 x, u32 w, int sum) {
  if constexpr (KIND == 4) asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(x), "r"(w));
  else asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(x), "r"(w));
  return sum;
}

// Eight numbers at a time: integers as their distance from `zero`.
template <int KIND>
__device__ __forceinline__ void load_numbers(float* d, const typename Numbers<KIND>::Type* p, int zero) {
  Pack<typename Numbers<KIND>::Type, 4> a = load_pack<typename Numbers<KIND>::Type, 4>(p), b = load_pack<typename Numbers<KIND>::Type, 4>(p + 4);
#pragma unroll
  for (int q = 0; q < 8; q++) {
    auto v = q < 4 ? a.v[q % 4] : b.v[q % 4];
    d[q] = IS_INTEGER(KIND) ? (float)((int)v - zero) : number(v);
  }
}
// Stores eight results: integers as round_half_even(v * inverse) + zero.
template <int KIND>
__device__ __forceinline__ void store_numbers(typename Numbers<KIND>::Type* p, const float* d, float inverse, int zero) {
  if constexpr (IS_INTEGER(KIND)) {
    int q[8];
#pragma unroll
    for (int i = 0; i < 8; i++) q[i] = quantised<KIND>(d[i], inverse, zero);
    *(uint2*)p = make_uint2(bytes4(q[0], q[1], q[2], q[3]), bytes4(q[4], q[5], q[6], q[7]));
  } else if constexpr (KIND == 1) {
    *(uint4*)p = make_uint4(pack_f16(d[0], d[1]), pack_f16(d[2], d[3]), pack_f16(d[4], d[5]), pack_f16(d[6], d[7]));
  } else {
    *(float4*)p = make_float4(d[0], d[1], d[2], d[3]);
    *(float4*)(p + 4) = make_float4(d[4], d[5], d[6], d[7]);
  }
}
