// Convolution as an implicit GEMM on tensor cores: f16 with f32 sums (mma.sync m16n8k16), 8-bit
// integers with s32 sums (m16n8k32), or with WGMMA (compute capability 9.0a) warpgroup products
// m64nBN straight from shared memory.
//
// x [N, IH, IW, LDX] NHWC, w [K_PADDED / 64 or 128, OC_STORED, 64 or 128] (`weight_at`) with K
// ordered (kh, kw, c), ends [OC] (see conv_epilogue.cuh), y [N, OH, OW, LDY], res like y with LDR.
// GEMM: M = N*OH*OW pixels, N = OC, K = KH*KW*IC. The im2col matrix exists only in shared memory,
// filled by cp.async, ST stages deep, rows of BK elements with their 16-byte chunks swizzled
// against bank conflicts; weights lie so in memory already. With SPLIT > 1 blocks
// share K: the last one to finish a tile adds the others' partial sums, or, with CLUSTER
// (compute capability 9.0 on), the blocks of a tile are one cluster, and each adds up and
// finishes a part of the tile out of the others' shared memory.
//
// The swizzle of 128-byte rows is the one that wgmma's shared-memory descriptors call 128-byte
// swizzling, so both forms share their copies and their epilogue.
//
// Shapes are compile-time constants, so index divisions become multiplications and each
// thread's addresses and its per-tap bounds mask are computed once, outside the K loop.
//
// Design: CUTLASS's implicit GEMM documentation; split-K with a ticket: "Stream-K" (Osama et
// al. 2023), section on fixed-split with fix-up.

extern "C" __global__ void CLUSTER_SHAPE __launch_bounds__(THREADS)
KERNEL(const X* x, const W* __restrict__ w, const StoredEnd* __restrict__ ends, Y* y, const R* res, Sum* __restrict__ partial,
       int* __restrict__ tickets TOTALS_PARAMETER) {
#if WGMMA
  extern __shared__ __align__(1024) u8 unaligned[];
  u8* shared = unaligned + (1024 - (u32)__cvta_generic_to_shared(unaligned) % 1024) % 1024;
#else
  extern __shared__ __align__(128) u8 shared[];
#endif
  __shared__ End shared_ends[BN];
  const int tid = threadIdx.x;
  const Place warp = place();
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  const int k_begin = SPLIT > 1 ? (int)blockIdx.z * STEPS_PER_SPLIT : 0;
  const int k_end = SPLIT > 1 ? min(K_STEPS, k_begin + STEPS_PER_SPLIT) : K_STEPS;
  const u32 base = (u32)__cvta_generic_to_shared(shared);
  constexpr u32 A_BYTES = BM * ROW, B_BYTES = BN * ROW, STAGE = A_BYTES + B_BYTES;

#if !BULK_WEIGHTS
  // Where this thread's pieces of the B tile come from and go to. Rows of less than 128 bytes are
  // parts of those in memory.
  constexpr int B_CHUNKS = ROW / 16, B_EACH = (BN * B_CHUNKS + THREADS - 1) / THREADS;
  const W* b_from[B_EACH];
  u32 b_to[B_EACH];
  int b_k[B_EACH];  // the piece's first k in a step, or far away where there is none
#pragma unroll
  for (int u = 0; u < B_EACH; u++) {
    int i = tid + u * THREADS, part = ROW < 128 ? 0 : i / (BN * 8);
    int r = ROW < 128 ? i / B_CHUNKS : i / 8 % BN, c = i % (ROW < 128 ? B_CHUNKS : 8);
    bool mine = BN * B_CHUNKS % THREADS == 0 || i < BN * B_CHUNKS;
    b_k[u] = mine && n0 + r < OC_STORED ? part * 8 * PIECE : 1 << 30;
    b_from[u] = w + ((u64)part * OC_STORED + n0 + r) * 8 * PIECE + (ROW < 128 ? 0 : c * PIECE);
    b_to[u] = !mine ? 0xffffffffu : base + A_BYTES + (ROW < 128 ? swizzled(r, c) : r * ROW + part * 128 + c * 16);
  }
#endif
  // And of the A tile: one column of chunks, rows A_ROWS apart.
  constexpr int A_CHUNKS = BK / VEC, A_ROWS = THREADS / A_CHUNKS, A_EACH = (BM + A_ROWS - 1) / A_ROWS;
  const int a_col = tid % A_CHUNKS, a_row = tid / A_CHUNKS;
  int a_from[A_EACH];
  u32 a_to[A_EACH];
  u32 a_in[A_EACH];  // bit r: kernel row r is inside the picture; bit 16 + s: column s is
#pragma unroll
  for (int u = 0; u < A_EACH; u++) {
    int r = a_row + u * A_ROWS, m = m0 + r;
    bool mine = BM % A_ROWS == 0 || r < BM;
    const Pixel pixel = pixel_at(m);
    int ih = pixel.row * SH - PT, iw = pixel.column * SW - PL;
    a_from[u] = ((pixel.image * IH + ih) * IW + iw) * LDX;
    a_in[u] = 0;
    if (mine && m < M_TOTAL) {
#pragma unroll
      for (int t = 0; t < KH; t++) a_in[u] |= (u32)(ih + t * DH >= 0 && ih + t * DH < IH) << t;
#pragma unroll
      for (int t = 0; t < KW; t++) a_in[u] |= (u32)(iw + t * DW >= 0 && iw + t * DW < IW) << (16 + t);
    }
    a_to[u] = mine ? base + swizzled(r, a_col * VEC / PIECE) + a_col * VEC % PIECE * ELEMENT : 0xffffffffu;
  }

  auto load_b = [&](int stage, int step) {
#if BULK_WEIGHTS
    if (tid == 0 && step < k_end)
      copy_weights(base + stage * STAGE + A_BYTES, w + ((u64)step * OC_STORED + n0) * BK, min(BN, OC_STORED - n0), stage);
#else
#pragma unroll
    for (int u = 0; u < B_EACH; u++) {
      const int i = tid + u * THREADS, r = i / B_CHUNKS, c = i % B_CHUNKS;
      bool valid = step < k_end && step * BK + b_k[u] < K_PADDED;
      u64 offset = (u64)(step * B_CHUNKS / 8) * OC_STORED * 8 * PIECE;
      if (ROW < 128) offset += ((step * B_CHUNKS % 8 + c) ^ (r & 7)) * PIECE;
      if (BN * B_CHUNKS % THREADS == 0 || b_to[u] != 0xffffffffu) copy16(b_to[u] + stage * STAGE, valid ? b_from[u] + offset : w, valid);
    }
#endif
  };
  auto load_a = [&](int stage, int step) {
    int k = step * BK + a_col * VEC, tap = TAPS == 1 ? 0 : k / IC, c = TAPS == 1 ? k : k % IC;
    int th = tap / KW, tw = tap % KW, offset = (th * DH * IW + tw * DW) * LDX + c;
    bool in = step < k_end && k < K_TOTAL;
#pragma unroll
    for (int u = 0; u < A_EACH; u++) {
      bool valid = in && (a_in[u] >> th & a_in[u] >> (16 + tw) & 1);
      const X* from = x + (valid ? a_from[u] + offset : 0);
      if (BM % A_ROWS == 0 || a_to[u] != 0xffffffffu) {
        if (VEC == PIECE) copy_x16(a_to[u] + stage * STAGE, from, in, valid);
        else copy8(a_to[u] + stage * STAGE, from, valid);
      }
    }
  };

  open_inbox(tid);
  open_stages();
  // Weights do not depend on the kernels before this one: they travel while those finish.
  PROLOGUE_LOOP
  for (int s = 0; s < AHEAD; s++) load_b(s, k_begin + s);
  copy_ends(shared_ends, ends TOTALS, n0, tid);
  release_dependents();
  wait_for_producers();
  prefetch_residual(base, res, n0, tid);
  PROLOGUE_LOOP
  for (int s = 0; s < AHEAD; s++) {
    load_a(s, k_begin + s);
    asm volatile("cp.async.commit_group;");
  }

  Sums sums;
  clear(sums);

  int stage = 0, fill = AHEAD;
  u32 turn = 0;
  for (int step = k_begin; step < k_end; step++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1));
    const u32 at_a = base + stage * STAGE, at_b = at_a + A_BYTES;
#if WGMMA
    // The copies' bytes become visible to the products' asynchronous reads.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    wait_weights(stage, turn);
    const u64 a = descriptor<ROW>(at_a + (warp.row >> 2) * (64 * ROW), 8 * ROW), b = descriptor<ROW>(at_b, 8 * ROW);
    multiply(sums, a, b);
    load_a(fill, step + AHEAD);
    load_b(fill, step + AHEAD);
    asm volatile("cp.async.commit_group;");
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
#else
    __syncthreads();
    wait_weights(stage, turn);
    load_a(fill, step + AHEAD);
    load_b(fill, step + AHEAD);
    asm volatile("cp.async.commit_group;");
    multiply(sums, [&](int i, int chunk) { return at_a + swizzled(warp.row * WM + i * 16 + (tid & 15), chunk); }, at_b, warp);
#endif
    turn ^= stage == ST - 1;
    stage = stage == ST - 1 ? 0 : stage + 1;
    fill = fill == ST - 1 ? 0 : fill + 1;
  }
  add_up(sums, shared);
  finish(sums[0], shared, base, shared_ends, y, res, partial, tickets);
}
