// How often each magnitude comes among the elements of several tensors, in two steps: COUNT 0 finds
// each tensor's smallest and largest finite element and counts those that are not finite; COUNT 1
// counts magnitudes in bins whose width, a power of two, follows from these.
//
// A block takes CHUNK elements of one tensor. What blocks find meets in scratch memory; the last
// block of a tensor writes the result and leaves zeros there.
struct Tensor {
  u32 elements, dims[4];
  long long offset, strides[4];
  u32 first;  // block
};
__device__ const Tensor tensors[] = TENSORS_TABLE;

__device__ __forceinline__ u32 bits_at(const float* x, const Tensor& t, u32 i) {
  long long at = t.offset;
#pragma unroll
  for (int a = 3; a >= 0; a--) {
    at += (long long)(i % t.dims[a]) * t.strides[a];
    i /= t.dims[a];
  }
  return __float_as_uint(x[at]);
}
__device__ __forceinline__ bool is_finite(u32 bits) { return (bits & 0x7f800000u) != 0x7f800000u; }
// Integers in the order of floats; 0 comes before all, and both zeros are one.
__device__ __forceinline__ u32 key_of(u32 bits) {
  if (bits << 1 == 0) bits = 0;
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ u32 bits_of(u32 key) { return key >> 31 ? key & 0x7fffffffu : ~key; }
// Once all threads have added theirs: true in the last block of a tensor.
__device__ __forceinline__ bool is_last(u32* ticket, u32 blocks) {
  __shared__ u32 last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(ticket, 1) == blocks - 1;
  __syncthreads();
  if (last) __threadfence();
  return last;
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS, u32* scratch) {
#if COUNT
  __shared__ u32 shared[BINS];
  for (u32 i = threadIdx.x; i < BINS; i += THREADS) shared[i] = 0;
#else
  __shared__ u32 shared[3];
  if (threadIdx.x < 3) shared[threadIdx.x] = 0;
#endif
  __syncthreads();
  release_dependents();
  wait_for_producers();
  u32 n = 0;
  while (n + 1 < TENSORS && tensors[n + 1].first <= blockIdx.x) n++;
  const Tensor& t = tensors[n];
  const float* const all[] = {POINTERS};
  const float* x = all[n];
  const u32 blocks = (t.elements + CHUNK - 1) / CHUNK, begin = (blockIdx.x - t.first) * CHUNK;
  const u32 end = t.elements - begin < CHUNK ? t.elements : begin + CHUNK;
#if COUNT
  // As `bin_width` of the host says it.
  float low = extremes[2 * n], high = extremes[2 * n + 1];
  u32 largest = low <= high ? __float_as_uint(fmaxf(fabsf(low), fabsf(high))) : 0;
  int exponent = max((int)(largest >> 23) - 126 - LOG2_BINS, -126);
  const float scale = __uint_as_float((u32)(127 - exponent) << 23);
  u32 zeros = 0;  // the first bin's, of which there are many behind rectifiers
  for (u32 i = begin + threadIdx.x; i < end; i += THREADS) {
    u32 bits = bits_at(x, t, i);
    if (!is_finite(bits)) continue;
    u32 bin = (u32)(__uint_as_float(bits & 0x7fffffffu) * scale);
    if (bin == 0) zeros++;
    else atomicAdd(shared + min(bin, BINS - 1), 1u);
  }
  for (int m = 16; m > 0; m /= 2) zeros += __shfl_xor_sync(0xffffffffu, zeros, m);
  if (threadIdx.x % 32 == 0) atomicAdd(shared, zeros);
  __syncthreads();
  u32* sums = scratch + n * BINS;
  for (u32 i = threadIdx.x; i < BINS; i += THREADS)
    if (shared[i]) atomicAdd(sums + i, shared[i]);
  u32* ticket = scratch + TENSORS * BINS + n;
  if (!is_last(ticket, blocks)) return;
  for (u32 i = threadIdx.x; i < BINS; i += THREADS) {
    counts[n * BINS + i] = (int)__ldcg(sums + i);
    sums[i] = 0;
  }
  if (threadIdx.x == 0) *ticket = 0;
#else
  // The largest key of x and of -x, elements that are not finite.
  u32 up = 0, down = 0, bad = 0;
  for (u32 i = begin + threadIdx.x; i < end; i += THREADS) {
    u32 bits = bits_at(x, t, i);
    if (is_finite(bits)) up = max(up, key_of(bits)), down = max(down, key_of(bits ^ 0x80000000u));
    else bad++;
  }
  for (int m = 16; m > 0; m /= 2) {
    up = max(up, __shfl_xor_sync(0xffffffffu, up, m));
    down = max(down, __shfl_xor_sync(0xffffffffu, down, m));
    bad += __shfl_xor_sync(0xffffffffu, bad, m);
  }
  if (threadIdx.x % 32 == 0) {
    atomicMax(shared, up);
    atomicMax(shared + 1, down);
    atomicAdd(shared + 2, bad);
  }
  __syncthreads();
  u32* found = scratch + n * 4;
  if (threadIdx.x == 0) {
    atomicMax(found, shared[0]);
    atomicMax(found + 1, shared[1]);
    atomicAdd(found + 2, shared[2]);
  }
  if (!is_last(found + 3, blocks) || threadIdx.x != 0) return;
  up = __ldcg(found), down = __ldcg(found + 1);
  // Without a finite element: from infinity to minus infinity.
  const u32 low = bits_of(down) ^ 0x80000000u;
  extremes[2 * n] = __uint_as_float(down == 0 ? 0x7f800000u : low << 1 ? low : 0u);
  extremes[2 * n + 1] = __uint_as_float(up ? bits_of(up) : 0xff800000u);
  broken[n] = (int)__ldcg(found + 2);
  for (int i = 0; i < 4; i++) found[i] = 0;
#endif
}
