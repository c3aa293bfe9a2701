// Functions of elements of every type.
// The larger (smaller) one, or NaN where one is.
template <class T>
__device__ __forceinline__ T upper(T a, T b) { return b > a || b != b ? b : a; }
template <class T>
__device__ __forceinline__ T lower(T a, T b) { return b < a || b != b ? b : a; }

// Integers wrap around; divided by zero they give zero.
template <class T>
__device__ __forceinline__ T integer_add(T a, T b) { return (T)((u64)a + (u64)b); }
template <class T>
__device__ __forceinline__ T integer_sub(T a, T b) { return (T)((u64)a - (u64)b); }
template <class T>
__device__ __forceinline__ T integer_mul(T a, T b) { return (T)((u64)a * (u64)b); }
template <class T>
__device__ __forceinline__ T integer_neg(T a) { return (T)(0 - (u64)a); }
template <class T>
__device__ __forceinline__ T integer_abs(T a) { return a < 0 ? integer_neg(a) : a; }
template <class T>
__device__ __forceinline__ T integer_sign(T a) { return (T)((a > 0) - (a < 0)); }
template <class T>
__device__ __forceinline__ T integer_div(T a, T b) {
  if (b == 0) return 0;
  return (T)-1 < 0 && b == (T)-1 ? integer_neg(a) : (T)(a / b);
}
template <class T>
__device__ __forceinline__ T integer_rem(T a, T b) {
  return b == 0 || ((T)-1 < 0 && b == (T)-1) ? (T)0 : (T)(a % b);
}
template <class T>
__device__ __forceinline__ T integer_mod(T a, T b) {
  T r = integer_rem(a, b);
  return r != 0 && (r < 0) != (b < 0) ? (T)(r + b) : r;
}
template <class T>
__device__ __forceinline__ T integer_pow(T a, T e) {
  if ((T)-1 < 0 && e < (T)1 && e != 0) return a == 1 || (a == (T)-1 && e % 2 == 0) ? (T)1 : a == (T)-1 ? a : (T)0;
  u64 result = 1, base = (u64)a;
  for (u64 left = (u64)e; left > 0; left >>= 1) {
    if (left & 1) result *= base;
    base *= base;
  }
  return (T)result;
}
__device__ __forceinline__ float float_sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
__device__ __forceinline__ float float_pow(float a, float b) { return b == 2.0f ? a * a : powf(a, b); }
__device__ __forceinline__ float float_mod(float a, float b) {
  float r = fmodf(a, b);
  return r != 0.0f && (r < 0.0f) != (b < 0.0f) ? r + b : r;
}
// Truncated towards zero and kept in the type's range; NaN gives zero.
template <class T>
__device__ __forceinline__ T truncated(float x) {
  if (x != x) return 0;
  long long v;
  asm("cvt.rzi.s64.f32 %0, %1;" : "=l"(v) : "f"(x));
  if (sizeof(T) < 8) {
    bool sign = (T)-1 < 0;
    long long high = (1LL << (sizeof(T) * 8 % 64 - (sign ? 1 : 0))) - 1, low = sign ? -high - 1 : 0;
    v = v < low ? low : v > high ? high : v;
  }
  return (T)v;
}
