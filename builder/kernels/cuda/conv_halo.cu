// Convolution with stride 1 as an implicit GEMM whose A operand is a patch of the picture:
// BK channels of the tile's pixels and their neighbours are copied into shared memory once, and
// every tap multiplies the same patch from a shifted row on. Against conv_im2col.cu, which copies
// each tap's pixels anew, a 3x3 layer moves up to nine times fewer bytes of A from the L2 cache.
//
// A patch row is one pixel: BK elements, chunks swizzled by the row's place in shared memory. ldmatrix and wgmma both take a matrix that begins at any row: the swizzle is a function
// of the address alone.
//
// Tiles are BM rows of the padded picture (TILE_W 0: a tap shifts by a constant, at the price of
// rows in the padding that have no output), or TILE_H x TILE_W pixels in units of 8 x 8.
// Weights, K order, split and epilogue are conv_im2col.cu's; K is walked BK channels at a time,
// all taps of them, then the next.
//
// Where the stages hold all weights of one patch, all is copied at once and warps meet only once.
//
// With PRODUCER warps meet only where a new patch begins: a stage of weights is waited for by
// each warp alone, and filled again by a warp of its own as soon as all have told that they are
// through with it.

#define CHUNKS_OF_C ((IC + BK - 1) / BK)
#define PATCH_W (TILE_W == 0 ? PADDED_W : TILE_W + (KW - 1) * DW)
#if TILE_W == 0
#define PATCH_ROWS (BM + (KH - 1) * DH * PATCH_W + (KW - 1) * DW)
#else
#define PATCH_ROWS (PATCH_W * (TILE_H + (KH - 1) * DH))
#endif
#define HALO_STEPS (CHUNKS_OF_C * TAPS)
#define HALO_STEPS_PER_SPLIT ((HALO_STEPS + SPLIT - 1) / SPLIT)
#define PATCH_BYTES ((PATCH_ROWS * ROW + 1023) / 1024 * 1024)
#define PATCHES (CHUNKS_OF_C > 1 ? 2 : 1)
// A stage for each tap of the only patch.
#define ONE_ROUND (SPLIT == 1 && CHUNKS_OF_C == 1 && ST >= TAPS && !PRODUCER)
// Rows of weights in shared memory: as those of a patch, or, where bulk copies bring them, as they are
// in memory, several taps in each.
#define B_ROW (BULK_WEIGHTS ? 128 : ROW)
#define B_BLOCKS ((TAPS * ROW + B_ROW - 1) / B_ROW)
// Stages of weights that are asked for in front of the first patch: it would arrive behind all that
// are.
#define FIRST_STAGES (!BULK_WEIGHTS ? ST : BN * B_ROW <= 8192 ? 4 : BN * B_ROW <= 16384 ? 2 : 1)

// The patch row of the tile's row `r`, for the first tap.
__device__ __forceinline__ int patch_row(int r) {
#if TILE_W == 0
  return r;
#else
  int unit = r / 64;
  return (unit / (TILE_W / 8) * 8 + r % 64 / 8) * PATCH_W + unit % (TILE_W / 8) * 8 + r % 8;
#endif
}

extern "C" __global__ void CLUSTER_SHAPE __launch_bounds__(LAUNCHED)
KERNEL(const X* x, const W* __restrict__ w, const StoredEnd* __restrict__ ends, Y* y, const R* res, Sum* __restrict__ partial,
       int* __restrict__ tickets TOTALS_PARAMETER) {
  extern __shared__ __align__(1024) u8 unaligned[];
  u8* shared = unaligned + (1024 - (u32)__cvta_generic_to_shared(unaligned) % 1024) % 1024;
  __shared__ End shared_ends[BN];
  const int tid = threadIdx.x;
  const Place warp = place();
  const int n0 = blockIdx.x * BN;
  const int k_begin = SPLIT > 1 ? (int)blockIdx.z * HALO_STEPS_PER_SPLIT : 0;
  const int k_end = SPLIT > 1 ? min(HALO_STEPS, k_begin + HALO_STEPS_PER_SPLIT) : HALO_STEPS;
  const u32 base = (u32)__cvta_generic_to_shared(shared);
  constexpr u32 B_BYTES = BN * B_ROW, PATCH_AT = (B_ROW == ROW ? ST : B_BLOCKS) * B_BYTES;

  // This thread's pieces of B: one chunk of rows B_ROWS apart.
  constexpr int ROW_CHUNKS = ROW / 16, B_ROWS = THREADS / ROW_CHUNKS;
  const int column = tid % ROW_CHUNKS, first_row = tid / ROW_CHUNKS;
  // And of a patch: where its pixels begin in x, or -1 outside the picture.
  constexpr int A_EACH = (PATCH_ROWS + B_ROWS - 1) / B_ROWS;
  int a_from[A_EACH];
#if TILE_W != 0
  constexpr int ACROSS = (OW + TILE_W - 1) / TILE_W, DOWN = (OH + TILE_H - 1) / TILE_H;
  const int t_image = blockIdx.y / (ACROSS * DOWN), t_y = blockIdx.y / ACROSS % DOWN * TILE_H, t_x = blockIdx.y % ACROSS * TILE_W;
#endif
#pragma unroll
  for (int u = 0; u < A_EACH; u++) {
    int p = first_row + u * B_ROWS;
#if TILE_W == 0
    int q = blockIdx.y * BM + p, image = q / (PADDED_H * PADDED_W), rest = q % (PADDED_H * PADDED_W);
    int ih = rest / PADDED_W - PT, iw = rest % PADDED_W - PL;
#else
    int image = t_image, ih = t_y + p / PATCH_W - PT, iw = t_x + p % PATCH_W - PL;
#endif
    bool in = p < PATCH_ROWS && image < BATCH && ih >= 0 && ih < IH && iw >= 0 && iw < IW;
    a_from[u] = in ? ((image * IH + ih) * IW + iw) * LDX : -1;
  }

  // Of a bulk copy's many instructions each warp has its share where there are several in a row.
  auto load_b = [&](int stage, int step, int by = PRODUCER * THREADS) {
    u32 to = base + stage * B_BYTES;
#if BULK_WEIGHTS
    const int k = B_ROW == ROW ? step % TAPS * IC + step / TAPS * BK : step * (128 / ELEMENT);
    if (tid == by && step < k_end) copy_weights(to, w + ((u64)k * OC_STORED + n0 * (128 / ELEMENT)), min(BN, OC_STORED - n0), stage);
#else
    const int k = step % TAPS * IC + step / TAPS * BK;
    constexpr int B_EACH = (BN + B_ROWS - 1) / B_ROWS;
#pragma unroll
    for (int u = 0; u < B_EACH; u++) {
      // A row's pieces in the order of memory where they lie in one row there.
      constexpr bool WHOLE = ROW == 128 && IC % BK == 0;
      int r = first_row + u * B_ROWS, piece = WHOLE ? column ^ (r & 7) : column;
      bool valid = step < k_end && r < BN && n0 + r < OC_STORED && (WHOLE || k + piece * PIECE < K_PADDED);
      if (BN % B_ROWS == 0 || r < BN)
        copy16(to + swizzled(r, piece), valid ? w + weight_at(n0 + r, k + piece * PIECE, OC_STORED, ELEMENT) : w, valid);
    }
#endif
  };
  auto load_a = [&](int chunk) {
    const X* from = x + chunk * BK + column * PIECE;
    bool has = chunk * BK + column * PIECE < IC;
    u32 to = base + PATCH_AT + chunk % PATCHES * PATCH_BYTES;
#pragma unroll
    for (int u = 0; u < A_EACH; u++) {
      int p = first_row + u * B_ROWS;
      // Only the last round may go beyond the patch.
      bool valid = has && a_from[u] >= 0, there = PATCH_ROWS % B_ROWS == 0 || u < A_EACH - 1 || p < PATCH_ROWS;
      copy_x16(to + swizzled(p, column), has ? from + max(a_from[u], 0) : x, has, valid, there);
    }
  };

  Sums sums;
  clear(sums);
#if !WGMMA
  int a_row[WM / 16];
#pragma unroll
  for (int i = 0; i < WM / 16; i++) a_row[i] = patch_row(warp.row * WM + i * 16 + (tid & 15));
#endif
  // The products of a tap: of a patch and the stage of its weights, from byte `first` of its rows on.
  auto products = [&](int stage, int first, int chunk, int tap) {
    const int shift = tap / KW * DH * PATCH_W + tap % KW * DW;
    const u32 at_b = base + stage * B_BYTES + first, patch = base + PATCH_AT + chunk % PATCHES * PATCH_BYTES;
#if WGMMA
    constexpr u32 GROUP = (TILE_W == 0 ? 8 : PATCH_W) * ROW;
    multiply(sums, descriptor<ROW>(patch + (patch_row((warp.row >> 2) * 64) + shift) * ROW, GROUP), descriptor<B_ROW>(at_b, 8 * B_ROW));
#else
    multiply(sums, [&](int i, int chunk) { return patch + swizzled(a_row[i] + shift, chunk); }, at_b, warp);
#endif
  };
  // The copies' bytes become visible to the products' asynchronous reads.
  auto publish = [] {
#if WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  };

#if PRODUCER
  if (tid >= THREADS) {
    open_stages();
    for (int s = 0; s < min(ST, FIRST_STAGES); s++) load_b(s, k_begin + s);
    release_dependents();  // as the other threads of the block
    __syncthreads();
    for (int s = FIRST_STAGES; s < ST; s++) load_b(s, k_begin + s);
    u32 turn = 0;
    int stage = 0;
    if (tid == THREADS)
      for (int step = k_begin + ST; step < k_end; step++) {
        wait_phase(free_barrier(stage), turn);
        load_b(stage, step);
        turn ^= stage == ST - 1;
        stage = stage == ST - 1 ? 0 : stage + 1;
      }
    return;
  }
  open_inbox(tid);
  copy_ends(shared_ends, ends TOTALS, n0, tid);
  release_dependents();
  wait_for_producers();
  load_a(k_begin / TAPS);
  asm volatile("cp.async.commit_group;");
  prefetch_residual(base, res, n0, tid);
  __syncthreads();  // the stages' barriers are there

  u32 turn = 0;
  int stage = 0, chunk = k_begin / TAPS, tap = k_begin % TAPS;
  // Loops that are taken at least once: else sums would have to be moved, and products wait.
#pragma unroll 1
  do {
    asm volatile("cp.async.wait_group 0;");
    publish();
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
    if ((chunk + 1) * TAPS < k_end) load_a(chunk + 1);
    asm volatile("cp.async.commit_group;");
    const int taps = min(TAPS, k_end - chunk * TAPS);
    int before = -1;
#pragma unroll 1
    do {
      wait_weights(stage, turn);
      products(stage, 0, chunk, tap);
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
      if (before >= 0) free_stage(before);
      before = stage;
      turn ^= stage == ST - 1;
      stage = stage == ST - 1 ? 0 : stage + 1;
    } while (++tap < taps);
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    free_stage(before);
    tap = 0;
  } while (++chunk * TAPS < k_end);
#elif ONE_ROUND
  open_stages();
#if BULK_WEIGHTS
  __syncthreads();
#endif
  constexpr int WARPS = THREADS / 32;
  PROLOGUE_LOOP
  for (int s = 0; s < min(B_BLOCKS, FIRST_STAGES); s++) load_b(s, s, s % WARPS * 32);
  copy_ends(shared_ends, ends TOTALS, n0, tid);
  release_dependents();
  wait_for_producers();
  load_a(0);
#pragma unroll 1
  for (int s = FIRST_STAGES; s < B_BLOCKS; s++) load_b(s, s, s % WARPS * 32);
  asm volatile("cp.async.commit_group;");
  prefetch_residual(base, res, n0, tid);
  asm volatile("cp.async.commit_group; cp.async.wait_group 1;");
  publish();
  __syncthreads();
#pragma unroll 1
  for (int tap = 0; tap < TAPS; tap++) {
    const int stage = tap * ROW / B_ROW;
    wait_weights(stage, 0);
    products(stage, tap * ROW % B_ROW, 0, tap);
  }
#else
  open_inbox(tid);
  open_stages();
  // Weights do not depend on the kernels before this one: they travel while those finish.
  PROLOGUE_LOOP
  for (int s = 0; s < min(AHEAD, FIRST_STAGES); s++) load_b(s, k_begin + s);
  copy_ends(shared_ends, ends TOTALS, n0, tid);
  release_dependents();
  wait_for_producers();
  load_a(k_begin / TAPS);
#pragma unroll 1
  for (int s = FIRST_STAGES; s < AHEAD; s++) load_b(s, k_begin + s);
  asm volatile("cp.async.commit_group;");
  prefetch_residual(base, res, n0, tid);
#pragma unroll 1
  for (int s = 1; s < AHEAD; s++) {
    int step = k_begin + s;
    if (step < k_end && step % TAPS == 0) load_a(step / TAPS);
    asm volatile("cp.async.commit_group;");
  }

  u32 turn = 0;
  int stage = 0, fill = AHEAD, chunk = k_begin / TAPS, tap = k_begin % TAPS, ahead_tap = (k_begin + AHEAD) % TAPS;
  for (int step = k_begin; step < k_end; step++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1));
    auto load_next = [&] {
      if (ahead_tap == 0 && step + AHEAD < k_end) load_a((step + AHEAD) / TAPS);
      load_b(fill, step + AHEAD);
      asm volatile("cp.async.commit_group;");
    };
    publish();
    __syncthreads();
    wait_weights(stage, turn);
#if WGMMA
    products(stage, 0, chunk, tap);
    load_next();
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
#else
    load_next();
    products(stage, 0, chunk, tap);
#endif
    turn ^= stage == ST - 1;
    stage = stage == ST - 1 ? 0 : stage + 1;
    fill = fill == ST - 1 ? 0 : fill + 1;
    ahead_tap = ahead_tap == TAPS - 1 ? 0 : ahead_tap + 1;
    if (tap == TAPS - 1) tap = 0, chunk++;
    else tap++;
  }
#endif
  add_up(sums, shared);
  finish(sums[0], shared, base, shared_ends, y, res, partial, tickets);
}
