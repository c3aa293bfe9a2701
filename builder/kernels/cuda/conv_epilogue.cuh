// The end of a convolution on tensor cores: partial sums of the blocks that share K, bias,
// residual, activation, stores. Sums are as mma.sync and wgmma leave them: rows lane / 4 and + 8,
// columns lane % 4 * 2 and + 1 of each 16 x 8 piece.
//
// Each block of a cluster finishes some rows: the others send it their sums of these rows into its
// inbox (distributed shared memory), by asynchronous stores or, with BULK, by one bulk copy each,
// counted by an mbarrier (PTX ISA, "st.async" and "cp.async.bulk"). Without clusters the last block
// to arrive adds up what the others left in memory.
//
// An end is what a filter's sum meets: its bias, or, of integers, its multiplier and its bias; where
// x has a zero point, the sum of its weights too, which the sum has X_ZERO times too often.
// With POOLED four rows of a tile are one window of 2 x 2 pixels, of which the largest result is
// kept: rows that follow one another, or of a patch two of a row of 8 pixels and those below. What
// follows a sum never falls where the sum rises (ConvLayer::pooled), so the largest sum is all that
// is finished.
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
// So that rows of sums lie 8 banks apart.
#define INBOX_PITCH (BN % 16 == 0 ? BN + 8 : BN)
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
__device__ __forceinline__ void copy_x16(u32 to, const X* from, bool has, bool valid, bool there = true) {
#if INTEGER && X_ZERO
  if (there && has && !valid) {
    constexpr u32 OUTSIDE = (u32)(u8)X_ZERO * 0x01010101u;
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(OUTSIDE) : "memory");
    return;
  }
#endif
  copy16(to, from, valid, there);
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

#if CLUSTER
// Of execution alone: what is sent is counted by a barrier in shared memory, whose own fence makes it
// known. A release would wait for all that this block has under way.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
#endif

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
  if (tid == 0) {
    u32 at = (u32)__cvta_generic_to_shared(inbox_barrier());
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(at) : "memory");
  }
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

// Stores this lane's results of a row: COUNT pieces of 8 channels, STEP pieces apart, the first at
// channel `n`; `pixel` is -1 where the row has no output.
template <int COUNT, int STEP>
__device__ __forceinline__ void store_row(Y* y, int pixel, int n, int lane, const u32 (&e)[COUNT]) {
  Y* row = y + (u64)max(pixel, 0) * LDY;
#if IS_INTEGER(Y_KIND)
  if constexpr (COUNT % 4 == 0) {
#pragma unroll
    for (int j = 0; j < COUNT; j += 4) {
      uint2 v = gathered4(e + j, lane);
      int at = n + (j + (lane & 3)) * STEP * 8;
      if (pixel >= 0 && at < OC_STORED) *(uint2*)(row + at) = v;
    }
    return;
  }
  if constexpr (COUNT % 2 == 0) {
#pragma unroll
    for (int j = 0; j < COUNT; j += 2) {
      u32 v = gathered2(e + j, lane);
      int at = n + (j + (lane & 1)) * STEP * 8 + (lane >> 1 & 1) * 4;
      if (pixel >= 0 && at < OC_STORED) *(u32*)(row + at) = v;
    }
    return;
  }
  typedef u16 Pair;
#else
  typedef u32 Pair;
#endif
#pragma unroll
  for (int j = 0; j < COUNT; j++) {
    int at = n + j * STEP * 8 + (lane & 3) * 2;
    if (pixel >= 0 && at < OC_STORED) *(Pair*)(row + at) = (Pair)e[j];
  }
}

#if POOLED
// The largest of each sum and that of the lane `APART` away. Of an even number of pieces each of the
// two lanes keeps every second one.
template <int APART, int COUNT>
__device__ __forceinline__ auto joined(const Pack<Sum, COUNT * 2>& s, int lane) {
  constexpr bool HALVED = COUNT % 2 == 0;
  const bool upper = lane & APART;
  Pack<Sum, HALVED ? COUNT : COUNT * 2> d;
#pragma unroll
  for (int k = 0; k < (HALVED ? COUNT / 2 : COUNT); k++)
#pragma unroll
    for (int q = 0; q < 2; q++) {
      Sum mine = HALVED ? upper ? s.v[(k * 2 + 1) * 2 % (COUNT * 2) + q] : s.v[k * 4 % (COUNT * 2) + q] : s.v[k * 2 + q];
      Sum other = HALVED ? upper ? s.v[k * 4 % (COUNT * 2) + q] : s.v[(k * 2 + 1) * 2 % (COUNT * 2) + q] : mine;
      d.v[k * 2 + q] = larger(mine, __shfl_xor_sync(0xffffffff, other, APART));
    }
  return d;
}

// Finishes and stores COUNT pieces, STEP apart, of a window's largest sums, the first at column `c`
// of the tile; `mine` is false in lanes whose results another one stores.
template <int COUNT, int STEP>
__device__ __forceinline__ void finish_window(const Pack<Sum, COUNT * 2>& s, const End* ends, Y* y, int pixel, int n0, int c, int lane, bool mine) {
  u32 e[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; k++) {
    const End* end = ends + c + k * STEP * 8 + (lane & 3) * 2;
    e[k] = stored2(finished(s.v[k * 2], end[0], R()), finished(s.v[k * 2 + 1], end[1], R()));
  }
  store_row<COUNT, STEP>(y, mine ? pixel : -1, n0 + c, lane, e);
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
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  cluster_wait();
#endif
  const int block = blockIdx.z;
  const u32 arrived = (u32)__cvta_generic_to_shared(inbox_barrier());
  // Bytes may come before they are expected: the phase ends only behind this one arrival.
  constexpr int ROW_BYTES = BULK ? INBOX_PITCH * 4 : BN * 4;
  if (tid == 0)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(arrived), "r"((SPLIT - 1) * OWN_ROWS * ROW_BYTES) : "memory");
  auto at_block = [](u32 local, int to) {
    u32 there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(local), "r"(to));
    return there;
  };
#if BULK
  constexpr u32 PART = OWN_ROWS * INBOX_PITCH * 4;
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
  if (tid < SPLIT && tid != block)
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(at_block(base + INBOX_AT + block * PART, tid)), "r"(base + tid * PART), "r"(PART), "r"(at_block(arrived, tid)) : "memory");
#else
  if (holds)
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = row0 + i * 16 + h * 8, to = row / OWN_ROWS, place = (block * OWN_ROWS + row % OWN_ROWS) * INBOX_PITCH + col0;
      if (to == block) {
#pragma unroll
        for (int j = 0; j < WN / 8; j++) *(uint2*)((Sum*)(shared + INBOX_AT) + place + j * 8) = bits_of(acc[i][j] + h * 2);
      } else {
        const u32 there = at_block(base + INBOX_AT + place * 4, to), barrier = at_block(arrived, to);
#pragma unroll
        for (int j = 0; j < WN / 8; j++) {
          uint2 v = bits_of(acc[i][j] + h * 2);
          asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(there + j * 32), "r"(v.x), "r"(v.y), "r"(barrier) : "memory");
        }
      }
    }
  __syncthreads();  // own sums, and the ends
#endif
  // Each thread has four columns of some rows, and what it can know before the sums are there.
  constexpr int COLUMNS = BN / 4, AT_ONCE = THREADS / COLUMNS, WINDOWS = OWN_ROWS / WINDOW, TURNS = (WINDOWS + AT_ONCE - 1) / AT_ONCE;
  const int c = tid % COLUMNS * 4, n = n0 + c, first_window = tid / COLUMNS;
  int rows[TURNS], pixels[TURNS];
#pragma unroll
  for (int t = 0; t < TURNS; t++) {
    const int window = first_window + t * AT_ONCE;
    const bool has = first_window < AT_ONCE && window < WINDOWS;
    rows[t] = has ? first_row(window) : 0;
    pixels[t] = has && n < OC_STORED ? output_pixel(block * OWN_ROWS + rows[t]) : -1;
  }
  End end[4];
#pragma unroll
  for (int q = 0; q < 4; q++) end[q] = shared_ends[c + q];
  wait_phase(arrived, 0);
#if BULK
  cluster_arrive();
#endif
  const Sum* inbox = (const Sum*)(shared + INBOX_AT);
#pragma unroll
  for (int t = 0; t < TURNS; t++) {
    const int first = rows[t];
    Sum v[4];
#pragma unroll
    for (int g = 0; g < WINDOW; g++) {
      const int r = first + row_in_window(g);
      Sum sum[4] = {0, 0, 0, 0};
#pragma unroll
      for (int z = 0; z < SPLIT; z++) {
#if BULK
        const Sum* from = z == block ? sums : inbox;
#else
        const Sum* from = inbox;
#endif
        Pack<Sum, 4> part = load_pack<Sum, 4>(from + (z * OWN_ROWS + r) * INBOX_PITCH + c);
#pragma unroll
        for (int q = 0; q < 4; q++) sum[q] += part.v[q];
      }
#pragma unroll
      for (int q = 0; q < 4; q++) v[q] = g == 0 ? sum[q] : larger(v[q], sum[q]);
    }
    Pack<R, 4> add = {};
    if (RESIDUAL) add = load_pack<R, 4>((const R*)(shared + RESIDUAL_AT + first * RESIDUAL_PITCH) + c);
    float f[4];
#pragma unroll
    for (int q = 0; q < 4; q++) f[q] = finished(v[q], end[q], add.v[q]);
    const u32 low = stored2(f[0], f[1]), high = stored2(f[2], f[3]);
    // All rows are read, so that they are read together.
    if (pixels[t] < 0) continue;
#if Y_PLANES
    store_planes<OC>(y, pixels[t], n, f);
#elif IS_INTEGER(Y_KIND)
    *(u32*)(y + (u64)pixels[t] * LDY + n) = __byte_perm(low, high, 0x5410);
#else
    *(uint2*)(y + (u64)pixels[t] * LDY + n) = make_uint2(low, high);
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
#pragma unroll
  for (int i = 0; i < WM / 16; i++) {
#if POOLED
    constexpr int PIECES = WN / 8;
    const int c = warp.column * WN;
#pragma unroll
    for (int h = 0; h < (HALO ? 1 : 2); h++) {
      const int pixel = output_pixel(row0 + i * 16 + h * 8);
      Pack<Sum, PIECES * 2> s;
#pragma unroll
      for (int k = 0; k < PIECES * 2; k++) {
        const Sum* at = acc[i][k / 2] + k % 2;
        s.v[k] = HALO ? larger(at[0], at[2]) : at[h * 2];
      }
      const auto half = joined<4, PIECES>(s, lane);
      constexpr int STEP = PIECES % 2 == 0 ? 2 : 1, LEFT = PIECES / STEP;
      const int right = lane >> 2 & 1;
      const int from = c + (STEP == 2 ? right * 8 : 0);
      bool mine = STEP == 2 || right == 0;
#if HALO
      finish_window<LEFT, STEP>(half, shared_ends, y, pixel, n0, from, lane, mine);
#else
      const auto quarter = joined<8, LEFT>(half, lane);
      constexpr int TURNS = LEFT % 2 == 0 ? 2 : 1;
      const int below = lane >> 3 & 1;
      mine &= TURNS == 2 || below == 0;
      finish_window<LEFT / TURNS, STEP * TURNS>(quarter, shared_ends, y, pixel, n0, from + (TURNS == 2 ? below * STEP * 8 : 0), lane, mine);
#endif
    }
#else
#pragma unroll
    for (int h = 0; h < 2; h++) {
      u32 e[WN / 8];
      const int row = row0 + i * 16 + h * 8, pixel = output_pixel(row);
#pragma unroll
      for (int j = 0; j < WN / 8; j++) {
        int c = col0 + j * 8, n = n0 + c;
        Pack<R, 2> add = {};
        if (PREFETCH_RESIDUAL) add = load_pack<R, 2>((const R*)(shared + RESIDUAL_AT + row * RESIDUAL_PITCH) + c);
        else if (RESIDUAL && pixel >= 0 && n < OC_STORED) add = load_pack<R, 2>(res + (u64)pixel * LDR + n);
        const float v[2] = {finished(acc[i][j][h * 2], shared_ends[c], add.v[0]), finished(acc[i][j][h * 2 + 1], shared_ends[c + 1], add.v[1])};
#if Y_PLANES
        if (pixel >= 0) store_planes<OC>(y, pixel, n, v);
#else
        e[j] = stored2(v[0], v[1]);
#endif
      }
#if !Y_PLANES
      store_row<WN / 8, 1>(y, pixel, n0 + warp.column * WN, lane, e);
#endif
    }
#endif
  }
#endif
}
