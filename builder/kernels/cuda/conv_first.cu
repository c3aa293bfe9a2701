// A network's first convolution: 4 stored channels, kernels up to 4 x 4, few filters.
//
// x [N, IH, IW, 4] NHWC f16, or with PLANES floats as they were given, PLANE_CHANNELS of them, X_STEP_*
// apart along N, C, H and W; w and bias as conv_im2col.cu's, y [N, OH, OW, LDY]. A block copies the
// patch under TILE_H x TILE_W output pixels into shared memory; one kernel row of a pixel is 16
// halves there that follow one another (4 pixels of 4 channels), so mma.sync m16n8k16 takes one
// kernel row a step, straight from the patch, with no im2col matrix anywhere. All weights stay
// in registers. Results go through shared memory, so that stores are whole pieces of 8 channels.
// With POOLED a warp computes two rows at once and keeps the largest of each 2 x 2 results.

typedef Numbers<Y_KIND>::Type Y;

#define TAPS_ROW (KW * 4)
#define PATCH_H ((TILE_H - 1) * SH + (KH - 1) * DH + 1)
#define PATCH_W ((TILE_W - 1) * SW + 4)
#define PATCH (PATCH_H * PATCH_W)
#define N_TILES (OC_STORED / 8)
// Rows of 16 pixels that a warp computes at once.
#define TOGETHER (POOLED ? 2 : 1)
#define GROUPS (TILE_H * TILE_W / 16 / TOGETHER)
// Of these rows the results that are stored.
#define STORED (POOLED ? 8 : 16)
#define WARPS (THREADS / 32)
#define OUT_PITCH (OC_STORED + 16 / (int)sizeof(Y))
#if PLANES
typedef Numbers<PLANE_KIND>::Type X;
// Pixels that a thread brings into the patch, and how many of them it asks for before the first is there.
#define EACH ((PATCH + THREADS - 1) / THREADS)
#define ROUNDS ((EACH + 11) / 12)
#define ASKED ((EACH + ROUNDS - 1) / ROUNDS)
#else
typedef f16 X;
#endif
// Two results side by side, in 32 bits, or in the lower 16.
#if IS_INTEGER(Y_KIND)
typedef u16 Pair;
__device__ __forceinline__ u32 stored2(float p, float q) {
  return bytes2(quantised<Y_KIND>(p, Y_INVERSE, Y_ZERO), quantised<Y_KIND>(q, Y_INVERSE, Y_ZERO));
}
#else
typedef u32 Pair;
__device__ __forceinline__ u32 stored2(float p, float q) { return pack_f16(p, q); }
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1)
KERNEL(const X* x, const f16* __restrict__ w, const float* __restrict__ bias, Y* y) {
  __shared__ __align__(16) uint2 patch[PATCH];
  __shared__ __align__(16) Y out[WARPS][STORED * OUT_PITCH];
  release_dependents();
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, row = lane / 4, pair = lane % 4;
  const int ox0 = blockIdx.x * TILE_W, oy0 = blockIdx.y * TILE_H, image = blockIdx.z;

  // B fragments of all kernel rows: k = pair * 2 (+ 8) of a row, filter row of each 8.
  u32 b[KH][N_TILES][2];
#pragma unroll
  for (int r = 0; r < KH; r++)
#pragma unroll
    for (int j = 0; j < N_TILES; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        int k = pair * 2 + h * 8, f = j * 8 + row;
        b[r][j][h] = f < OC && k < TAPS_ROW ? early((const u32*)(w + weight_at(f, r * TAPS_ROW + k, OC_STORED, 2))) : 0;
      }
  float bias_of[N_TILES][2];
#pragma unroll
  for (int j = 0; j < N_TILES; j++)
#pragma unroll
    for (int q = 0; q < 2; q++) {
      int f = j * 8 + pair * 2 + q;
      bias_of[j][q] = f < OC ? early(bias + f) : 0.0f;
    }
  wait_for_producers();
#if PLANES
  x += X_OFFSET + image * X_STEP_N;
#pragma unroll
  for (int first = 0; first < EACH; first += ASKED) {
    X given[ASKED][4] = {};
#pragma unroll
    for (int u = 0; u < ASKED; u++) {
      const u32 i = tid + (first + u) * THREADS;
      const int ih = oy0 * SH - PT + (int)(i / PATCH_W), iw = ox0 * SW - PL + (int)(i % PATCH_W);
      if (i < PATCH && (u32)ih < IH && (u32)iw < IW)
#pragma unroll
        for (int c = 0; c < PLANE_CHANNELS; c++) given[u][c] = x[ih * X_STEP_H + iw * X_STEP_W + c * X_STEP_C];
    }
#pragma unroll
    for (int u = 0; u < ASKED; u++) {
      const u32 i = tid + (first + u) * THREADS;
      auto pair = [&](int c) { return pack_f16(number(given[u][c]), number(given[u][c + 1])); };
      if (i < PATCH) patch[i] = make_uint2(pair(0), pair(2));
    }
  }
#else
  const u32 at = (u32)__cvta_generic_to_shared(patch);
  for (int i = tid; i < PATCH; i += THREADS) {
    int ih = oy0 * SH - PT + i / PATCH_W, iw = ox0 * SW - PL + i % PATCH_W;
    bool in = ih >= 0 && ih < IH && iw >= 0 && iw < IW;
    int bytes = in ? 8 : 0;
    const f16* from = in ? x + ((u64)(image * IH + ih) * IW + iw) * LDX : x;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(at + i * 8), "l"(from), "r"(bytes));
  }
  asm volatile("cp.async.commit_group; cp.async.wait_group 0;");
#endif
  __syncthreads();

  // Results of 16 pixels of a row.
  auto results = [&](int ty, int tx, u32 (&e)[N_TILES][2]) {
    float acc[N_TILES][4];
#pragma unroll
    for (int j = 0; j < N_TILES; j++) acc[j][0] = acc[j][2] = bias_of[j][0], acc[j][1] = acc[j][3] = bias_of[j][1];
#pragma unroll
    for (int r = 0; r < KH; r++) {
      const u32* line = (const u32*)(patch + (ty * SH + r * DH) * PATCH_W + tx * SW);
      const u32* first = line + row * SW * 2 + pair;
      // k 8.. are the third and fourth pixel: those behind the kernel count as zero.
      const bool third = KW > 2 && pair * 2 + 8 < TAPS_ROW;
      const bool second = pair * 2 < TAPS_ROW;
      u32 a[4] = {second ? first[0] : 0, second ? first[8 * SW * 2] : 0, third ? first[4] : 0, third ? first[8 * SW * 2 + 4] : 0};
#pragma unroll
      for (int j = 0; j < N_TILES; j++) mma(acc[j], a, b[r][j]);
    }
#pragma unroll
    for (int j = 0; j < N_TILES; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        e[j][h] = stored2(activate<ACT>(acc[j][h * 2], ACT_A, ACT_B), activate<ACT>(acc[j][h * 2 + 1], ACT_A, ACT_B));
  };
  constexpr int STORED_H = POOLED ? OH / 2 : OH, STORED_W = POOLED ? OW / 2 : OW;
  for (int g = warp; g < GROUPS; g += WARPS) {
    const int ty = g / (TILE_W / 16) * TOGETHER, tx = g % (TILE_W / 16) * 16;
    const int oy = (oy0 + ty) / TOGETHER, ox = (ox0 + tx) / TOGETHER;
    if (oy >= STORED_H || ox >= STORED_W) continue;
    Y* mine = out[warp];
    u32 e[N_TILES][2];
    results(ty, tx, e);
#if POOLED
    u32 below[N_TILES][2];
    results(ty + 1, tx, below);
    // Neighbours in a row are 4 lanes apart; of two, one stores the left half, one the right.
#pragma unroll
    for (int j = 0; j < N_TILES; j++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        e[j][h] = larger2(e[j][h], below[j][h]);
        e[j][h] = larger2(e[j][h], __shfl_xor_sync(0xffffffff, e[j][h], 4));
      }
      *(Pair*)(mine + (row % 2 * 4 + row / 2) * OUT_PITCH + j * 8 + pair * 2) = (Pair)(row % 2 ? e[j][1] : e[j][0]);
    }
#else
#pragma unroll
    for (int j = 0; j < N_TILES; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) *(Pair*)(mine + (row + h * 8) * OUT_PITCH + j * 8 + pair * 2) = (Pair)e[j][h];
#endif
    __syncwarp();
#pragma unroll
    for (int i = lane; i < STORED * N_TILES; i += 32) {
      int p = i / N_TILES, c = i % N_TILES * 8;
      if (ox + p < STORED_W)
        store_pack(y + ((u64)(image * STORED_H + oy) * STORED_W + ox + p) * LDY + c, load_pack<Y, 8>(mine + p * OUT_PITCH + c));
    }
    __syncwarp();
  }
}
