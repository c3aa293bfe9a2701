// What every kernel shares: types without headers, conversions, activations, copies.
// Sources are header-free so that NVRTC needs nothing beside itself.
typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 f16;  // IEEE binary16, as bits

__device__ __forceinline__ float to_f32(f16 h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
__device__ __forceinline__ f16 to_f16(float f) {
  f16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
// Elements moved several at a time.
template <class T, int N>
struct __align__(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) Pack {
  T v[N];
};
template <class T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  return *(const Pack<T, N>*)p;
}
template <class T, int N>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& v) {
  *(Pack<T, N>*)p = v;
}
// 8 or 16 bytes of shared memory to global memory in one store, which compilers may cut up.
template <int BYTES>
__device__ __forceinline__ void store_shared(void* to, const void* from) {
  const u64 at = (u64)__cvta_generic_to_global(to);
  if constexpr (BYTES == 16) {
    const uint4 v = *(const uint4*)from;
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
  } else {
    const uint2 v = *(const uint2*)from;
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(at), "r"(v.x), "r"(v.y) : "memory");
  }
}

// Two floats as two halves, `lo` in the low 16 bits.
__device__ __forceinline__ u32 pack_f16(float lo, float hi) {
  u32 d;
  asm("{.reg .f16 a, b; cvt.rn.f16.f32 a, %1; cvt.rn.f16.f32 b, %2; mov.b32 %0, {a, b};}" : "=r"(d) : "f"(lo), "f"(hi));
  return d;
}
__device__ __forceinline__ float low_f32(u32 v) { return to_f32((f16)(v & 0xffff)); }
__device__ __forceinline__ float high_f32(u32 v) { return to_f32((f16)(v >> 16)); }

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * 1.4426950408889634f); }
__device__ __forceinline__ float sigmoid(float x) {
#if FAST_ACTIVATION
  // sigmoid(x) = tanh(x / 2) / 2 + 1 / 2: one special-function operation.
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(0.5f * x));
  return 0.5f * y + 0.5f;
#else
  return 1.0f / (1.0f + expf(-x));
#endif
}

// The activations of tobiuo_ops::Activation; A and B are their parameters.
#define ACT_NONE 0
#define ACT_RELU 1
#define ACT_LEAKY_RELU 2
#define ACT_CLIP 3
#define ACT_SIGMOID 4
#define ACT_HARD_SIGMOID 5
#define ACT_HARD_SWISH 6
#define ACT_SILU 7
#define ACT_MISH 8
#define ACT_TANH 9
#define ACT_ELU 10
#define ACT_SOFTPLUS 11
#define ACT_GELU 12
#define ACT_GELU_TANH 13
#define ACT_ERF 14
template <int KIND>
__device__ __forceinline__ float activate(float x, float a, float b) {
  if (KIND == ACT_RELU) return fmaxf(x, 0.0f);
  if (KIND == ACT_LEAKY_RELU) return x < 0.0f ? a * x : x;
  if (KIND == ACT_CLIP) return fminf(fmaxf(x, a), b);
  if (KIND == ACT_SIGMOID) return sigmoid(x);
  if (KIND == ACT_HARD_SIGMOID) return fminf(fmaxf(a * x + b, 0.0f), 1.0f);
  if (KIND == ACT_HARD_SWISH) return x * fminf(fmaxf(x * (1.0f / 6.0f) + 0.5f, 0.0f), 1.0f);
  if (KIND == ACT_SILU) return x * sigmoid(x);
  if (KIND == ACT_MISH) return x * tanhf(x > 20.0f ? x : log1pf(expf(x)));
  if (KIND == ACT_TANH) return tanhf(x);
  if (KIND == ACT_ELU) return x < 0.0f ? a * expm1f(x) : x;
  if (KIND == ACT_SOFTPLUS) return x > 20.0f ? x : log1pf(expf(x));
  if (KIND == ACT_GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  if (KIND == ACT_GELU_TANH) return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
  if (KIND == ACT_ERF) return erff(x);
  return x;
}

// Programmatic dependent launch (compute capability 9.0 on): the kernel may have started
// before the one in front of it ended. `wait_for_producers` comes before the first access to
// an activation; weights may be touched earlier. Transitive, because every kernel waits.
// Activations must not be `const __restrict__`: such loads count as invariant, and the compiler
// moves them in front of the wait.
__device__ __forceinline__ void wait_for_producers() {
#if DEPENDENT_LAUNCH
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void release_dependents() {
#if DEPENDENT_LAUNCH
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// A constant of 4, 8 or a multiple of 16 bytes, read here and not where the compiler would rather
// have it, behind the wait: it moves loads of what never changes (nc).
template <class Constant>
__device__ __forceinline__ Constant early(const Constant* p) {
  union {
    Constant value;
    u32 words[sizeof(Constant) / 4];
  } d;
  const u32* from = (const u32*)p;
  if constexpr (sizeof(Constant) == 4) {
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(d.words[0]) : "l"(from));
  } else if constexpr (sizeof(Constant) == 8) {
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(d.words[0]), "=r"(d.words[1]) : "l"(from));
  } else {
    static_assert(sizeof(Constant) % 16 == 0, "whole pieces");
#pragma unroll
    for (int i = 0; i < (int)sizeof(Constant) / 4; i += 4)
      asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(d.words[i]), "=r"(d.words[i + 1]), "=r"(d.words[i + 2]), "=r"(d.words[i + 3])
                   : "l"(from + i));
  }
  return d.value;
}

// Where k of filter n lies among a convolution's packed weights: blocks of 128 bytes of k, in each
// a row for each filter, so that a tile's rows follow one another in memory; a row's 16-byte
// pieces are swizzled as in shared memory. In elements of `size` bytes.
__device__ __forceinline__ u64 weight_at(int n, int k, int rows, int size) {
  const int block = 128 / size, piece = 16 / size;
  return ((u64)(k / block) * rows + n) * block + ((k % block / piece) ^ (n & 7)) * piece + k % piece;
}
