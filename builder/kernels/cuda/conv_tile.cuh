// What the f16 convolutions on tensor cores share: sizes, asynchronous copies, matrix
// fragments, and where a row of a tile lies in the output.

#define M_TOTAL (BATCH * OH * OW)
#define PADDED_W (OW + (KW - 1) * DW)
#define PADDED_H (OH + (KH - 1) * DH)
#define K_TOTAL (KH * KW * IC)
#define K_STEPS ((K_TOTAL + BK - 1) / BK)
#define K_PADDED ((K_TOTAL + 63) / 64 * 64)
#define STEPS_PER_SPLIT ((K_STEPS + SPLIT - 1) / SPLIT)
#define THREADS (WR * WC * 32)
#define WM (BM / WR)
#define WN (BN / WC)
#define TAPS (KH * KW)
// Steps that copies run ahead of the product. Warpgroup products are still reading one stage
// while the next is multiplied, so that one is not free yet.
#define AHEAD (WGMMA ? ST - 2 : ST - 1)
// Sums over odd and even k apart, where a tile has too few products to hide their latency.
#define SUMS (!WGMMA && WM / 16 * (WN / 8) <= 4 && BK >= 64 ? 2 : 1)
#if ROLLED
#define PROLOGUE_LOOP _Pragma("unroll 1")
#else
#define PROLOGUE_LOOP _Pragma("unroll")
#endif

__device__ __forceinline__ void copy16(u32 to, const void* from, bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ __forceinline__ void copy8(u32 to, const void* from, bool valid) {
  int bytes = valid ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ __forceinline__ void copy4(u32 to, const void* from, bool valid) {
  int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ __forceinline__ void load_matrix4(u32* d, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at));
}
__device__ __forceinline__ void load_matrix2(u32* d, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(d[0]), "=r"(d[1]) : "r"(at));
}
__device__ __forceinline__ void mma(float* c, const u32* a, const u32* b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Byte offset of 16-byte chunk `c` of row `r` in a tile whose rows are BK halves.
__device__ __forceinline__ u32 swizzled(int r, int c) {
#if BK == 32
  return (u32)(r * 64 + ((c ^ ((r >> 1) & 3)) << 4));
#else
  return (u32)(r * (BK * 2) + ((c ^ (r & 7)) << 4));
#endif
}

#if WGMMA
// Shared-memory descriptor of a K-major tile with 128-byte rows (PTX ISA, "Matrix descriptor"):
// address, bytes from 8 rows to the next, 128-byte swizzle. The swizzle goes by the address, so a
// tile may begin at any row.
__device__ __forceinline__ u64 descriptor(u32 at, u32 group) {
  return (u64)(at >> 4 & 0x3fff) | (u64)1 << 16 | (u64)(group >> 4) << 32 | (u64)1 << 62;
}
#endif


#if CLUSTER
#define CLUSTER_SHAPE __cluster_dims__(1, 1, SPLIT)
#else
#define CLUSTER_SHAPE
#endif

// The output pixel that row `r` of this block's tile computes, or -1.
__device__ __forceinline__ int output_pixel(int r) {
#if !HALO
  int m = blockIdx.y * BM + r;
  return m < M_TOTAL ? m : -1;
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
  return y < OH && x < OW ? (image * OH + y) * OW + x : -1;
#endif
}
