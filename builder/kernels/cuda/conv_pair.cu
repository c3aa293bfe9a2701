// Two convolutions in one kernel: what the first leaves of a tile of pixels stays in shared memory,
// where the second, a 1x1 convolution, multiplies it ("back-to-back GEMM", CUTLASS's example 13).
//
// A cluster of SPLIT blocks shares a tile of BM pixels. Each computes a SLICE of the first
// convolution's filters and sends it to the others, one bulk copy each through distributed shared
// memory, counted by a barrier for each slice; then it computes its part of the second one's
// filters, its warps each a part of k, so that each waits for the slices that it reads alone. All
// of a block's weights are in shared memory at once, and on the way there before the kernels in
// front are through.
//
// x [N, IH, IW, LDX] NHWC; w1, w2 as conv_im2col.cu has them, ends1, ends2 as conv_epilogue.cuh;
// mid [N, OH, OW, LDM] is what the first leaves (KEEP: stored for other layers too), res like mid
// with LDR, y [N, OH, OW, LDY]. In shared memory x and mid lie in blocks of 128 bytes of k like the
// weights: a row for each pixel, its 16-byte pieces swizzled.
#define THREADS (WR * WC * 32)
#define WM (BM / WR)
#define M_TOTAL (BATCH * OH * OW)
#define K1 (KH * KW * IC)
// Products of 32 bytes of k, and blocks of 128.
#define STEPS1 ((K1 * ELEMENT + 31) / 32)
#define STEPS2 ((SLICE * SPLIT * ELEMENT + 31) / 32)
#define BLOCKS1 ((K1 * ELEMENT + 127) / 128)
#define BLOCKS2 ((SLICE * SPLIT * ELEMENT + 127) / 128)
// Filters of the second one that a block finishes.
#define OWN (OC_STORED / SPLIT)
// A warp's columns, in eights; in a cluster of the second one's all, and a part of k.
#define UNITS1 ((SLICE / 8 + WC - 1) / WC)
#define UNITS2 (SPLIT > 1 ? OWN / 8 : (OWN / 8 + WC - 1) / WC)
#define RESIDUAL_PITCH (SLICE * BYTES_OF(R_KIND) + 16)
#define SLAB (SLICE * ELEMENT * BM)
#define SUMS_PITCH (OWN + 4)
#define Y_PITCH (OC_STORED * BYTES_OF(Y_KIND) + 16)

typedef Numbers<X_KIND>::Type X;
typedef Numbers<M_KIND>::Type Mid;
typedef Numbers<Y_KIND>::Type Y;

// Byte offset of a 16-byte piece of row `r` in blocks of `rows` rows.
__device__ __forceinline__ u32 piece_at(u32 r, u32 piece, u32 rows) {
  return (piece / 8 * rows + r) * 128 + ((piece % 8 ^ (r & 7)) << 4);
}

// sums = a [WM rows from `row` on] x b [UNITS eights of rows from `unit` on], both swizzled blocks, over
// STEPS products from `from` on.
template <int KIND, int STEPS, int UNITS>
__device__ __forceinline__ void product(Sum (&sums)[WM / 16][UNITS][4], u32 at_a, u32 row, u32 at_b, u32 b_rows, u32 unit, u32 from) {
  const u32 lane = threadIdx.x & 31;
  // Odd and even products apart, where there are too few to hide their latency.
  constexpr int SUMS = WM / 16 * UNITS <= 4 && STEPS >= 4 ? 2 : 1;
  Sum apart[SUMS][WM / 16][UNITS][4] = {};
  const u32 b_row = lane & 7, b_half = lane >> 3 & 1, last = b_rows / 8 - 1;
  auto multiply = [&](u32 begin, int next) {
    const u32 step = from + begin + next;
    u32 a[WM / 16][4], b[UNITS][2];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) load_matrix4(a[i], at_a + piece_at(row + i * 16 + (lane & 15), step * 2 + (lane >> 4), BM));
#pragma unroll
    for (int j = 0; j + 1 < UNITS; j += 2) {
      u32 d[4];
      // Columns that are none repeat the last ones: nobody stores their sums.
      load_matrix4(d, at_b + piece_at(min(unit + j + (lane >> 4), last) * 8 + b_row, step * 2 + b_half, b_rows));
      b[j][0] = d[0], b[j][1] = d[1], b[j + 1][0] = d[2], b[j + 1][1] = d[3];
    }
    if (UNITS % 2) load_matrix2(b[UNITS - 1], at_b + piece_at(min(unit + UNITS - 1, last) * 8 + b_row, step * 2 + b_half, b_rows));
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < UNITS; j++) mma<KIND>(apart[next % SUMS][i][j], a[i], b[j]);
  };
  // Eight at a time: which of the sums a product adds to is known to the compiler.
#pragma unroll 1
  for (u32 begin = 0; begin < STEPS / 8 * 8; begin += 8)
#pragma unroll
    for (int next = 0; next < 8; next++) multiply(begin, next);
#pragma unroll
  for (int next = 0; next < STEPS % 8; next++) multiply(STEPS / 8 * 8, next);
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int j = 0; j < UNITS; j++)
#pragma unroll
      for (int q = 0; q < 4; q++) sums[i][j][q] = SUMS == 2 ? apart[0][i][j][q] + apart[SUMS - 1][i][j][q] : apart[0][i][j][q];
}

// Two results side by side.
template <int KIND>
__device__ __forceinline__ void put2(u8* to, float p, float q, float inverse, int zero) {
  if constexpr (IS_INTEGER(KIND)) *(u16*)to = (u16)bytes2(quantised<KIND>(p, inverse, zero), quantised<KIND>(q, inverse, zero));
  else if constexpr (KIND == 0) *(float2*)to = make_float2(p, q);
  else *(u32*)to = pack_f16(p, q);
}
__device__ __forceinline__ float first_end(Sum sum, End end, R r) {
  float v = with_end(sum, end);
  if (RESIDUAL && !RESIDUAL_LAST) v = with_residual(v, r);
  v = activated<ACT>(v, ACT_A, ACT_B);
  return RESIDUAL && RESIDUAL_LAST ? with_residual(v, r) : v;
}
__device__ __forceinline__ float second_end(Sum sum, End end) { return activated<ACT2>(with_end(sum, end), ACT2_A, ACT2_B); }

extern "C" __global__ void CLUSTER_SHAPE __launch_bounds__(THREADS, 1)
KERNEL(const X* x, const W* __restrict__ w1, const End* __restrict__ ends1, const W* __restrict__ w2, const End* __restrict__ ends2, Y* y, Mid* mid, const R* res) {
  extern __shared__ __align__(128) u8 shared[];
  const u32 tid = threadIdx.x, lane = tid & 31, wr = (tid >> 5) / WC, wc = (tid >> 5) % WC;
  const u32 slice = blockIdx.x, m0 = blockIdx.y * BM, mid0 = slice * SLICE;
  const u32 base = (u32)__cvta_generic_to_shared(shared);

  // Weights: of each block of k the rows of this block's filters.
#if BULK_WEIGHTS
  if (tid == 0) {
    open_barriers();
    expect(0, BLOCKS1 * SLICE * 128);
    for (int k = 0; k < BLOCKS1; k++) copy_bulk(base + W1_AT + k * SLICE * 128, w1 + ((u64)k * MID_STORED + mid0) * (128 / ELEMENT), SLICE * 128, 0);
    expect(1, BLOCKS2 * OWN * 128);
    for (int k = 0; k < (SPLIT > 1 ? BLOCKS2 : 1); k++)
      copy_bulk(base + W2_AT + k * OWN * 128, w2 + ((u64)k * OC_STORED + slice * OWN) * (128 / ELEMENT), (SPLIT > 1 ? 1 : BLOCKS2) * OWN * 128, 1);
#if SPLIT > 1
    for (int i = 0; i < SPLIT; i++)
      if (i != slice) expect(2 + i, SLAB);
#endif
  }
#if SPLIT > 1
  cluster_arrive();  // waited for before a block sends to another
#endif
#else
#pragma unroll 4
  for (u32 i = tid; i < BLOCKS1 * SLICE * 8; i += THREADS)
    copy16(base + W1_AT + i * 16, w1 + ((u64)(i / (SLICE * 8)) * MID_STORED + mid0) * (128 / ELEMENT) + i % (SLICE * 8) * PIECE, true);
#endif
  End* shared_ends1 = (End*)(shared + ENDS_AT);
  End* shared_ends2 = shared_ends1 + SLICE;
  for (u32 i = tid; i < SLICE + OWN; i += THREADS) {
    const bool one = i < SLICE;
    const u32 n = one ? mid0 + i : slice * OWN + i - SLICE;
    const bool valid = n < (one ? MID : OC);
    const End* from = (one ? ends1 : ends2) + (valid ? n : 0);
    u32 at = (u32)__cvta_generic_to_shared(shared_ends1 + i);
    if (sizeof(End) == 8) copy8(at, from, valid);
    else copy4(at, from, valid);
  }
  // Where the slice ends in the middle of a product, its other half is zeros.
  if (SPLIT == 1 && STEPS2 * 32 > SLICE * ELEMENT)
    for (u32 r = tid; r < BM; r += THREADS) *(uint4*)(shared + MID_AT + piece_at(r, STEPS2 * 2 - 1, BM)) = make_uint4(0, 0, 0, 0);
  release_dependents();
  wait_for_producers();

#pragma unroll 4
  for (u32 i = tid; i < BM * STEPS1 * 2; i += THREADS) {
    const u32 r = i / (STEPS1 * 2), p = i % (STEPS1 * 2), m = m0 + r, k = p * PIECE, tap = k / IC;
    const u32 image = m / (OH * OW), pixel = m % (OH * OW);
    const int ih = (int)(pixel / OW * SH + tap / KW * DH) - PT, iw = (int)(pixel % OW * SW + tap % KW * DW) - PL;
    const bool valid = m < M_TOTAL && k < K1 && ih >= 0 && ih < IH && iw >= 0 && iw < IW;
    copy16(base + X_AT + piece_at(r, p, BM), valid ? x + (u64)((image * IH + ih) * IW + iw) * LDX + k % IC : x, valid);
  }
#if RESIDUAL
  constexpr int R_PIECE = 16 / BYTES_OF(R_KIND);
#pragma unroll 4
  for (u32 i = tid; i < BM * (SLICE / R_PIECE); i += THREADS) {
    const u32 r = i / (SLICE / R_PIECE), c = i % (SLICE / R_PIECE) * R_PIECE;
    const bool valid = m0 + r < M_TOTAL;
    copy16(base + RESIDUAL_AT + r * RESIDUAL_PITCH + c * BYTES_OF(R_KIND), valid ? res + (u64)(m0 + r) * LDR + mid0 + c : res, valid);
  }
#endif
  asm volatile("cp.async.commit_group;");
#if BULK_WEIGHTS
  asm volatile("cp.async.wait_group 0;");
  __syncthreads();
  wait_for(0);
#else
#pragma unroll 4
  for (u32 i = tid; i < BLOCKS2 * OC_STORED * 8; i += THREADS) copy16(base + W2_AT + i * 16, w2 + i * PIECE, true);
  asm volatile("cp.async.commit_group;");
  asm volatile("cp.async.wait_group 1;");
  __syncthreads();
#endif

  {
    Sum sums[WM / 16][UNITS1][4];
    product<X_KIND, STEPS1>(sums, base + X_AT, wr * WM, base + W1_AT, SLICE, wc * UNITS1, 0);
    // All is read before anything is written: what may be in one place stays in its order.
    Pack<R, 2> add[WM / 16][2][UNITS1] = {};
    End end[UNITS1][2];
#pragma unroll
    for (int j = 0; j < UNITS1; j++) {
      const u32 c = min(wc * UNITS1 + j, (u32)(SLICE / 8 - 1)) * 8 + (lane & 3) * 2;
      end[j][0] = shared_ends1[c], end[j][1] = shared_ends1[c + 1];
#if RESIDUAL
#pragma unroll
      for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) add[i][h][j] = load_pack<R, 2>((const R*)(shared + RESIDUAL_AT + (wr * WM + i * 16 + h * 8 + (lane >> 2)) * RESIDUAL_PITCH) + c);
#endif
    }
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < UNITS1; j++) {
          const u32 r = wr * WM + i * 16 + h * 8 + (lane >> 2), unit = wc * UNITS1 + j, c = mid0 * (SPLIT > 1) + unit * 8 + (lane & 3) * 2;
          if (SLICE / 8 % WC != 0 && unit >= SLICE / 8) continue;
          const float p = first_end(sums[i][j][h * 2], end[j][0], add[i][h][j].v[0]);
          const float q = first_end(sums[i][j][h * 2 + 1], end[j][1], add[i][h][j].v[1]);
          put2<M_KIND>(shared + MID_AT + piece_at(r, c / PIECE, BM) + c % PIECE * ELEMENT, p, q, M_INVERSE, M_ZERO);
        }
  }
#if SPLIT > 1
  // What was written becomes visible to the copies.
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  cluster_wait();
#endif
#if !BULK_WEIGHTS
  asm volatile("cp.async.wait_group 0;");
#endif
  __syncthreads();
#if SPLIT > 1
  if (tid < SPLIT && tid != slice) send(base + MID_AT + slice * SLAB, base + MID_AT + slice * SLAB, SLAB, 2 + slice, tid);
  __syncwarp();
#endif
#if KEEP
#pragma unroll 2
  for (u32 i = tid; i < BM * (SLICE / PIECE); i += THREADS) {
    const u32 r = i / (SLICE / PIECE), p = i % (SLICE / PIECE), at = p + mid0 / PIECE * (SPLIT > 1);
    if (m0 + r < M_TOTAL) *(uint4*)(mid + (u64)(m0 + r) * LDM + mid0 + p * PIECE) = *(const uint4*)(shared + MID_AT + piece_at(r, at, BM));
  }
#endif
#if BULK_WEIGHTS
  wait_for(1);
#endif
  Sum sums[WM / 16][UNITS2][4];
#if SPLIT > 1
  constexpr int EACH = STEPS2 / WC, STEPS_OF_SLICE = STEPS2 / SPLIT;
#pragma unroll
  for (int i = 0; i < SPLIT; i++)
    if (i != slice && i * STEPS_OF_SLICE < (wc + 1) * EACH && (i + 1) * STEPS_OF_SLICE > wc * EACH) wait_for(2 + i);
  product<M_KIND, EACH>(sums, base + MID_AT, wr * WM, base + W2_AT, OWN, 0, wc * EACH);
  cluster_arrive();  // nobody leaves while its slice is being copied
  // The warps' sums lie over the first one's weights.
  Sum* parts = (Sum*)(shared + W1_AT);
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int j = 0; j < UNITS2; j++) {
        const Pack<Sum, 2> v = {sums[i][j][h * 2], sums[i][j][h * 2 + 1]};
        store_pack(parts + (wc * BM + wr * WM + i * 16 + h * 8 + (lane >> 2)) * SUMS_PITCH + j * 8 + (lane & 3) * 2, v);
      }
  __syncthreads();
#pragma unroll 2
  for (u32 p = tid; p < BM * (OWN / 4); p += THREADS) {
    const u32 r = PIXELS_FIRST ? p % BM : p / (OWN / 4), c = (PIXELS_FIRST ? p / BM : p % (OWN / 4)) * 4, m = m0 + r;
    if (m >= M_TOTAL) continue;
    Sum v[4] = {};
#pragma unroll
    for (int z = 0; z < WC; z++) {
      const Pack<Sum, 4> part = load_pack<Sum, 4>(parts + (z * BM + r) * SUMS_PITCH + c);
#pragma unroll
      for (int q = 0; q < 4; q++) v[q] += part.v[q];
    }
    float f[4];
#pragma unroll
    for (int q = 0; q < 4; q++) f[q] = second_end(v[q], shared_ends2[c + q]);
#if Y_PLANES
    store_planes<OC>(y, m, slice * OWN + c, f);
#else
    Pack<Y, 4> out;
    put2<Y_KIND>((u8*)&out, f[0], f[1], Y_INVERSE, Y_ZERO);
    put2<Y_KIND>((u8*)&out + 2 * BYTES_OF(Y_KIND), f[2], f[3], Y_INVERSE, Y_ZERO);
    store_pack(y + (u64)m * LDY + slice * OWN + c, out);
#endif
  }
  cluster_wait();
#else
  product<M_KIND, STEPS2>(sums, base + MID_AT, wr * WM, base + W2_AT, OWN, wc * UNITS2, 0);
  End end[UNITS2][2];
#pragma unroll
  for (int j = 0; j < UNITS2; j++) {
    const u32 c = min(wc * UNITS2 + j, (u32)(OWN / 8 - 1)) * 8 + (lane & 3) * 2;
    end[j][0] = shared_ends2[c], end[j][1] = shared_ends2[c + 1];
  }
  // Results lie over the first one's weights, to be stored in whole rows.
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int j = 0; j < UNITS2; j++) {
        const u32 r = wr * WM + i * 16 + h * 8 + (lane >> 2), unit = wc * UNITS2 + j, c = unit * 8 + (lane & 3) * 2;
        if (OC_STORED / 8 % WC != 0 && unit >= OC_STORED / 8) continue;
        put2<Y_KIND>(shared + W1_AT + r * Y_PITCH + c * BYTES_OF(Y_KIND), second_end(sums[i][j][h * 2], end[j][0]), second_end(sums[i][j][h * 2 + 1], end[j][1]), Y_INVERSE, Y_ZERO);
      }
  __syncthreads();
#if Y_PLANES
#pragma unroll 2
  for (u32 i = tid; i < BM * OC; i += THREADS) {
    const u32 r = PIXELS_FIRST ? i % BM : i / OC, c = PIXELS_FIRST ? i / BM : i % OC;
    const float v[1] = {number(*(const Y*)(shared + W1_AT + r * Y_PITCH + c * BYTES_OF(Y_KIND)))};
    if (m0 + r < M_TOTAL) store_planes<OC>(y, m0 + r, c, v);
  }
#else
  constexpr int Y_PIECE = 8 / BYTES_OF(Y_KIND);
#pragma unroll 2
  for (u32 i = tid; i < BM * (OC_STORED / Y_PIECE); i += THREADS) {
    const u32 r = i / (OC_STORED / Y_PIECE), c = i % (OC_STORED / Y_PIECE) * Y_PIECE;
    if (m0 + r < M_TOTAL) *(uint2*)(y + (u64)(m0 + r) * LDY + c) = *(const uint2*)(shared + W1_AT + r * Y_PITCH + c * BYTES_OF(Y_KIND));
  }
#endif
#endif
}
