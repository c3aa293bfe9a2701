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

// `v` as an integer of a kind: the nearest to v * inverse, ties to even, from zero on, within
// the type's range.
template <int KIND>
__device__ __forceinline__ int quantised(float v, float inverse, int zero) {
  constexpr int LOW = KIND == 4 ? 0 : -128, HIGH = LOW + 255;
  int q;
  asm("cvt.rni.s32.f32 %0, %1;" : "=r"(q) : "f"(__fmul_rn(v, inverse)));
  return min(max(q, LOW - zero), HIGH - zero) + zero;
}
__device__ __forceinline__ u32 bytes2(int a, int b) { return __byte_perm((u32)a, (u32)b, 0x0040); }
__device__ __forceinline__ u32 bytes4(int a, int b, int c, int d) {
  return __byte_perm(__byte_perm((u32)a, (u32)b, 0x0040), __byte_perm((u32)c, (u32)d, 0x0040), 0x5410);
}
// Byte `i` of four as a number.
template <int KIND>
__device__ __forceinline__ int byte_of(u32 v, int i) {
  return KIND == 4 ? (int)(v >> (i * 8) & 255) : (int)(i8)(v >> (i * 8));
}
