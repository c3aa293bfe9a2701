// The K largest (or smallest) of LENGTH elements of every row, in order, of equal ones the first
// first; NaN counts as larger than any number.
//
// Elements become integer keys whose order is the one wanted (largest key first).
// RANK: every element counts the elements before it in that order, which is its place.
// else: a block a row finds the K-th key digit by digit (radix select), gathers the chosen
// ones in shared memory and sorts them there (bitonic); K <= SORT, a power of two.
#if KEY_BITS == 64
typedef u64 Key;
#else
typedef u32 Key;
#endif

__device__ __forceinline__ Key key_of(VALUE v) {
#if FLOATS
  u32 bits = __float_as_uint(v);
  if (v != v) bits = 0x7fffffffu;
  if (v == 0.0f) bits = 0;
  Key key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
#elif KEY_BITS == 64
  Key key = (Key)v ^ 0x8000000000000000ull;
#else
  Key key = (Key)(int)v ^ 0x80000000u;
#endif
  return LARGEST ? key : ~key;
}

#if RANK
#define BLOCKS_PER_ROW ((LENGTH + THREADS - 1) / THREADS)
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, Y* values, long long* indices) {
  release_dependents();
  wait_for_producers();
  __shared__ Key tile[THREADS];
  Index row = blockIdx.x / BLOCKS_PER_ROW;
  u32 mine = blockIdx.x % BLOCKS_PER_ROW * THREADS + threadIdx.x, place = 0;
  Offset fx = X_OFFSET, fv = V_OFFSET, fi = I_OFFSET;
  KEPT(row, fx, fv, fi)
  Key key = mine < LENGTH ? key_of(LOAD(x[fx + (Offset)mine * X_STEP])) : 0;
  for (u32 first = 0; first < LENGTH; first += THREADS) {
    u32 j = first + threadIdx.x;
    if (j < LENGTH) tile[threadIdx.x] = key_of(LOAD(x[fx + (Offset)j * X_STEP]));
    __syncthreads();
    u32 count = LENGTH - first < THREADS ? LENGTH - first : THREADS;
    for (u32 t = 0; t < count; t++) place += tile[t] > key || (tile[t] == key && first + t < mine);
    __syncthreads();
  }
  if (mine < LENGTH && place < K) {
    values[fv + (Offset)place * V_STEP] = x[fx + (Offset)mine * X_STEP];
    indices[fi + (Offset)place * I_STEP] = mine;
  }
}
#else
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, Y* values, long long* indices) {
  release_dependents();
  wait_for_producers();
  __shared__ u32 counts[256];
  __shared__ Key keys[SORT];
  __shared__ u32 places[SORT];
  __shared__ Key shared_prefix;
  __shared__ u32 shared_left, taken, parts[THREADS / 32];
  Index row = blockIdx.x;
  Offset fx = X_OFFSET, fv = V_OFFSET, fi = I_OFFSET;
  KEPT(row, fx, fv, fi)
  // The K-th key, and how many of those equal to it are chosen (`left`).
  Key prefix = 0;
  u32 left = K;
  for (int shift = KEY_BITS - 8; shift >= 0; shift -= 8) {
    for (u32 d = threadIdx.x; d < 256; d += THREADS) counts[d] = 0;
    __syncthreads();
    for (u32 j = threadIdx.x; j < LENGTH; j += THREADS) {
      Key key = key_of(LOAD(x[fx + (Offset)j * X_STEP]));
      if (shift == KEY_BITS - 8 || (key ^ prefix) >> (shift + 8) % KEY_BITS == 0) atomicAdd(&counts[(u32)(key >> shift) & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int d = 255;
      while (d > 0 && counts[d] < left) left -= counts[d--];
      shared_prefix = prefix | (Key)d << shift;
      shared_left = left;
      taken = 0;
    }
    __syncthreads();
    prefix = shared_prefix, left = shared_left;
  }
  // Those before the K-th in any order; equal ones by place.
  u32 equal = 0;
  for (u32 first = 0; first < LENGTH; first += THREADS) {
    u32 j = first + threadIdx.x;
    Key key = j < LENGTH ? key_of(LOAD(x[fx + (Offset)j * X_STEP])) : 0;
    if (j < LENGTH && key > prefix) {
      u32 at = atomicAdd(&taken, 1);
      keys[at] = key, places[at] = j;
    }
    bool same = j < LENGTH && key == prefix;
    u32 votes = __ballot_sync(0xffffffffu, same), before = __popc(votes & ((1u << threadIdx.x % 32) - 1));
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = __popc(votes);
    __syncthreads();
    u32 all = 0;
    for (u32 w = 0; w < THREADS / 32; w++) {
      if (w < threadIdx.x / 32) before += parts[w];
      all += parts[w];
    }
    if (same && equal + before < left) keys[K - left + equal + before] = key, places[K - left + equal + before] = j;
    equal += all;
    __syncthreads();
    // Every larger one may still be ahead, so the whole row is walked.
  }
  for (u32 i = K + threadIdx.x; i < SORT; i += THREADS) keys[i] = 0, places[i] = 0xffffffffu;
  __syncthreads();
  for (u32 size = 2; size <= SORT; size *= 2)
    for (u32 step = size / 2; step > 0; step /= 2) {
      for (u32 i = threadIdx.x; i < SORT; i += THREADS) {
        u32 j = i ^ step;
        if (j > i) {
          bool before = keys[i] > keys[j] || (keys[i] == keys[j] && places[i] < places[j]);
          if (before != ((i & size) == 0)) {
            Key k = keys[i];
            u32 p = places[i];
            keys[i] = keys[j], places[i] = places[j];
            keys[j] = k, places[j] = p;
          }
        }
      }
      __syncthreads();
    }
  for (u32 i = threadIdx.x; i < K; i += THREADS) {
    values[fv + (Offset)i * V_STEP] = x[fx + (Offset)places[i] * X_STEP];
    indices[fi + (Offset)i * I_STEP] = places[i];
  }
}
#endif
