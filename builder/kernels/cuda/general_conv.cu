// Convolution of any kind as an implicit GEMM over tile.cuh: groups, kernels of any size,
// transposed, weights that are constants or values; f32, TF32 or f16.
//
// x's elements X_STEP_* apart along N, C, H and W, group g's channels from g*CG on; with PLANES floats
// as they were given, PLANE_CHANNELS of them, the other channels being zero. y [BATCH, OH, OW, LDY], group g's
// FILTERS from g*FILTERS on, FILTERS_STORED written in all; res like y with LDR; bias
// [GROUPS*FILTERS] f32. w [GROUPS, KH*KW*CG, LDW], or with W_BY_ROW the tensor core
// convolutions' (`weight_at`, LDW rows; one group). GEMM: M = pixels, N = a group's filters, K = taps * CG.
//
// A transposed convolution gathers: output row o takes input row (o + PT - t*DH) / SH for the
// taps t where that is whole. Rows with the same o % SH take the same taps (every TAP_STEP-th
// from FIRST_TAP on), so each such phase of rows and of columns is a convolution of its own
// with steps of 1 (Dumoulin and Visin, "A guide to convolution arithmetic", 2016, chapter 4).
#if TRANSPOSED
#define QH ((OH + SH - 1) / SH)
#define QW ((OW + SW - 1) / SW)
#define PHASES (SH * SW)
#else
#define QH OH
#define QW OW
#define PHASES 1
#endif
// With POOLED only the largest of each 2 x 2 results is stored, and of each TR * 4 rows of a tile
// (FFMA on f32) those TR apart are a window: a thread has all of one.
#define M_TOTAL (POOLED ? BATCH * (OH / 2) * (OW / 2) * 4 : BATCH * QH * QW)
#define M_TILES ((M_TOTAL + BM - 1) / BM)
#define N_TILES ((FILTERS_TILED + BN - 1) / BN)
// Steps of the phase with the most taps.
#define K_STEPS ((MOST_TAPS * CG + BK - 1) / BK)
#define STEPS_PER_SPLIT ((K_STEPS + SPLIT - 1) / SPLIT)
#define LARGE (1 << 29)

#if TRANSPOSED
__device__ __constant__ const int FIRST_ROW_TAP[SH] = FIRST_ROW_TAPS;
__device__ __constant__ const int FIRST_COLUMN_TAP[SW] = FIRST_COLUMN_TAPS;
#endif

// The taps of this block's phase.
struct Taps {
  int first_row, first_column, rows, columns;
};

#if PLANES
typedef Numbers<PLANE_KIND>::Type X;
#else
typedef T X;
#endif

// A tile of pixels and depth.
struct Pixels {
  static constexpr int CHUNKS = BK / VEC, APART = THREADS / CHUNKS, EACH = (BM + APART - 1) / APART;
  static_assert(THREADS % CHUNKS == 0, "a thread keeps its column");
  const X* x;
  Taps taps;
  int base[EACH], top[EACH], left[EACH];
  Piece<VEC> held[EACH];

  __device__ __forceinline__ S* place(S* to, int u) const {
    return to + ((int)threadIdx.x / CHUNKS + u * APART) * LDA + (int)threadIdx.x % CHUNKS * VEC;
  }
  __device__ __forceinline__ bool mine(int u) const {
    return BM % APART == 0 || (int)threadIdx.x / CHUNKS + u * APART < BM;
  }
  __device__ __forceinline__ void start(S* to, int step, int end) {
    int k = step * BK + (int)threadIdx.x % CHUNKS * VEC, c = k % CG, tap = k / CG;
    int across = TRANSPOSED ? max(taps.columns, 1) : KW, r = tap / across, s = tap % across;
    int down = r * ROW_STEP, right = s * COLUMN_STEP, offset = down * X_STEP_H + right * X_STEP_W + c * X_STEP_C;
    bool in = step < end && k < (TRANSPOSED ? taps.rows * taps.columns * CG : KH * KW * CG);
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      bool valid = in && (u32)(top[u] + down) < IH && (u32)(left[u] + right) < IW;
#if PLANES
#pragma unroll
      for (int q = 0; q < VEC; q++) {
        bool there = valid && mine(u) && c + q < PLANE_CHANNELS;
        held[u].elements[q] = there ? to_f16(number(x[base[u] + offset + q * X_STEP_C])) : (T)0;
      }
#else
      if (mine(u)) fetch<VEC>(place(to, u), x + (valid ? base[u] + offset : 0), valid, held[u]);
#endif
    }
  }
  __device__ __forceinline__ void finish(S* to) {
#pragma unroll
    for (int u = 0; u < EACH; u++)
      if (mine(u)) put<VEC>(place(to, u), 1, held[u]);
  }
};

// A tile of depth and filters.
struct Weights {
#if W_BY_ROW
  static constexpr int CHUNKS = BK / W_VEC, PIECES = BN * CHUNKS;
#else
  static constexpr int CHUNKS = BN / W_VEC, PIECES = BK * CHUNKS;
#endif
  static constexpr int EACH = (PIECES + THREADS - 1) / THREADS;
  const T* w;
  Taps taps;
  int n0;
  Piece<W_VEC> held[EACH];

  __device__ __forceinline__ bool mine(int u) const {
    return PIECES % THREADS == 0 || (int)threadIdx.x + u * THREADS < PIECES;
  }
  __device__ __forceinline__ S* place(S* to, int u) const {
    int i = (int)threadIdx.x + u * THREADS;
#if W_BY_ROW
    return to + i % CHUNKS * W_VEC * LDB + i / CHUNKS;
#else
    return to + i / CHUNKS * LDB + i % CHUNKS * W_VEC;
#endif
  }
  __device__ __forceinline__ void start(S* to, int step, int end) {
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      int i = (int)threadIdx.x + u * THREADS;
#if W_BY_ROW
      int k = step * BK + i % CHUNKS * W_VEC, n = n0 + i / CHUNKS;
      bool valid = step < end && k < KH * KW * CG && n < FILTERS;
      u64 at = weight_at(n, k, LDW, sizeof(T));
#else
      int k = step * BK + i / CHUNKS, n = n0 + i % CHUNKS * W_VEC;
      bool valid = step < end && n < LDW;
#if TRANSPOSED
      valid = valid && k < taps.rows * taps.columns * CG;
      int tap = k / CG, c = k % CG, across = max(taps.columns, 1), r = tap / across, s = tap % across;
      u64 at = (u64)(((taps.first_row + r * ROW_TAP_STEP) * KW + taps.first_column + s * COLUMN_TAP_STEP) * CG + c) * LDW + n;
#else
      valid = valid && k < KH * KW * CG;
      u64 at = (u64)k * LDW + n;
#endif
#endif
      if (mine(u)) fetch<W_VEC>(place(to, u), w + (valid ? at : 0), valid, held[u]);
    }
  }
  __device__ __forceinline__ void finish(S* to) {
#pragma unroll
    for (int u = 0; u < EACH; u++)
      if (mine(u)) put<W_VEC>(place(to, u), W_BY_ROW ? LDB : 1, held[u]);
  }
};

// What a residual stands for, and a result as it is stored.
typedef Numbers<Y_KIND>::Type Y;
typedef Numbers<R_KIND>::Type R;
__device__ __forceinline__ float real(R r) { return IS_INTEGER(R_KIND) ? (number(r) - R_ZERO) * R_SCALE : number(r); }
__device__ __forceinline__ Y stored(float v) {
#if IS_INTEGER(Y_KIND)
  return (Y)quantised<Y_KIND>(v, Y_INVERSE, Y_ZERO);
#elif Y_KIND == 1
  return to_f16(v);
#else
  return v;
#endif
}

#if RIGHT_CONSTANT
#define FIXED __restrict__
#else
#define FIXED
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const X* x, const T* FIXED w, const float* FIXED bias, Y* y, const R* res, float* partial, int* tickets) {
  extern __shared__ __align__(16) u8 shared[];
  S* memory = (S*)shared;
  int block = blockIdx.x;
  const int nt = block % N_TILES, mt = block / N_TILES % M_TILES;
  block /= N_TILES * M_TILES;
  const int part = block % SPLIT, group = block / SPLIT % GROUPS, phase = block / SPLIT / GROUPS;
  const int tile = ((phase * GROUPS + group) * M_TILES + mt) * N_TILES + nt;
  const int m0 = mt * BM, n0 = nt * BN;

  Taps taps = {0, 0, KH, KW};
  int phase_row = 0, phase_column = 0;
#if TRANSPOSED
  phase_row = phase / SW, phase_column = phase % SW;
  taps.first_row = FIRST_ROW_TAP[phase_row], taps.first_column = FIRST_COLUMN_TAP[phase_column];
  taps.rows = (KH - taps.first_row + ROW_TAP_STEP - 1) / ROW_TAP_STEP;
  taps.columns = (KW - taps.first_column + COLUMN_TAP_STEP - 1) / COLUMN_TAP_STEP;
#endif
  const int steps = TRANSPOSED ? (taps.rows * taps.columns * CG + BK - 1) / BK : K_STEPS;
  const int begin = part * STEPS_PER_SPLIT, end = SPLIT > 1 ? min(steps, begin + STEPS_PER_SPLIT) : steps;

  Pixels pixels;
  pixels.x = x + group * CG * X_STEP_C;
  pixels.taps = taps;
#pragma unroll
  for (int u = 0; u < Pixels::EACH; u++) {
    int r = (int)threadIdx.x / Pixels::CHUNKS + u * Pixels::APART, m = m0 + r;
    int image = m / (QH * QW), row = m / QW % QH, column = m % QW;
#if POOLED
    const int window = m0 / 4 + r / (TR * 4) * TR + r % TR, at = r / TR % 4;
    image = window / (OH / 2 * (OW / 2)), row = window / (OW / 2) % (OH / 2) * 2 + at / 2, column = window % (OW / 2) * 2 + at % 2;
    m = window * 4;
#endif
#if TRANSPOSED
    row = row * SH + phase_row, column = column * SW + phase_column;
    int top = (row + PT - taps.first_row * DH) / SH, left = (column + PL - taps.first_column * DW) / SW;
#else
    int top = row * SH - PT, left = column * SW - PL;
#endif
    pixels.base[u] = X_OFFSET + image * X_STEP_N + top * X_STEP_H + left * X_STEP_W;
    pixels.top[u] = m < M_TOTAL && pixels.mine(u) ? top : -LARGE;
    pixels.left[u] = left;
  }
  Weights weights;
  weights.w = w + (u64)group * (KH * KW * CG) * LDW;
  weights.taps = taps;
  weights.n0 = n0;

  Sums acc;
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < GROUPS_OF_COLUMNS; j++)
#pragma unroll
      for (int q = 0; q < TOGETHER; q++) acc[i][j][q] = 0.0f;
  run_steps(acc, memory, begin, end, pixels, weights);
  if (!add_up(acc, tile, part, partial, tickets)) return;

  // Channels behind the last filter are written too: zeros through the epilogue.
  const int limit = group == GROUPS - 1 ? FILTERS_STORED - group * FILTERS : FILTERS;
#pragma unroll
  for (int j = 0; j < GROUPS_OF_COLUMNS; j++) {
    int n = n0 + column_of(j), channel = group * FILTERS + n;
    if (n >= limit) continue;
    float start[TOGETHER];
#pragma unroll
    for (int q = 0; q < TOGETHER; q++) start[q] = n + q < FILTERS ? bias[channel + q] : 0.0f;
#if POOLED
    float largest[TOGETHER];
#endif
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#if POOLED
      const int r = row_of(i), m = m0 + (r / (TR * 4) * TR + r % TR) * 4;
#else
      const int m = m0 + row_of(i);
#endif
      if (m >= M_TOTAL) continue;
      u64 pixel = POOLED ? m / 4 : m;
#if TRANSPOSED
      int row = m / QW % QH * SH + phase_row, column = m % QW * SW + phase_column;
      if (row >= OH || column >= OW) continue;
      pixel = (u64)(m / (QH * QW) * OH + row) * OW + column;
#endif
      float v[TOGETHER];
#pragma unroll
      for (int q = 0; q < TOGETHER; q++) v[q] = acc[i][j][q] + start[q];
      auto value = [&](int q, float add) {
#if POOLED
        return largest[q];
#else
        return RESIDUAL_LAST ? activate<ACT>(v[q], ACT_A, ACT_B) + add : activate<ACT>(v[q] + add, ACT_A, ACT_B);
#endif
      };
#if POOLED
#pragma unroll
      for (int q = 0; q < TOGETHER; q++) {
        const float now = activate<ACT>(v[q], ACT_A, ACT_B), before = largest[q];
        largest[q] = i % 4 == 0 || now > before || now != now ? now : before;
      }
      if (i % 4 < 3) continue;
#endif
#if FILTERS % TOGETHER == 0 || GROUPS == 1
      Pack<R, TOGETHER> add = {};
      if (RESIDUAL) add = load_pack<R, TOGETHER>(res + pixel * LDR + channel);
#if Y_PLANES
      float result[TOGETHER];
#pragma unroll
      for (int q = 0; q < TOGETHER; q++) result[q] = value(q, RESIDUAL ? real(add.v[q]) : 0.0f);
      store_planes<FILTERS>(y, (u32)pixel, n, result);
#else
      Pack<Y, TOGETHER> out;
#pragma unroll
      for (int q = 0; q < TOGETHER; q++) out.v[q] = stored(value(q, RESIDUAL ? real(add.v[q]) : 0.0f));
      store_pack(y + pixel * LDY + channel, out);
#endif
#else
#pragma unroll
      for (int q = 0; q < TOGETHER; q++) {
        if (n + q >= limit) continue;
        y[pixel * LDY + channel + q] = stored(value(q, RESIDUAL ? real(res[pixel * LDR + channel + q]) : 0.0f));
      }
#endif
    }
  }
}
