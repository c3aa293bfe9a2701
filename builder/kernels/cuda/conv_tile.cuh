// What the convolutions on tensor cores share: sizes, a step's products, and where a row of a tile
// lies in the output. Elements are f16 or 8-bit integers (INTEGER); tiles go by bytes, so that both
// are copied and multiplied in one way.

typedef Numbers<X_KIND>::Type X;
#define ELEMENT ((int)sizeof(W))
// Elements in 16 bytes.
#define PIECE (16 / ELEMENT)
// Bytes of a tile's row.
#define ROW (BK * ELEMENT)

// With POOLED only the largest of each 2 x 2 results is stored, and pixels are walked window after
// window.
#define M_TOTAL (POOLED ? BATCH * (OH / 2) * (OW / 2) * 4 : BATCH * OH * OW)
// Rows of the padded picture share their padding: the zeros behind one are those before the next.
#define PADDING_RIGHT (OW + (KW - 1) * DW - IW - PL)
#define SHARED_W (IW + (PL > PADDING_RIGHT ? PL : PADDING_RIGHT))
#define PADDED_W (SHARED_W > OW ? SHARED_W : OW)
#define PADDED_H (OH + (KH - 1) * DH)
#define K_TOTAL (KH * KW * IC)
#define K_STEPS ((K_TOTAL + BK - 1) / BK)
#define K_PADDED ((K_TOTAL + 8 * PIECE - 1) / (8 * PIECE) * (8 * PIECE))
#define STEPS_PER_SPLIT ((K_STEPS + SPLIT - 1) / SPLIT)
// SLICES groups of warps multiply the same tile, each its own k of a step.
#define THREADS (WR * WC * SLICES * 32)
#define STEP_PRODUCTS (ROW / 32 / SLICES)
#define WM (BM / WR)
#define WN (BN / WC)
#define TAPS (KH * KW)
// Steps that copies run ahead of the product. Warpgroup products are still reading one stage
// while the next is multiplied, so that one is not free yet.
#define AHEAD (WGMMA ? ST - 2 : ST - 1)
// With PRODUCER a warp beside those that multiply brings the weights.
#define LAUNCHED (THREADS + PRODUCER * 32)
// Sums over odd and even k apart, where a tile has too few products to hide their latency.
#define SUMS (!WGMMA && WM / 16 * (WN / 8) <= 4 && STEP_PRODUCTS >= 4 ? 2 : 1)
#if ROLLED
#define PROLOGUE_LOOP _Pragma("unroll 1")
#else
#define PROLOGUE_LOOP _Pragma("unroll")
#endif

// Byte offset of 16-byte chunk `c` of row `r` in a tile whose rows are ROW bytes.
__device__ __forceinline__ u32 swizzled(int r, int c) {
  return (u32)(r * ROW + ((ROW == 32 ? c ^ ((r >> 2) & 1) : ROW == 64 ? c ^ ((r >> 1) & 3) : c ^ (r & 7)) << 4));
}

#if WGMMA
// Shared-memory descriptor of a K-major tile (PTX ISA, "Matrix descriptor"): address, bytes from 8
// rows to the next, the swizzle of its rows of 128, 64 or 32 bytes. The swizzle goes by the
// address, so a tile may begin at any row.
template <int BYTES>
__device__ __forceinline__ u64 descriptor(u32 at, u32 group) {
  return (u64)(at >> 4 & 0x3fff) | (u64)1 << 16 | (u64)(group >> 4) << 32 | (u64)(BYTES == 128 ? 1 : BYTES == 64 ? 2 : 3) << 62;
}
#endif

// Until an mbarrier's phase of this parity is over.
__device__ __forceinline__ void wait_phase(u32 barrier, u32 phase) {
  u32 done = 0;
  while (!done)
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(barrier), "r"(phase) : "memory");
}

// A stage's weights as one bulk copy, counted by the stage's mbarrier (PTX ISA, "cp.async.bulk").
#if BULK_WEIGHTS
__device__ __forceinline__ u32 stage_barrier(int stage) {
  __shared__ __align__(8) u64 landed[ST];
  return (u32)__cvta_generic_to_shared(landed + stage);
}
#if PRODUCER
// Of a stage that all warps have multiplied.
__device__ __forceinline__ u32 free_barrier(int stage) {
  __shared__ __align__(8) u64 read[ST];
  return (u32)__cvta_generic_to_shared(read + stage);
}
// This warp has multiplied a stage.
__device__ __forceinline__ void free_stage(int stage) {
  if ((threadIdx.x & 31) == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(free_barrier(stage)) : "memory");
}
#endif
__device__ __forceinline__ void open_stages() {
  if (threadIdx.x == PRODUCER * THREADS) {
#pragma unroll
    for (int s = 0; s < ST; s++) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(stage_barrier(s)) : "memory");
#if PRODUCER
#pragma unroll
    for (int s = 0; s < ST; s++) asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(free_barrier(s)), "n"(THREADS / 32) : "memory");
#endif
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
}
__device__ __forceinline__ void copy_weights(u32 to, const W* from, int rows, int stage) {
  const u32 bytes = rows * 128, at = stage_barrier(stage);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(at) : "memory");
}
// `turn`: how often the stage was filled before, modulo 2.
__device__ __forceinline__ void wait_weights(int stage, u32 turn) { wait_phase(stage_barrier(stage), turn); }
#else
__device__ __forceinline__ void open_stages() {}
__device__ __forceinline__ void wait_weights(int, u32) {}
#endif

#if CLUSTER
#define CLUSTER_SHAPE __cluster_dims__(1, 1, SPLIT)
#else
#define CLUSTER_SHAPE
#endif

// A warp's place: its rows and columns of the tile, and its slice of k.
struct Place {
  int row, column, slice;
};
__device__ __forceinline__ Place place() {
  const int warp = threadIdx.x >> 5, in_slice = warp % (WR * WC);
  return {in_slice / WC, in_slice % WC, warp / (WR * WC)};
}

// A tile's sums in registers, SUMS of them for each product.
typedef Sum Sums[SUMS][WM / 16][WN / 8][4];

__device__ __forceinline__ void clear(Sums& sums) {
#pragma unroll
  for (int z = 0; z < SUMS; z++)
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) sums[z][i][j][q] = 0;
}

#if WGMMA
// Starts one step's products of the matrices at two descriptors.
__device__ __forceinline__ void multiply(Sums& sums, u64 a, u64 b) {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int kk = 0; kk < ROW / 32; kk++) warpgroup_mma(sums[0], a + kk * 2, b + kk * 2);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
#else
// One step's products. `at_a(i, chunk)` is where this lane's row of A fragment `i` has a 16-byte
// chunk; B is a swizzled tile. Fragments are loaded one product ahead.
template <typename AtA>
__device__ __forceinline__ void multiply(Sums& sums, AtA at_a, u32 at_b, Place warp) {
  const int lane = threadIdx.x & 31;
  u32 a[2][WM / 16][4], b[2][WN / 8][2];
  auto load_fragments = [&](int product) {
    const int f = product & 1, kk = SLICES == 1 ? product : product * SLICES + warp.slice, wc = warp.column;
#pragma unroll
    for (int i = 0; i < WM / 16; i++) load_matrix4(a[f][i], at_a(i, kk * 2 + (lane >> 4)));
#pragma unroll
    for (int j = 0; j + 1 < WN / 8; j += 2) {
      u32 d[4];
      load_matrix4(d, at_b + swizzled(wc * WN + j * 8 + ((lane >> 4) << 3) + (lane & 7), kk * 2 + ((lane >> 3) & 1)));
      b[f][j][0] = d[0], b[f][j][1] = d[1], b[f][j + 1][0] = d[2], b[f][j + 1][1] = d[3];
    }
    if (WN / 8 % 2) load_matrix2(b[f][WN / 8 - 1], at_b + swizzled(wc * WN + WN - 8 + (lane & 7), kk * 2 + ((lane >> 3) & 1)));
  };
  load_fragments(0);
#pragma unroll
  for (int p = 0; p < STEP_PRODUCTS; p++) {
    if (p + 1 < STEP_PRODUCTS) load_fragments(p + 1);
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++) mma(sums[p % SUMS][i][j], a[p & 1][i], b[p & 1][j]);
  }
}
#endif

__device__ __forceinline__ void settled(float& sum) { asm volatile("" : "+f"(sum)::"memory"); }
__device__ __forceinline__ void settled(int& sum) { asm volatile("" : "+r"(sum)::"memory"); }

// Waits for the last products and copies, and brings a tile's sums together in the first, those of
// all slices in slice 0's.
__device__ __forceinline__ void add_up(Sums& sums, u8* shared) {
#if WGMMA
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  // Nothing may read the sums in front of this: the products would be done one by one.
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int q = 0; q < 4; q++) settled(sums[0][i][j][q]);
#endif
  asm volatile("cp.async.wait_group 0;");
#pragma unroll
  for (int z = 1; z < SUMS; z++)
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) sums[0][i][j][q] += sums[z][i][j][q];
#if SLICES > 1
  const Place warp = place();
  constexpr int PIECES = WM / 16 * (WN / 8), WARPS = WR * WC;
  Pack<Sum, 4>* apart = (Pack<Sum, 4>*)shared + (warp.row * WC + warp.column) * PIECES * 32 + (threadIdx.x & 31);
  __syncthreads();  // all warps have read the stages, which the sums now overwrite
  if (warp.slice > 0) {
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
      const Sum* s = sums[0][i / (WN / 8)][i % (WN / 8)];
      apart[((warp.slice - 1) * WARPS * PIECES + i) * 32] = {{s[0], s[1], s[2], s[3]}};
    }
  }
  __syncthreads();
  if (warp.slice == 0) {
#pragma unroll
    for (int z = 0; z < SLICES - 1; z++)
#pragma unroll
      for (int i = 0; i < PIECES; i++) {
        Pack<Sum, 4> s = apart[(z * WARPS * PIECES + i) * 32];
        Sum* to = sums[0][i / (WN / 8)][i % (WN / 8)];
        #pragma unroll
        for (int q = 0; q < 4; q++) to[q] += s.v[q];
      }
  }
#endif
}

// Where pixel `m` lies.
struct Pixel {
  int image, row, column;
};
__device__ __forceinline__ Pixel pixel_at(int m) {
#if POOLED
  const int window = m / 4;
  return {window / (OH / 2 * (OW / 2)), window / (OW / 2) % (OH / 2) * 2 + m / 2 % 2, window % (OW / 2) * 2 + m % 2};
#else
  return {m / (OH * OW), m / OW % OH, m % OW};
#endif
}

// The output pixel that row `r` of this block's tile computes, alone or with others, or -1.
__device__ __forceinline__ int output_pixel(int r) {
#if !HALO
  int m = blockIdx.y * BM + r;
  return m < M_TOTAL ? POOLED ? m / 4 : m : -1;
#elif TILE_W == 0
  // Rows go through the padded picture; its last columns and rows have no output.
  int q = blockIdx.y * BM + r, image = q / (PADDED_H * PADDED_W), rest = q % (PADDED_H * PADDED_W);
  int y = rest / PADDED_W, x = rest % PADDED_W;
  return image < BATCH && y < OH && x < OW ? (image * OH + y) * OW + x : -1;
#else
  // Units of 8 x 8 pixels, TILE_W / 8 of them side by side.
  constexpr int ACROSS = (OW + TILE_W - 1) / TILE_W, DOWN = (OH + TILE_H - 1) / TILE_H;
  int t = blockIdx.y, image = t / (ACROSS * DOWN), unit = r / 64;
  int y = t / ACROSS % DOWN * TILE_H + unit / (TILE_W / 8) * 8 + r % 64 / 8;
  int x = t % ACROSS * TILE_W + unit % (TILE_W / 8) * 8 + r % 8;
#if POOLED
  return y / 2 < OH / 2 && x / 2 < OW / 2 ? (image * (OH / 2) + y / 2) * (OW / 2) + x / 2 : -1;
#endif
  return y < OH && x < OW ? (image * OH + y) * OW + x : -1;
#endif
}
