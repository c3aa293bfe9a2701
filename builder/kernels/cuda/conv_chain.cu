// Three convolutions in one kernel, the second and third 1x1: a residual network's 3x3 layer, the
// layer that widens, with its residual, and the next block's that narrows. What lies between stays
// in shared memory ("back-to-back GEMM", CUTLASS's example 13, once more).
//
// A cluster of SPLIT blocks shares a tile of TILE_H x TILE_W pixels. Each brings the tile's patch of
// x, as conv_halo.cu has it, and computes OWN1 filters of the first, which it sends to the others by
// bulk copies through distributed shared memory. Of those it computes OWN2 filters of the second,
// stores them (KEEP), and multiplies them, its part of k, with the third's weights: partial sums of
// all its filters, which go to the blocks that own them. Within a block WN warps lie side by side
// and WK share k; their sums meet in shared memory. All weights are there at once, and on the way
// before the kernels in front are through: one more warp asks for them, because who asks for bulk
// copies waits until most of them are done.
//
// x [N, IH, IW, LDX] NHWC; weights as conv_im2col.cu has them, ends as conv_epilogue.cuh; mid [N, OH,
// OW, LDM] is what the second leaves, res like mid with LDR, y [N, OH, OW, LDY]. What is multiplied
// lies in rows of up to 128 bytes of k, a row for each pixel or filter, its 16-byte pieces swizzled.
#define THREADS (WR * WC * 32)
#define WM (BM / WR)
#define OWN1 (FILTERS1 / SPLIT)
#define OWN2 (FILTERS2 / SPLIT)
#define OWN3 (OC_STORED / SPLIT)
// Products of 32 bytes of k: a tap's, and the three layers'.
#define STEPS_OF_TAP (IC * ELEMENT / 32)
#define STEPS1 (KH * KW * STEPS_OF_TAP)
#define STEPS2 (FILTERS1 * ELEMENT / 32)
#define STEPS3 (OWN2 * ELEMENT / 32)
#define BLOCKS1 ((STEPS1 + 3) / 4)
#define BLOCKS2 ((STEPS2 + 3) / 4)
#define BLOCKS3 ((STEPS3 + 3) / 4)
#define WK1 (WC / WN1)
#define WK2 (WC / WN2)
#define PATCH_W ((TILE_W - 1) * SW + (KW - 1) * DW + 1)
#define PATCH_ROWS (((TILE_H - 1) * SH + (KH - 1) * DH + 1) * PATCH_W)
#define X_PIECES (IC * ELEMENT / 16)
#define SLAB (OWN1 * ELEMENT * BM)
#define PARTIAL (BM * OWN3 * 4)
#define RESIDUAL_PITCH (OWN2 * BYTES_OF(R_KIND) + 16)

typedef Numbers<X_KIND>::Type X;
typedef Numbers<M1_KIND>::Type Mid1;
typedef Numbers<M2_KIND>::Type Mid2;
typedef Numbers<Y_KIND>::Type Y;

// Four results side by side.
template <int KIND>
__device__ __forceinline__ Pack<u32, BYTES_OF(KIND)> packed(const float (&f)[4], float inverse, int zero) {
  if constexpr (IS_INTEGER(KIND))
    return {bytes4(quantised<KIND>(f[0], inverse, zero), quantised<KIND>(f[1], inverse, zero), quantised<KIND>(f[2], inverse, zero), quantised<KIND>(f[3], inverse, zero))};
  else return {pack_f16(f[0], f[1]), pack_f16(f[2], f[3])};
}

// Pieces of a row, of what has `pieces` of them.
__device__ constexpr int row_of(int pieces) { return pieces % 8 == 0 ? 8 : pieces; }
// Byte offset of a 16-byte piece of row `r`, P pieces a row; then come the next P pieces of all rows.
template <int P>
__device__ __forceinline__ u32 piece_at(u32 r, u32 piece, u32 rows) {
  return ((piece / P * rows + r) * P + (piece % P ^ r / (8 / P) % P)) * 16;
}
// Where the sum of row `r` and column `c` of N lies; columns are swizzled in eights.
template <int N>
__device__ __forceinline__ u32 sum_at(u32 r, u32 c) {
  return r * N + (N % 32 == 0 ? c ^ (r & 3) * 8 : N % 16 == 0 ? c ^ (r >> 1 & 1) * 8 : c);
}

// sums = a [WM rows, whose pieces `at_a` finds] x b [UNITS eights of rows from `unit` on], over every WK-th
// of STEPS products from `wk` on.
template <int KIND, int STEPS, int WK, int P, int UNITS, class AtA>
__device__ __forceinline__ void product(Sum (&sums)[WM / 16][UNITS][4], const AtA& at_a, u32 at_b, u32 b_rows, u32 unit, u32 wk) {
  const u32 lane = threadIdx.x & 31, b_row = lane & 7, b_half = lane >> 3 & 1, last = b_rows / 8 - 1;
  constexpr int EACH = (STEPS + WK - 1) / WK;
  // Odd and even products apart, where there are too few to hide their latency.
  constexpr int SUMS = WM / 16 * UNITS <= 4 && EACH >= 4 ? 2 : 1;
  Sum apart[SUMS][WM / 16][UNITS][4] = {};
#pragma unroll
  for (int next = 0; next < EACH; next++) {
    const u32 step = next * WK + wk;
    if (STEPS % WK != 0 && step >= STEPS) break;
    u32 a[WM / 16][4], b[UNITS][2];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) load_matrix4(a[i], at_a(i, next));
#pragma unroll
    for (int j = 0; j + 1 < UNITS; j += 2) {
      u32 d[4];
      // Columns that are none repeat the last ones: nobody stores their sums.
      load_matrix4(d, at_b + piece_at<P>(min(unit + j + (lane >> 4), last) * 8 + b_row, step * 2 + b_half, b_rows));
      b[j][0] = d[0], b[j][1] = d[1], b[j + 1][0] = d[2], b[j + 1][1] = d[3];
    }
    if (UNITS % 2) load_matrix2(b[UNITS - 1], at_b + piece_at<P>(min(unit + UNITS - 1, last) * 8 + b_row, step * 2 + b_half, b_rows));
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < UNITS; j++) mma<KIND>(apart[next % SUMS][i][j], a[i], b[j]);
  }
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int j = 0; j < UNITS; j++)
#pragma unroll
      for (int q = 0; q < 4; q++) sums[i][j][q] = SUMS == 2 ? apart[0][i][j][q] + apart[SUMS - 1][i][j][q] : apart[0][i][j][q];
}

// Stores a warp's sums: those of column c at to + (c / N) * BM * N, in rows of N.
template <int N, int UNITS>
__device__ __forceinline__ void store_sums(Sum* to, const Sum (&sums)[WM / 16][UNITS][4], u32 row, u32 unit, u32 units) {
  const u32 lane = threadIdx.x & 31;
#pragma unroll
  for (int j = 0; j < UNITS; j++) {
    if (unit + j >= units) break;
    const u32 c = (unit + j) * 8;
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const Pack<Sum, 2> v = {sums[i][j][h * 2], sums[i][j][h * 2 + 1]};
        store_pack(to + c / N * BM * N + sum_at<N>(row + i * 16 + h * 8 + (lane >> 2), c % N + (lane & 3) * 2), v);
      }
  }
}
// Threads that share four sums of PARTS parts each, where there are more threads than fours of N columns.
__device__ constexpr int sharing(int n, int parts) {
  int g = 1;
  while (2 * g <= parts && g < 8 && BM * (n / 4) * 2 * g <= THREADS) g *= 2;
  return g;
}
// Adds up the parts, of which `from` finds four sums each, and calls `finish` with them, for all rows and four
// of N columns at a time. What is read comes before what is written: the compiler must keep their order.
template <int N, int PARTS, class From, class Extra, class Finish>
__device__ __forceinline__ void add_up(const End* ends, const From& from, const Extra& extra, const Finish& finish) {
  constexpr int G = sharing(N, PARTS), QUADS = N / 4, AT_ONCE = THREADS / G, TURNS = (BM * QUADS + AT_ONCE - 1) / AT_ONCE;
  constexpr int TOGETHER = TURNS < 4 ? TURNS : 4;
  const u32 first = threadIdx.x / G, mine = threadIdx.x % G;
  constexpr bool SAME = AT_ONCE % QUADS == 0;
  Pack<End, 4> same;
  if (SAME) same = load_pack<End, 4>(ends + first % QUADS * 4);
#pragma unroll 1
  for (u32 begin = 0; begin < TURNS; begin += TOGETHER) {
    Sum v[TOGETHER][4] = {};
    Pack<End, 4> end[SAME ? 1 : TOGETHER];
    Pack<R, 4> more[TOGETHER];
    auto row = [&](u32 b) { return SAME ? first / QUADS + (begin + b) * (AT_ONCE / QUADS) : (first + (begin + b) * AT_ONCE) / QUADS; };
    auto column = [&](u32 b) { return SAME ? first % QUADS * 4 : (first + (begin + b) * AT_ONCE) % QUADS * 4; };
    auto none = [&](u32 b) { return BM * QUADS % (AT_ONCE * TOGETHER) != 0 && row(b) >= BM; };
#pragma unroll
    for (int b = 0; b < TOGETHER; b++) {
      if (none(b)) break;
      if (!SAME) end[SAME ? 0 : b] = load_pack<End, 4>(ends + column(b));
      more[b] = extra(row(b), column(b));
#pragma unroll
      for (int z = 0; z < PARTS; z += G) {
        if (PARTS % G != 0 && z + mine >= PARTS) break;
        const Pack<Sum, 4> part = load_pack<Sum, 4>(from(z + mine, row(b), column(b)));
#pragma unroll
        for (int q = 0; q < 4; q++) v[b][q] += part.v[q];
      }
    }
#pragma unroll
    for (int b = 0; b < TOGETHER; b++) {
      if (none(b)) break;
#pragma unroll
      for (int far = 1; far < G; far *= 2)
#pragma unroll
        for (int q = 0; q < 4; q++) v[b][q] += __shfl_xor_sync(0xffffffff, v[b][q], far);
      if (G == 1 || mine == 0) finish(row(b), column(b), v[b], SAME ? same : end[SAME ? 0 : b], more[b]);
    }
  }
}

// A barrier of the warps that multiply.
__device__ __forceinline__ void sync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

// The place of the tile's pixel `r` among all output pixels, or -1.
__device__ __forceinline__ int pixel_of(u32 r, u32 image, u32 top, u32 left) {
  const u32 h = top + r / TILE_W, w = left + r % TILE_W;
  return r < TILE_H * TILE_W && h < OH && w < OW ? (int)((image * OH + h) * OW + w) : -1;
}

extern "C" __global__ void CLUSTER_SHAPE __launch_bounds__(THREADS + 32 * BULK_WEIGHTS, RESIDENT)
KERNEL(const X* x, const W* __restrict__ w1, const End* __restrict__ ends1, const W* __restrict__ w2, const End* __restrict__ ends2,
       const W* __restrict__ w3, const End* __restrict__ ends3, Y* y, Mid2* mid, const R* res) {
  extern __shared__ __align__(128) u8 shared[];
  const u32 tid = threadIdx.x, lane = tid & 31, wr = (tid >> 5) / WC, wc = (tid >> 5) % WC;
  constexpr int ACROSS = (OW + TILE_W - 1) / TILE_W, DOWN = (OH + TILE_H - 1) / TILE_H;
  const u32 slice = blockIdx.x, image = blockIdx.y / (ACROSS * DOWN), top = blockIdx.y / ACROSS % DOWN * TILE_H, left = blockIdx.y % ACROSS * TILE_W;
  const u32 base = (u32)__cvta_generic_to_shared(shared);

  // Weights: of each block of k the rows of this block's filters. Of the third all filters, but the
  // block's own part of k, which can be a part of each row in memory.
  constexpr int P3 = row_of(OWN2 * ELEMENT / 16);
#if BULK_WEIGHTS
  const bool asks = tid >= THREADS;
  if (tid == THREADS) {
    open_barriers();
    expect(0, BLOCKS1 * OWN1 * 128);
    expect(1, (BLOCKS2 * OWN2 + (P3 == 8 ? BLOCKS3 * OC_STORED : 0)) * 128);
#if SPLIT > 1
    expect(2, (SPLIT - 1) * SLAB);
    expect(3, (SPLIT - 1) * PARTIAL);
#endif
  }
  __syncthreads();
#if SPLIT > 1
  cluster_arrive();  // waited for before a block sends to another
#endif
  if (asks) {
    for (u32 k = lane; k < BLOCKS1; k += 32)
      copy_bulk(base + W1_AT + k * OWN1 * 128, w1 + ((u64)k * FILTERS1 + slice * OWN1) * (128 / ELEMENT), OWN1 * 128, 0);
    // The others' behind those and x, for which the first product waits.
    wait_for(0);
    for (u32 k = lane; k < BLOCKS2; k += 32)
      copy_bulk(base + W2_AT + k * OWN2 * 128, w2 + ((u64)k * FILTERS2 + slice * OWN2) * (128 / ELEMENT), OWN2 * 128, 1);
    if (P3 == 8)
      for (u32 k = lane; k < BLOCKS3; k += 32)
        copy_bulk(base + W3_AT + k * OC_STORED * 128, w3 + (u64)(slice * BLOCKS3 + k) * OC_STORED * (128 / ELEMENT), OC_STORED * 128, 1);
    release_dependents();
#if SPLIT > 1
    __syncwarp();
    cluster_wait();
    cluster_arrive();
    cluster_wait();
#endif
    return;
  }
#else
#pragma unroll 4
  for (u32 i = tid; i < BLOCKS1 * OWN1 * 8; i += THREADS) copy16(base + W1_AT + i * 16, w1 + i * PIECE, true);
#endif
  auto copy_third = [&] {
#pragma unroll 4
    for (u32 i = tid; i < OC_STORED * (OWN2 * ELEMENT / 16); i += THREADS) {
      const u32 n = i / (OWN2 * ELEMENT / 16), p = i % (OWN2 * ELEMENT / 16), of_row = slice * (OWN2 * ELEMENT / 16) + p;
      copy16(base + W3_AT + piece_at<P3>(n, p, OC_STORED), w3 + ((u64)(of_row / 8) * OC_STORED + n) * (128 / ELEMENT) + (of_row % 8 ^ (n & 7)) * PIECE, true);
    }
  };
  if (BULK_WEIGHTS && P3 != 8) copy_third();
  End* shared_ends1 = (End*)(shared + ENDS_AT);
  End *shared_ends2 = shared_ends1 + OWN1, *shared_ends3 = shared_ends2 + OWN2;
  for (u32 i = tid; i < OWN1 + OWN2 + OWN3; i += THREADS) {
    const u32 of = (i >= OWN1) + (i >= OWN1 + OWN2);
    const u32 n = of == 0 ? slice * OWN1 + i : of == 1 ? slice * OWN2 + i - OWN1 : slice * OWN3 + i - OWN1 - OWN2;
    const bool valid = n < (of == 0 ? VALID1 : of == 1 ? VALID2 : OC);
    const End* from = (of == 0 ? ends1 : of == 1 ? ends2 : ends3) + (valid ? n : 0);
    const u32 at = (u32)__cvta_generic_to_shared(shared_ends1 + i);
    if (sizeof(End) == 8) copy8(at, from, valid);
    else copy4(at, from, valid);
  }
  // Where this thread's pieces of x and of the residual are: found before the wait.
  constexpr int PX = row_of(X_PIECES), X_ALL = PATCH_ROWS * X_PIECES, X_EACH = (X_ALL + THREADS - 1) / THREADS;
  int x_from[X_EACH];
#pragma unroll
  for (int u = 0; u < X_EACH; u++) {
    const u32 i = tid + u * THREADS, r = i / X_PIECES, p = i % X_PIECES;
    const int ih = (int)(top * SH + r / PATCH_W) - PT, iw = (int)(left * SW + r % PATCH_W) - PL;
    const bool valid = i < X_ALL && ih >= 0 && ih < IH && iw >= 0 && iw < IW;
    x_from[u] = valid ? (int)(((image * IH + ih) * IW + iw) * LDX + p * PIECE) : -1;
  }
#if RESIDUAL
  constexpr int R_PIECE = 16 / BYTES_OF(R_KIND), R_ROW = OWN2 / R_PIECE, R_ALL = BM * R_ROW, R_EACH = (R_ALL + THREADS - 1) / THREADS;
  int r_from[R_EACH];
#pragma unroll
  for (int u = 0; u < R_EACH; u++) {
    const u32 i = tid + u * THREADS;
    const int m = i < R_ALL ? pixel_of(i / R_ROW, image, top, left) : -1;
    r_from[u] = m >= 0 ? (int)(m * LDR + slice * OWN2 + i % R_ROW * R_PIECE) : -1;
  }
#endif
  release_dependents();
  wait_for_producers();

#pragma unroll
  for (int u = 0; u < X_EACH; u++) {
    const u32 i = tid + u * THREADS;
    if (X_ALL % THREADS == 0 || i < X_ALL)
      copy16(base + X_AT + piece_at<PX>(i / X_PIECES, i % X_PIECES, PATCH_ROWS), x_from[u] >= 0 ? x + x_from[u] : x, x_from[u] >= 0);
  }
#if RESIDUAL
#pragma unroll
  for (int u = 0; u < R_EACH; u++) {
    const u32 i = tid + u * THREADS;
    if (R_ALL % THREADS == 0 || i < R_ALL)
      copy16(base + RESIDUAL_AT + i / R_ROW * RESIDUAL_PITCH + i % R_ROW * 16, r_from[u] >= 0 ? res + r_from[u] : res, r_from[u] >= 0);
  }
#endif
  asm volatile("cp.async.commit_group;");
#if BULK_WEIGHTS
  asm volatile("cp.async.wait_group 0;");
  sync();
  wait_for(0);
#else
#pragma unroll 4
  for (u32 i = tid; i < BLOCKS2 * OWN2 * 8; i += THREADS) copy16(base + W2_AT + i * 16, w2 + i * PIECE, true);
  copy_third();
  asm volatile("cp.async.commit_group;");
  asm volatile("cp.async.wait_group 1;");
  sync();
#endif

  auto nothing = [](u32, u32) { return Pack<R, 4>{}; };
  // The first: sums of the warps that share k lie over its weights when all are through.
  Sum* parts = (Sum*)(shared + PARTS_AT);
  constexpr int P1 = row_of(OWN1 * ELEMENT / 16);
  {
    constexpr int UNITS = (OWN1 / 8 + WN1 - 1) / WN1;
    const u32 wn = wc % WN1, wk = wc / WN1;
    u32 row[WM / 16];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
      const u32 r = min(wr * WM + i * 16 + (lane & 15), (u32)(TILE_H * TILE_W - 1));
      row[i] = r / TILE_W * SH * PATCH_W + r % TILE_W * SW;
    }
    auto at_a = [&](int i, int next) {
      // Where the warps share each tap, which one it is is known to the compiler.
      constexpr int OF_TAP = STEPS_OF_TAP % WK1 == 0 ? STEPS_OF_TAP / WK1 : 1;
      const u32 step = next * WK1 + wk;
      const u32 tap = STEPS_OF_TAP % WK1 == 0 ? next / OF_TAP : step / STEPS_OF_TAP;
      const u32 of_tap = STEPS_OF_TAP % WK1 == 0 ? next % OF_TAP * WK1 + wk : step % STEPS_OF_TAP;
      return base + X_AT + piece_at<PX>(row[i] + tap / KW * DH * PATCH_W + tap % KW * DW, of_tap * 2 + (lane >> 4), PATCH_ROWS);
    };
    Sum sums[WM / 16][UNITS][4];
    product<X_KIND, STEPS1, WK1, 8>(sums, at_a, base + W1_AT, OWN1, wn * UNITS, wk);
    sync();
    store_sums<OWN1>(parts + wk * BM * OWN1, sums, wr * WM, wn * UNITS, OWN1 / 8);
  }
  sync();
  add_up<OWN1, WK1>(
      shared_ends1, [&](u32 z, u32 r, u32 c) { return parts + z * BM * OWN1 + sum_at<OWN1>(r, c); }, nothing,
      [&](u32 r, u32 c, Sum (&v)[4], const Pack<End, 4>& end, const Pack<R, 4>&) {
        const u32 own = slice * OWN1 + c;
        float f[4];
#pragma unroll
        for (int q = 0; q < 4; q++) f[q] = activated<ACT>(with_end(v[q], end.v[q]), ACT_A, ACT_B);
        u8* to = shared + MID1_AT + piece_at<P1>(r, own / PIECE, BM) + own % PIECE * ELEMENT;
        store_pack((u32*)to, packed<M1_KIND>(f, M1_INVERSE, M1_ZERO));
      });
#if SPLIT > 1
  // What was written becomes visible to the copies.
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  cluster_wait();
#endif
#if !BULK_WEIGHTS
  asm volatile("cp.async.wait_group 0;");
#endif
  sync();
#if SPLIT > 1
  if (tid < SPLIT && tid != slice) send(base + MID1_AT + slice * SLAB, base + MID1_AT + slice * SLAB, SLAB, 2, tid);
  __syncwarp();
#endif
#if BULK_WEIGHTS
  wait_for(1);
#endif
#if SPLIT > 1
  wait_for(2);
#endif

  // The second, whose results are the block's own part of the third's k.
  {
    constexpr int UNITS = (OWN2 / 8 + WN2 - 1) / WN2;
    const u32 wn = wc % WN2, wk = wc / WN2;
    auto at_a = [&](int i, int next) { return base + MID1_AT + piece_at<P1>(wr * WM + i * 16 + (lane & 15), (next * WK2 + wk) * 2 + (lane >> 4), BM); };
    Sum sums[WM / 16][UNITS][4];
    product<M1_KIND, STEPS2, WK2, 8>(sums, at_a, base + W2_AT, OWN2, wn * UNITS, wk);
    store_sums<OWN2>(parts + wk * BM * OWN2, sums, wr * WM, wn * UNITS, OWN2 / 8);
  }
  sync();
  add_up<OWN2, WK2>(
      shared_ends2, [&](u32 z, u32 r, u32 c) { return parts + z * BM * OWN2 + sum_at<OWN2>(r, c); },
      [&](u32 r, u32 c) { return RESIDUAL ? load_pack<R, 4>((const R*)(shared + RESIDUAL_AT + r * RESIDUAL_PITCH) + c) : Pack<R, 4>{}; },
      [&](u32 r, u32 c, Sum (&v)[4], const Pack<End, 4>& end, const Pack<R, 4>& add) {
        float f[4];
#pragma unroll
        for (int q = 0; q < 4; q++) {
          f[q] = with_end(v[q], end.v[q]);
          if (RESIDUAL && !RESIDUAL_LAST) f[q] = with_residual(f[q], add.v[q]);
          f[q] = activated<ACT2>(f[q], ACT2_A, ACT2_B);
          if (RESIDUAL && RESIDUAL_LAST) f[q] = with_residual(f[q], add.v[q]);
        }
        const auto out = packed<M2_KIND>(f, M2_INVERSE, M2_ZERO);
        store_pack((u32*)(shared + MID2_AT + piece_at<P3>(r, c / PIECE, BM) + c % PIECE * ELEMENT), out);
        const int m = KEEP ? pixel_of(r, image, top, left) : -1;
        if (m >= 0) store_pack((u32*)(mid + (u64)m * LDM + slice * OWN2 + c), out);
      });
  sync();

  // The third: a block's part of k, of all filters.
  Sum* outgoing = (Sum*)(shared + OUT_AT);
  {
    constexpr int UNITS = (OC_STORED / 8 + WC - 1) / WC;
    auto at_a = [&](int i, int next) { return base + MID2_AT + piece_at<P3>(wr * WM + i * 16 + (lane & 15), next * 2 + (lane >> 4), BM); };
    Sum sums[WM / 16][UNITS][4];
    product<M2_KIND, STEPS3, 1, P3>(sums, at_a, base + W3_AT, OC_STORED, wc * UNITS, 0);
    store_sums<OWN3>(outgoing, sums, wr * WM, wc * UNITS, OC_STORED / 8);
  }
#if SPLIT > 1
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  sync();
#if SPLIT > 1
  if (tid < SPLIT && tid != slice) send(base + IN_AT + slice * PARTIAL, base + OUT_AT + tid * PARTIAL, PARTIAL, 3, tid);
  __syncwarp();
  wait_for(3);
  __syncwarp();
  cluster_arrive();  // nobody leaves while its sums are being copied
#endif
  add_up<OWN3, SPLIT>(
      shared_ends3,
      [&](u32 z, u32 r, u32 c) {
        const u32 at = SPLIT > 1 && z != slice ? IN_AT + z * PARTIAL : OUT_AT + slice * PARTIAL;
        return (const Sum*)(shared + at) + sum_at<OWN3>(r, c);
      },
      nothing,
      [&](u32 r, u32 c, Sum (&v)[4], const Pack<End, 4>& end, const Pack<R, 4>&) {
        const int m = pixel_of(r, image, top, left);
        if (m < 0) return;
        float f[4];
#pragma unroll
        for (int q = 0; q < 4; q++) f[q] = activated<ACT3>(with_end(v[q], end.v[q]), ACT3_A, ACT3_B);
        store_pack((u32*)(y + (u64)m * LDY + slice * OWN3 + c), packed<Y_KIND>(f, Y_INVERSE, Y_ZERO));
      });
#if SPLIT > 1
  cluster_wait();
#endif
}
