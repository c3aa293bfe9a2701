// A network's first convolution: 4 stored channels, kernels up to 4 x 4, few filters.
//
// x [N, IH, IW, 4] NHWC f16, or with PLANES floats as they were given, PLANE_CHANNELS of them, X_STEP_*
// apart along N, C, H and W; w and bias as conv_im2col.cu's, y [N, OH, OW, LDY]. A block copies the
// patch under TILE_H x TILE_W output pixels into shared memory; one kernel row of a pixel is 16
// halves there that follow one another (4 pixels of 4 channels), so mma.sync m16n8k16 takes one
// kernel row a step, straight from the patch, with no im2col matrix anywhere. All weights stay
// in registers. Results go through shared memory, so that stores are whole pieces of 8 channels.
// With POOLED a warp computes two rows at once and keeps the largest of each 2 x 2 sums: what follows
// them never falls where they rise (ConvLayer::pooled).

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
  // Places are unsigned: divisions of what might be negative take several times the instructions.
  const u32 tid = threadIdx.x, warp = tid / 32, lane = tid % 32, row = lane / 4, pair = lane % 4;
  const u32 ox0 = blockIdx.x * TILE_W, oy0 = blockIdx.y * TILE_H, image = blockIdx.z;

  // B fragments of all kernel rows: k = pair * 2 (+ 8) of a row, filter row of each 8.
  u32 b[KH][N_TILES][2];
#pragma unroll
  for (int r = 0; r < KH; r++)
#pragma unroll
    for (int j = 0; j < N_TILES; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const u32 k = pair * 2 + h * 8, f = j * 8 + row;
        b[r][j][h] = f < OC && k < TAPS_ROW ? early((const u32*)(w + weight_at(f, r * TAPS_ROW + k, OC_STORED, 2))) : 0;
      }
  float bias_of[N_TILES][2];
#pragma unroll
  for (int j = 0; j < N_TILES; j++)
#pragma unroll
    for (int q = 0; q < 2; q++) {
      const u32 f = j * 8 + pair * 2 + q;
      bias_of[j][q] = f < OC ? early(bias + f) : 0.0f;
    }
  wait_for_producers();
#if PLANES
  x += X_OFFSET + (int)image * X_STEP_N;
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
  for (u32 i = tid; i < PATCH; i += THREADS) {
    int ih = (int)(oy0 * SH + i / PATCH_W) - PT, iw = (int)(ox0 * SW + i % PATCH_W) - PL;
    bool in = ih >= 0 && ih < IH && iw >= 0 && iw < IW;
    copy8(at + i * 8, in ? x + ((u64)(image * IH + ih) * IW + iw) * LDX : x, in);
  }
  asm volatile("cp.async.commit_group; cp.async.wait_group 0;");
#endif
  __syncthreads();

  // Sums of 16 pixels of a row: neighbours in the halves of one lane's sums.
  auto sums = [&](u32 ty, u32 tx, float (&acc)[N_TILES][4]) {
#pragma unroll
    for (int r = 0; r < KH; r++) {
      const u32* first = (const u32*)(patch + (ty * SH + r * DH) * PATCH_W + (tx + row * 2) * SW) + pair;
      // k 8.. are the third and fourth pixel. Those behind the kernel count as zero: they may be infinite.
      const u32 left = pair * 2 < TAPS_ROW ? ~0u : 0, right = pair * 2 + 8 < TAPS_ROW ? ~0u : 0;
      const u32 a[4] = {first[0] & left, first[SW * 2] & left, first[4] & right, first[SW * 2 + 4] & right};
#pragma unroll
      for (int j = 0; j < N_TILES; j++) {
        if (r == 0) mma_from_zero(acc[j], a, b[r][j]);
        else mma(acc[j], a, b[r][j]);
      }
    }
  };
  auto finished = [&](int j, float p, float q) {
    return (Pair)stored2(activate<ACT>(p + bias_of[j][0], ACT_A, ACT_B), activate<ACT>(q + bias_of[j][1], ACT_A, ACT_B));
  };
  constexpr u32 STORED_H = POOLED ? OH / 2 : OH, STORED_W = POOLED ? OW / 2 : OW;
  for (u32 g = warp; g < GROUPS; g += WARPS) {
    const u32 ty = g / (TILE_W / 16) * TOGETHER, tx = g % (TILE_W / 16) * 16;
    const u32 oy = (oy0 + ty) / TOGETHER, ox = (ox0 + tx) / TOGETHER;
    if (oy >= STORED_H || ox >= STORED_W) continue;
    Y* mine = out[warp];
    float acc[N_TILES][4];
    sums(ty, tx, acc);
#if POOLED
    float below[N_TILES][4];
    sums(ty + 1, tx, below);
    auto largest = [&](int j, int q) { return larger(larger(acc[j][q], acc[j][q + 2]), larger(below[j][q], below[j][q + 2])); };
#pragma unroll
    for (int j = 0; j < N_TILES; j++) *(Pair*)(mine + row * OUT_PITCH + j * 8 + pair * 2) = finished(j, largest(j, 0), largest(j, 1));
#else
#pragma unroll
    for (int j = 0; j < N_TILES; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) *(Pair*)(mine + (row * 2 + h) * OUT_PITCH + j * 8 + pair * 2) = finished(j, acc[j][h * 2], acc[j][h * 2 + 1]);
#endif
    __syncwarp();
#pragma unroll
    for (u32 i = lane; i < STORED * N_TILES; i += 32) {
      const u32 p = i / N_TILES, c = i % N_TILES * 8;
      if (ox + p < STORED_W)
        store_shared<8 * sizeof(Y)>(y + ((u64)(image * STORED_H + oy) * STORED_W + ox + p) * LDY + c, mine + p * OUT_PITCH + c);
    }
    __syncwarp();
  }
}
