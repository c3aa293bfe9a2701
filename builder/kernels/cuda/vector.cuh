// Eight channels at a time: T is f16 or float (T_F16), arithmetic is f32.
#if T_F16
typedef f16 T;
#else
typedef float T;
#endif

__device__ __forceinline__ void load8(float* d, const T* p) {
#if T_F16
  uint4 v = *(const uint4*)p;
  d[0] = low_f32(v.x), d[1] = high_f32(v.x), d[2] = low_f32(v.y), d[3] = high_f32(v.y);
  d[4] = low_f32(v.z), d[5] = high_f32(v.z), d[6] = low_f32(v.w), d[7] = high_f32(v.w);
#else
  float4 a = *(const float4*)p, b = *(const float4*)(p + 4);
  d[0] = a.x, d[1] = a.y, d[2] = a.z, d[3] = a.w, d[4] = b.x, d[5] = b.y, d[6] = b.z, d[7] = b.w;
#endif
}
__device__ __forceinline__ void store8(T* p, const float* d) {
#if T_F16
  *(uint4*)p = make_uint4(pack_f16(d[0], d[1]), pack_f16(d[2], d[3]), pack_f16(d[4], d[5]), pack_f16(d[6], d[7]));
#else
  *(float4*)p = make_float4(d[0], d[1], d[2], d[3]);
  *(float4*)(p + 4) = make_float4(d[4], d[5], d[6], d[7]);
#endif
}
// The larger (smaller) one, or NaN where one is.
__device__ __forceinline__ float upper(float a, float b) { return b > a || b != b ? b : a; }
__device__ __forceinline__ float lower(float a, float b) { return b < a || b != b ? b : a; }
