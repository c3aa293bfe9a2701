// Rows of elements that LANES threads share: one thread, a part of a warp, or the whole block.
// Every thread of a block stays to the end, with `live` false where there is no row for it.
#define ROWS_PER_BLOCK (THREADS / LANES)

struct Sum {
  template <class A>
  static __device__ __forceinline__ A of(A a, A b) { return a + b; }
};
struct Product {
  template <class A>
  static __device__ __forceinline__ A of(A a, A b) { return a * b; }
};
struct Largest {
  template <class A>
  static __device__ __forceinline__ A of(A a, A b) { return upper(a, b); }
};
struct Smallest {
  template <class A>
  static __device__ __forceinline__ A of(A a, A b) { return lower(a, b); }
};

// The join of every lane's value, in every lane.
template <class J, class A>
__device__ __forceinline__ A across(A v) {
#pragma unroll
  for (int m = (LANES < 32 ? LANES : 32) / 2; m > 0; m /= 2) v = J::of(v, __shfl_xor_sync(0xffffffffu, v, m));
#if LANES > 32
  __shared__ A parts[LANES / 32];
  __syncthreads();  // what was shared before has been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  v = parts[0];
#pragma unroll
  for (int w = 1; w < LANES / 32; w++) v = J::of(v, parts[w]);
#endif
  return v;
}
