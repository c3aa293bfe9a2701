// Eight channels at a time: T is f16 or float (T_F16) or integers (T_KIND, see numbers.cuh); they
// are computed with as A, f32 or s32.
#ifndef T_KIND
#define T_KIND (T_F16 ? 1 : 0)
#endif
#if T_KIND >= 4
#if T_KIND == 4
typedef u8 T;
#else
typedef i8 T;
#endif
typedef int A;

__device__ __forceinline__ void load8(int* d, const T* p) {
  uint2 v = *(const uint2*)p;
#pragma unroll
  for (int q = 0; q < 8; q++) d[q] = (T)((q < 4 ? v.x : v.y) >> (q % 4 * 8));
}
__device__ __forceinline__ u32 four_bytes(const int* d) {
  return __byte_perm(__byte_perm((u32)d[0], (u32)d[1], 0x0040), __byte_perm((u32)d[2], (u32)d[3], 0x0040), 0x5410);
}
__device__ __forceinline__ void store8(T* p, const int* d) { *(uint2*)p = make_uint2(four_bytes(d), four_bytes(d + 4)); }
#else
#if T_KIND == 1
typedef f16 T;
#else
typedef float T;
#endif
typedef float A;
#endif

__device__ __forceinline__ void load8(float* d, const f16* p) {
  uint4 v = *(const uint4*)p;
  d[0] = low_f32(v.x), d[1] = high_f32(v.x), d[2] = low_f32(v.y), d[3] = high_f32(v.y);
  d[4] = low_f32(v.z), d[5] = high_f32(v.z), d[6] = low_f32(v.w), d[7] = high_f32(v.w);
}
__device__ __forceinline__ void load8(float* d, const float* p) {
  float4 a = *(const float4*)p, b = *(const float4*)(p + 4);
  d[0] = a.x, d[1] = a.y, d[2] = a.z, d[3] = a.w, d[4] = b.x, d[5] = b.y, d[6] = b.z, d[7] = b.w;
}
__device__ __forceinline__ void store8(f16* p, const float* d) {
  *(uint4*)p = make_uint4(pack_f16(d[0], d[1]), pack_f16(d[2], d[3]), pack_f16(d[4], d[5]), pack_f16(d[6], d[7]));
}
__device__ __forceinline__ void store8(float* p, const float* d) {
  *(float4*)p = make_float4(d[0], d[1], d[2], d[3]);
  *(float4*)(p + 4) = make_float4(d[4], d[5], d[6], d[7]);
}
// The larger (smaller) one, or NaN where one is.
__device__ __forceinline__ float upper(float a, float b) { return b > a || b != b ? b : a; }
__device__ __forceinline__ float lower(float a, float b) { return b < a || b != b ? b : a; }
