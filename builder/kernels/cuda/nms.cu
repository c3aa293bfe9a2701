// Greedy non-maximum suppression, one class at a time, best box first: the boxes that
// tobiuo::detect keeps, in its order, whatever the order in which the candidates were found.
//
// One block. Candidates are taken in their order in chunks of at most CHUNK: of more, those below
// a bound that a radix selection finds. A chunk is sorted, compared with the boxes kept before,
// then box by box with itself.
//
// Results: the number of boxes (32 bits), the number of candidates, 8 bytes unused, then per box
// left, top, right, bottom, score (f32), class, anchor (32 bits), 4 bytes unused.
#define CHUNK 1024

// Intersection over union.
__device__ __forceinline__ float overlap(const Box& a, float area_a, const Box& b, float area_b) {
  float w = fmaxf(__fsub_rn(fminf(a.right, b.right), fmaxf(a.left, b.left)), 0.0f);
  float h = fmaxf(__fsub_rn(fminf(a.bottom, b.bottom), fmaxf(a.top, b.top)), 0.0f);
  float both = __fmul_rn(w, h);
  return __fdiv_rn(both, __fsub_rn(__fadd_rn(area_a, area_b), both));
}
__device__ __forceinline__ float area_of(const Box& b) {
  return __fmul_rn(__fsub_rn(b.right, b.left), __fsub_rn(b.bottom, b.top));
}

// Output, candidates, results, the IoU threshold's bits, the most boxes to keep, the most
// candidates to look at. Leaves the candidates' count zero for the next run.
extern "C" __global__ void __launch_bounds__(CHUNK)
suppress(const O* output, u32* candidates, u32* results, u64 iou_bits, u64 most, u64 limit) {
  __shared__ u64 key[CHUNK];
  __shared__ Box boxes[CHUNK];
  __shared__ u32 classes[CHUNK];
  __shared__ u32 histogram[256], alive[2][32], number;
  __shared__ u64 bound;
  release_dependents();
  wait_for_producers();
  const u32 tid = threadIdx.x;
  const float iou = __int_as_float((int)iou_bits);
  const u64* keys = (const u64*)(candidates + 4);
  const u32 found = candidates[0];
  const u32 all = limit < found ? (u32)limit : found;
  const u32 places = (u32)most;
  u32 kept = 0, taken = 0;
  u64 low = 0;
  while (kept < places && taken < all) {
    // The keys in low..high are the next chunk.
    u64 high = ~0ull;
    if (found - taken > CHUNK) {
      u64 prefix = 0;
      u32 base = 0;
      for (int shift = 56;; shift -= 8) {
        if (tid < 256) histogram[tid] = 0;
        __syncthreads();
        for (u32 i = tid; i < found; i += CHUNK) {
          u64 k = keys[i];
          bool mine = k >= low && (shift == 56 || k >> (shift + 8) == prefix >> (shift + 8));
          if (mine) atomicAdd(&histogram[k >> shift & 255], 1u);
        }
        __syncthreads();
        if (tid == 0) {
          u32 sum = base, digit = 0;
          while (digit < 256 && sum + histogram[digit] <= CHUNK) sum += histogram[digit++];
          number = sum, bound = prefix | (u64)digit << shift;
        }
        __syncthreads();
        base = number, prefix = bound;
        if (base >= CHUNK / 2 || shift == 0) break;
      }
      high = prefix;
    }
    __syncthreads();
    if (tid == 0) number = 0;
    __syncthreads();
    for (u32 i = tid; i < found; i += CHUNK) {
      u64 k = keys[i];
      if (k >= low && k < high) key[atomicAdd(&number, 1u)] = k;
    }
    __syncthreads();
    const u32 count = number;
    u32 size = 2;
    while (size < count) size *= 2;
    if (tid >= count && tid < size) key[tid] = ~0ull;
    __syncthreads();
    // Bitonic sort.
    for (u32 k = 2; k <= size; k *= 2) {
      for (u32 j = k / 2; j > 0; j /= 2) {
        u32 other = tid ^ j;
        if (tid < size && other > tid) {
          u64 a = key[tid], b = key[other];
          if ((a > b) == ((tid & k) == 0)) key[tid] = b, key[other] = a;
        }
        __syncthreads();
      }
    }
    const u32 chunk = count < all - taken ? count : all - taken;
    Box box = {0, 0, 0, 0};
    u32 label = 0, anchor = 0;
    float score = 0, area = 0;
    bool live = tid < chunk;
    if (live) {
      u32 low_half = (u32)key[tid];
      anchor = low_half / CLASSES, label = low_half % CLASSES;
      score = key_score((u32)(key[tid] >> 32));
      box_of(&box, output, anchor);
      area = area_of(box);
      boxes[tid] = box, classes[tid] = label;
      for (u32 k = 0; k < kept && live; k++) {
        const u32* entry = results + 4 + 8 * k;
        if (entry[5] != label) continue;
        Box other = {__int_as_float(entry[0]), __int_as_float(entry[1]), __int_as_float(entry[2]), __int_as_float(entry[3])};
        if (overlap(box, area, other, area_of(other)) > iou) live = false;
      }
    }
    u32 votes = __ballot_sync(0xffffffffu, live);
    if (tid % 32 == 0) alive[0][tid / 32] = votes;
    __syncthreads();
    u32 at = 0, p = 0;
    while (kept < places && at < chunk) {
      // The next box that nothing suppressed is kept.
      u32 word = at / 32, mask = alive[p][word] & 0xffffffffu << at % 32;
      while (mask == 0 && ++word < 32) mask = alive[p][word];
      if (mask == 0) break;
      u32 i = word * 32 + __ffs(mask) - 1;
      if (tid == i) {
        u32* entry = results + 4 + 8 * kept;
        entry[0] = __float_as_int(box.left), entry[1] = __float_as_int(box.top);
        entry[2] = __float_as_int(box.right), entry[3] = __float_as_int(box.bottom);
        entry[4] = __float_as_int(score), entry[5] = label, entry[6] = anchor, entry[7] = 0;
      }
      if (live && tid > i && classes[i] == label && overlap(box, area, boxes[i], area_of(boxes[i])) > iou) live = false;
      votes = __ballot_sync(0xffffffffu, live);
      // The words of this round are still being read.
      if (tid % 32 == 0) alive[p ^ 1][tid / 32] = votes;
      __syncthreads();
      kept++, at = i + 1, p ^= 1;
    }
    __syncthreads();
    taken += chunk, low = high;
  }
  if (tid == 0) {
    results[0] = kept, results[1] = found, results[2] = 0, results[3] = 0;
    candidates[0] = 0;
  }
}
