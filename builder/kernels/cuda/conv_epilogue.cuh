// The end of a convolution on tensor cores: partial sums of the blocks that share K, bias,
// residual, activation, stores. Sums are as mma.sync and wgmma leave them: rows lane / 4 and + 8,
// columns lane % 4 * 2 and + 1 of each 16 x 8 piece.
//
// Each block of a cluster finishes some rows: the others send it their sums of these rows, by
// stores into its inbox (distributed shared memory) and a barrier, or, with BULK, by one bulk copy
// each, counted by an mbarrier (PTX ISA, "cp.async.bulk"). Without clusters the last block to
// arrive adds up what the others left in memory.
//
// An end is what a filter's sum meets: its bias, or, of integers, its multiplier and its bias; where
// x has a zero point, the sum of its weights too, which the sum has X_ZERO times too often.
// With POOLED four rows of a tile are one window of 2 x 2 pixels, of which the largest result, as
// it would be stored, is kept: rows that follow one another, or of a patch two of a row of 8 pixels
// and those below.
// Results are stored as Y_KIND says, of integers v * Y_INVERSE from Y_ZERO on; the residual's
// integers stand for (r - R_ZERO) * R_SCALE.
typedef Numbers<Y_KIND>::Type Y;
typedef Numbers<R_KIND>::Type R;
#define Y_BYTES BYTES_OF(Y_KIND)
#define R_BYTES BYTES_OF(R_KIND)
#if INTEGER && X_ZERO
struct __align__(16) End {
  float x, y;
  int total, unused;
};
typedef float2 StoredEnd;
// The sums of each filter's weights.
#define TOTALS_PARAMETER , const int* __restrict__ totals
#define TOTALS , totals
#else
#if INTEGER
typedef float2 End;
#else
typedef float End;
#endif
typedef End StoredEnd;
#define TOTALS_PARAMETER
#define TOTALS
#endif

// Rows that this block finishes, and where its residual and its inbox lie in shared memory.
#define OWN_ROWS (CLUSTER ? BM / SPLIT : BM)
#define RESIDUAL_PITCH (BN * R_BYTES + 16)
#define INBOX_PITCH (BN + 4)
#define PREFETCH_RESIDUAL (RESIDUAL && (SPLIT == 1 || CLUSTER))

__device__ __forceinline__ void copy_ends(End* to, const StoredEnd* ends TOTALS_PARAMETER, int n0, int tid) {
  for (int i = tid; i < BN; i += THREADS) {
    u32 at = (u32)__cvta_generic_to_shared(to + i);
    const int n = n0 + i < OC ? n0 + i : 0;
    if (sizeof(StoredEnd) == 8) copy8(at, ends + n, n0 + i < OC);
    else copy4(at, ends + n, n0 + i < OC);
#if INTEGER && X_ZERO
    copy4(at + 8, totals + n, n0 + i < OC);
#endif
  }
}

// Copies a piece of x, or what counts as 0 where there is none: zeros where there are no weights
// either (`has` is false), and copied zeros are cheaper.
__device__ __forceinline__ void copy_x16(u32 to, const X* from, bool has, bool valid) {
#if INTEGER && X_ZERO
  if (has && !valid) {
    constexpr u32 OUTSIDE = (u32)(u8)X_ZERO * 0x01010101u;
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(OUTSIDE) : "memory");
    return;
  }
#endif
  copy16(to, from, valid);
}

// Starts copying the residual of the rows that this block finishes.
__device__ __forceinline__ void prefetch_residual(u32 base, const R* res, int n0, int tid) {
#if PREFETCH_RESIDUAL
  constexpr int EACH = 16 / R_BYTES, CHUNKS = BN / EACH;
  const int first = CLUSTER ? (int)blockIdx.z * OWN_ROWS : 0;
#pragma unroll
  for (int i = tid; i < OWN_ROWS * CHUNKS; i += THREADS) {
    int r = i / CHUNKS, c = i % CHUNKS * EACH, p = output_pixel(first + r);
    bool valid = p >= 0 && n0 + c < OC_STORED;
    copy16(base + RESIDUAL_AT + r * RESIDUAL_PITCH + c * R_BYTES, valid ? res + (u64)p * LDR + n0 + c : res, valid);
  }
#endif
}

__device__ __forceinline__ void cluster_arrive() {
#if CLUSTER
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if CLUSTER
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ uint2 bits_of(const float* s) { return make_uint2(__float_as_uint(s[0]), __float_as_uint(s[1])); }
__device__ __forceinline__ uint2 bits_of(const int* s) { return make_uint2((u32)s[0], (u32)s[1]); }
__device__ __forceinline__ Sum sum_of(u32 bits) {
#if INTEGER
  return (int)bits;
#else
  return __uint_as_float(bits);
#endif
}

// The barrier that counts the bytes of the inbox.
__device__ __forceinline__ u64* inbox_barrier() {
  __shared__ __align__(8) u64 arrived;
  return &arrived;
}
// Once, before the first wait for the cluster.
__device__ __forceinline__ void open_inbox(int tid) {
#if CLUSTER
#if BULK
  if (tid == 0) {
    u32 at = (u32)__cvta_generic_to_shared(inbox_barrier());
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(at) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"((SPLIT - 1) * OWN_ROWS * INBOX_PITCH * 4) : "memory");
  }
#endif
  cluster_arrive();  // waited for before a block sends to another
#endif
}

__device__ __forceinline__ float activated(float v) {
#if INTEGER
  return activate_exact<ACT>(v, ACT_A, ACT_B);
#else
  return activate<ACT>(v, ACT_A, ACT_B);
#endif
}
__device__ __forceinline__ float with_residual(float v, R r) {
#if IS_INTEGER(R_KIND)
  return __fmaf_rn((float)((int)r - R_ZERO), R_SCALE, v);
#else
  return __fadd_rn(v, number(r));
#endif
}
// A sum through its end and the activation.
__device__ __forceinline__ float finished(Sum sum, End end, R r) {
#if INTEGER && X_ZERO
  float v = __fmaf_rn((float)(sum - X_ZERO * end.total), end.x, end.y);
#elif INTEGER
  float v = __fmaf_rn((float)sum, end.x, end.y);
#else
  float v = sum + end;
#endif
  if (RESIDUAL && !RESIDUAL_LAST) v = with_residual(v, r);
  v = activated(v);
  return RESIDUAL && RESIDUAL_LAST ? with_residual(v, r) : v;
}
// Two results side by side, in 32 bits, or in the lower 16.
__device__ __forceinline__ u32 stored2(float p, float q) {
#if IS_INTEGER(Y_KIND)
  return bytes2(quantised<Y_KIND>(p, Y_INVERSE, Y_ZERO), quantised<Y_KIND>(q, Y_INVERSE, Y_ZERO));
#else
  return pack_f16(p, q);
#endif
}

// Bytes of four pieces from the four lanes that share a row: lane t gets piece t's eight.
__device__ __forceinline__ uint2 gathered4(const u32* e, int lane) {
  bool odd = lane & 1, high = lane & 2;
  u32 mine = __byte_perm(odd ? e[1] : e[0], odd ? e[3] : e[2], 0x5410);
  u32 got = __shfl_xor_sync(0xffffffff, __byte_perm(odd ? e[0] : e[1], odd ? e[2] : e[3], 0x5410), 1);
  u32 first = odd ? got : mine, second = odd ? mine : got;
  u32 a = __byte_perm(first, second, 0x5410), b = __byte_perm(first, second, 0x7632);
  got = __shfl_xor_sync(0xffffffff, high ? a : b, 2);
  return high ? make_uint2(got, b) : make_uint2(a, got);
}
// Bytes of two pieces: lane t gets four of piece t % 2, from column t / 2 * 4 on.
__device__ __forceinline__ u32 gathered2(const u32* e, int lane) {
  bool odd = lane & 1;
  u32 got = __shfl_xor_sync(0xffffffff, odd ? e[0] : e[1], 1);
  return odd ? __byte_perm(got, e[1], 0x5410) : __byte_perm(e[0], got, 0x5410);
}

// Stores this lane's results of a row of the tile; `pixel` is -1 where the row has no output.
__device__ __forceinline__ void store_row(Y* y, int pixel, int n0, int wc, int lane, const u32 (&e)[WN / 8]) {
  Y* row = y + (u64)max(pixel, 0) * LDY;
#if !IS_INTEGER(Y_KIND)
#pragma unroll
  for (int j = 0; j < WN / 8; j++) {
    int n = n0 + wc * WN + j * 8 + (lane & 3) * 2;
    if (pixel >= 0 && n < OC_STORED) *(u32*)(row + n) = e[j];
  }
#elif WN % 32 == 0
#pragma unroll
  for (int j = 0; j < WN / 8; j += 4) {
    uint2 v = gathered4(e + j, lane);
    int n = n0 + wc * WN + (j + (lane & 3)) * 8;
    if (pixel >= 0 && n < OC_STORED) *(uint2*)(row + n) = v;
  }
#else
  static_assert(WN % 16 == 0, "pieces are stored in pairs");
#pragma unroll
  for (int j = 0; j < WN / 8; j += 2) {
    u32 v = gathered2(e + j, lane);
    int n = n0 + wc * WN + (j + (lane & 1)) * 8 + (lane >> 1 & 1) * 4;
    if (pixel >= 0 && n < OC_STORED) *(u32*)(row + n) = v;
  }
#endif
}

#if POOLED
// Largest results of the windows that this lane's row belongs to, in place.
__device__ __forceinline__ void join_lanes(u32 (&e)[WN / 8]) {
#pragma unroll
  for (int apart = 4; apart <= (HALO ? 4 : 8); apart *= 2)
#pragma unroll
    for (int j = 0; j < WN / 8; j++) e[j] = larger2(e[j], __shfl_xor_sync(0xffffffff, e[j], apart));
}
// Stores a window's results, which several lanes have.
__device__ __forceinline__ void store_window(Y* y, int pixel, int n0, int wc, int lane, const u32 (&e)[WN / 8]) {
  constexpr int LANES = HALO ? 2 : 4;
  const int which = (lane >> 2) % LANES;
#if !IS_INTEGER(Y_KIND)
  if (WN / 8 % LANES == 0) {
    Y* row = y + (u64)max(pixel, 0) * LDY;
#pragma unroll
    for (int j = 0; j + LANES <= WN / 8; j += LANES) {
      u32 v = which & 1 ? e[j + 1] : e[j];
      if (LANES == 4) v = which & 2 ? which & 1 ? e[j + LANES - 1] : e[j + LANES - 2] : v;
      int n = n0 + wc * WN + (j + which) * 8 + (lane & 3) * 2;
      if (pixel >= 0 && n < OC_STORED) *(u32*)(row + n) = v;
    }
    return;
  }
#endif
  store_row(y, which == 0 ? pixel : -1, n0, wc, lane, e);
}
#endif
// Rows of a window, and where the window that is this block's `w`-th begins.
#define WINDOW (POOLED ? 4 : 1)
__device__ __forceinline__ int first_row(int w) { return !POOLED ? w : HALO ? w / 4 * 16 + w % 4 * 2 : w * 4; }
__device__ __forceinline__ int row_in_window(int g) { return HALO ? g / 2 * 8 + g % 2 : g; }

// All copies have landed. `shared` and `base` are one address, generic and shared.
__device__ __forceinline__ void finish(Sum (&acc)[WM / 16][WN / 8][4], u8* shared, u32 base, const End* shared_ends,
                                       Y* y, const R* res, Sum* __restrict__ partial, int* __restrict__ tickets) {
  const int tid = threadIdx.x, lane = tid & 31;
  const Place warp = place();
  const bool holds = SLICES == 1 || warp.slice == 0;  // the sums
  const int n0 = blockIdx.x * BN, row0 = warp.row * WM + (lane >> 2), col0 = warp.column * WN + (lane & 3) * 2;
#if CLUSTER
  cluster_wait();
#if !INBOX_APART
  // The inbox lies over the stages: no block sends before all have read theirs.
  cluster_arrive();
  cluster_wait();
#endif
#if BULK
  constexpr u32 PART = OWN_ROWS * INBOX_PITCH * 4;
  const u32 arrived = (u32)__cvta_generic_to_shared(inbox_barrier());
  __syncthreads();  // all warps have read the stages, which the sums now overwrite
  Sum* sums = (Sum*)shared;
  if (holds)
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < WN / 8; j++)
          *(uint2*)(sums + (row0 + i * 16 + h * 8) * INBOX_PITCH + col0 + j * 8) = bits_of(acc[i][j] + h * 2);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (tid < SPLIT && tid != (int)blockIdx.z) {
    u32 to, there, local = base + INBOX_AT + blockIdx.z * PART;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(local), "r"(tid));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(arrived), "r"(tid));
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "r"(base + tid * PART), "r"(PART), "r"(there) : "memory");
  }
  u32 done = 0;
  while (!done)
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(arrived) : "memory");
  cluster_arrive();
#else
  if (holds)
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = row0 + i * 16 + h * 8;
      u32 to, local = base + INBOX_AT + (((int)blockIdx.z * OWN_ROWS + row % OWN_ROWS) * INBOX_PITCH + col0) * 4;
      asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(local), "r"(row / OWN_ROWS));
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
      {
        uint2 v = bits_of(acc[i][j] + h * 2);
        asm volatile("st.shared::cluster.v2.b32 [%0], {%1, %2};" ::"r"(to + j * 32), "r"(v.x), "r"(v.y) : "memory");
      }
    }
  cluster_arrive();
  cluster_wait();
#endif
  const Sum* inbox = (const Sum*)(shared + INBOX_AT);
#pragma unroll
  for (int p = tid; p < OWN_ROWS / WINDOW * BN / 4; p += THREADS) {
    int first = first_row(p / (BN / 4)), c = p % (BN / 4) * 4, n = n0 + c, pixel = output_pixel((int)blockIdx.z * OWN_ROWS + first);
    if (pixel < 0 || n >= OC_STORED) continue;
    u32 low = 0, high = 0;
#pragma unroll
    for (int g = 0; g < WINDOW; g++) {
      const int r = first + row_in_window(g);
      Sum v[4] = {0, 0, 0, 0};
#pragma unroll
      for (int z = 0; z < SPLIT; z++) {
#if BULK
        const Sum* from = z == (int)blockIdx.z ? sums : inbox;
#else
        const Sum* from = inbox;
#endif
        Pack<Sum, 4> part = load_pack<Sum, 4>(from + (z * OWN_ROWS + r) * INBOX_PITCH + c);
#pragma unroll
        for (int q = 0; q < 4; q++) v[q] += part.v[q];
      }
      Pack<R, 4> add = {};
      if (RESIDUAL) add = load_pack<R, 4>((const R*)(shared + RESIDUAL_AT + r * RESIDUAL_PITCH) + c);
      float f[4];
#pragma unroll
      for (int q = 0; q < 4; q++) f[q] = finished(v[q], shared_ends[c + q], add.v[q]);
      u32 a = stored2(f[0], f[1]), b = stored2(f[2], f[3]);
#if POOLED
      if (g > 0) a = larger2(low, a), b = larger2(high, b);
#endif
      low = a, high = b;
    }
#if IS_INTEGER(Y_KIND)
    *(u32*)(y + (u64)pixel * LDY + n) = __byte_perm(low, high, 0x5410);
#else
    *(uint2*)(y + (u64)pixel * LDY + n) = make_uint2(low, high);
#endif
  }
#if BULK
  cluster_wait();  // nobody leaves while its sums are being copied
#endif
#else
#if SPLIT > 1
  __shared__ int is_last;
  const int tile = blockIdx.y * gridDim.x + blockIdx.x;
  Sum* mine = partial + (u64)(tile * SPLIT + blockIdx.z) * (BM * BN);
  if (holds)
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        __stcg((uint2*)(mine + (row0 + i * 16 + h * 8) * BN + col0 + j * 8), bits_of(acc[i][j] + h * 2));
  __threadfence();
  __syncthreads();
  if (tid == 0) {
    is_last = atomicAdd(tickets + tile, 1) == SPLIT - 1;
    if (is_last) tickets[tile] = 0;  // ready for the next run
  }
  __syncthreads();
  if (!is_last || !holds) return;
  __threadfence();
  for (int z = 0; z < SPLIT; z++) {
    if (z == (int)blockIdx.z) continue;
    const Sum* other = partial + (u64)(tile * SPLIT + z) * (BM * BN);
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          uint2 v = __ldcg((const uint2*)(other + (row0 + i * 16 + h * 8) * BN + col0 + j * 8));
          acc[i][j][h * 2] += sum_of(v.x), acc[i][j][h * 2 + 1] += sum_of(v.y);
        }
  }
#else
  __syncthreads();  // ends and residual, copied by other threads
  if (!holds) return;
#endif
  auto results = [&](int i, int h, u32 (&e)[WN / 8]) {
    int row = row0 + i * 16 + h * 8, pixel = output_pixel(row);
#pragma unroll
    for (int j = 0; j < WN / 8; j++) {
      int c = col0 + j * 8, n = n0 + c;
      Pack<R, 2> add = {};
      if (PREFETCH_RESIDUAL) add = load_pack<R, 2>((const R*)(shared + RESIDUAL_AT + row * RESIDUAL_PITCH) + c);
      else if (RESIDUAL && pixel >= 0 && n < OC_STORED) add = load_pack<R, 2>(res + (u64)pixel * LDR + n);
      float p = finished(acc[i][j][h * 2], shared_ends[c], add.v[0]);
      e[j] = stored2(p, finished(acc[i][j][h * 2 + 1], shared_ends[c + 1], add.v[1]));
    }
    return pixel;
  };
#pragma unroll
  for (int i = 0; i < WM / 16; i++) {
#if POOLED && HALO
    u32 e[WN / 8], below[WN / 8];
    int pixel = results(i, 0, e);
    results(i, 1, below);
#pragma unroll
    for (int j = 0; j < WN / 8; j++) e[j] = larger2(e[j], below[j]);
    join_lanes(e);
    store_window(y, pixel, n0, warp.column, lane, e);
#else
#pragma unroll
    for (int h = 0; h < 2; h++) {
      u32 e[WN / 8];
      int pixel = results(i, h, e);
#if POOLED
      join_lanes(e);
      store_window(y, pixel, n0, warp.column, lane, e);
#else
      store_row(y, pixel, n0, warp.column, lane, e);
#endif
    }
#endif
  }
#endif
}
