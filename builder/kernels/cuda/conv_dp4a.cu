// Convolution of 8-bit integers of any kind by dp4a (compute capability 6.1 on): groups, kernels
// of any size, x with any zero point.
//
// x [BATCH, IH, IW, LDX], group g's channels from g*CG on; w [GROUPS*FILTERS, LDW] i8 with K
// ordered (kh, kw, c) and zeros behind, or with BLOCKS the tensor core convolutions' (`weight_at`,
// LDW rows); ends [GROUPS*FILTERS] multiplier and bias; totals
// [GROUPS*FILTERS] sums of a filter's weights (where x has a zero point); y [BATCH, OH, OW, LDY],
// group g's FILTERS from g*FILTERS on, FILTERS_STORED written in all; res like y with LDR.
//
// A block multiplies BM pixels by BN filters of a group, BK bytes of K a step, four to a word;
// words lie in shared memory by K, so that a thread's TM pixels and TN filters follow one another.
// The next step's pieces travel in registers. Padding counts as the zero point, whose products
// are taken off at the end.
typedef Numbers<X_KIND>::Type X;
typedef Numbers<Y_KIND>::Type Y;
typedef Numbers<R_KIND>::Type R;
#define THREADS (BM / TM * (BN / TN))
// With POOLED only the largest of each 2 x 2 results is stored, and pixels are walked window after
// window: a thread has all of one.
#define M_TOTAL (POOLED ? BATCH * (OH / 2) * (OW / 2) * 4 : BATCH * OH * OW)
#define K_TOTAL (KH * KW * CG)
#define K_STEPS ((K_TOTAL + BK - 1) / BK)
#define WORDS (BK / 4)
// Words of a piece.
#define A_WORDS (VEC == 16 ? 4 : 1)

__device__ __forceinline__ float with_residual(float v, R r) {
#if IS_INTEGER(R_KIND)
  return __fmaf_rn((float)((int)r - R_ZERO), R_SCALE, v);
#else
  return __fadd_rn(v, number(r));
#endif
}
__device__ __forceinline__ Y stored(float v) {
#if IS_INTEGER(Y_KIND)
  return (Y)quantised<Y_KIND>(v, Y_INVERSE, Y_ZERO);
#elif Y_KIND == 1
  return to_f16(v);
#else
  return v;
#endif
}
#if POOLED
__device__ __forceinline__ u8 larger(u8 a, u8 b) { return max(a, b); }
__device__ __forceinline__ i8 larger(i8 a, i8 b) { return max(a, b); }
__device__ __forceinline__ f16 larger(f16 a, f16 b) {
  const float p = to_f32(a), q = to_f32(b);
  return q > p || q != q ? b : a;
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const X* x, const i8* __restrict__ w, const float2* __restrict__ ends, const int* __restrict__ totals, Y* y, const R* res) {
  __shared__ __align__(16) u32 pixels[2][WORDS][BM + 4], filters[2][WORDS][BN + 4];
  const int tid = threadIdx.x, n0 = blockIdx.x * BN, m0 = blockIdx.y * BM, group = blockIdx.z;
  constexpr u32 NOTHING = (u32)(X_ZERO & 255) * 0x01010101u;

  // Pieces: one column of K, rows APART apart, so that a warp's stores meet different banks.
  constexpr int A_COLUMNS = WORDS / A_WORDS, A_EACH = (BM * A_COLUMNS + THREADS - 1) / THREADS;
  constexpr int B_COLUMNS = WORDS / 4, B_EACH = (BN * B_COLUMNS + THREADS - 1) / THREADS;
  u32 a[A_EACH][A_WORDS], b[B_EACH][4];
  auto pixel_at = [&](int image, int row, int column, int tap) -> const X* {
    int ih = row * SH - PT + tap / KW * DH, iw = column * SW - PL + tap % KW * DW;
    bool in = ih >= 0 && ih < IH && iw >= 0 && iw < IW;
    return in ? x + (u64)((image * IH + ih) * IW + iw) * LDX + group * CG : nullptr;
  };
  auto load = [&](int step) {
#pragma unroll
    for (int u = 0; u < A_EACH; u++) {
      int i = tid + u * THREADS, r = i % BM, k = step * BK + i / BM * A_WORDS * 4, m = m0 + r;
      int image = m / (OH * OW), row = m / OW % OH, column = m % OW;
#if POOLED
      const int window = m / 4;
      image = window / (OH / 2 * (OW / 2)), row = window / (OW / 2) % (OH / 2) * 2 + m / 2 % 2, column = window % (OW / 2) * 2 + m % 2;
#endif
#pragma unroll
      for (int q = 0; q < A_WORDS; q++) a[u][q] = NOTHING;
      if (i >= BM * A_COLUMNS || m >= M_TOTAL || k >= K_TOTAL) continue;
#if VEC > 1
      const X* from = pixel_at(image, row, column, k / CG);
      if (from) {
#if VEC == 16
        uint4 v = *(const uint4*)(from + k % CG);
        a[u][0] = v.x, a[u][1] = v.y, a[u][2] = v.z, a[u][3] = v.w;
#else
        a[u][0] = *(const u32*)(from + k % CG);
#endif
      }
#else
      u32 v = 0;
#pragma unroll
      for (int q = 0; q < 4; q++) {
        const X* from = k + q < K_TOTAL ? pixel_at(image, row, column, (k + q) / CG) : nullptr;
        v |= (from ? (u32)(u8)from[(k + q) % CG] : NOTHING & 255) << (q * 8);
      }
      a[u][0] = v;
#endif
    }
#pragma unroll
    for (int u = 0; u < B_EACH; u++) {
      int i = tid + u * THREADS, r = i % BN, k = step * BK + i / BN * 16, n = n0 + r;
      bool in = i < BN * B_COLUMNS && n < FILTERS && k < (BLOCKS ? (K_TOTAL + 127) / 128 * 128 : LDW);
      u64 at = BLOCKS ? weight_at(n, k, LDW, 1) : (u64)(group * FILTERS + n) * LDW + k;
      uint4 v = in ? *(const uint4*)(w + at) : make_uint4(0, 0, 0, 0);
      b[u][0] = v.x, b[u][1] = v.y, b[u][2] = v.z, b[u][3] = v.w;
    }
  };
  auto put = [&](int stage) {
#pragma unroll
    for (int u = 0; u < A_EACH; u++) {
      int i = tid + u * THREADS;
      if (i < BM * A_COLUMNS)
#pragma unroll
        for (int q = 0; q < A_WORDS; q++) pixels[stage][i / BM * A_WORDS + q][i % BM] = a[u][q];
    }
#pragma unroll
    for (int u = 0; u < B_EACH; u++) {
      int i = tid + u * THREADS;
      if (i < BN * B_COLUMNS)
#pragma unroll
        for (int q = 0; q < 4; q++) filters[stage][i / BN * 4 + q][i % BN] = b[u][q];
    }
  };

  int sums[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) sums[i][j] = 0;
  const int tm = tid / (BN / TN) * TM, tn = tid % (BN / TN) * TN;
  release_dependents();
  wait_for_producers();
  load(0);
  put(0);
  __syncthreads();
#pragma unroll 1
  for (int step = 0; step < K_STEPS; step++) {
    const int stage = step & 1;
    if (step + 1 < K_STEPS) load(step + 1);
#pragma unroll
    for (int k = 0; k < WORDS; k++) {
      Pack<u32, 4> left[TM / 4], right[TN / 4];
#pragma unroll
      for (int i = 0; i < TM / 4; i++) left[i] = load_pack<u32, 4>(&pixels[stage][k][tm + i * 4]);
#pragma unroll
      for (int j = 0; j < TN / 4; j++) right[j] = load_pack<u32, 4>(&filters[stage][k][tn + j * 4]);
#pragma unroll
      for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) sums[i][j] = dot4<X_KIND>(left[i / 4].v[i % 4], right[j / 4].v[j % 4], sums[i][j]);
    }
    if (step + 1 < K_STEPS) put(stage ^ 1);
    __syncthreads();
  }

  // Channels behind the last filter are written too: zeros through the epilogue.
  const int limit = group == GROUPS - 1 ? FILTERS_STORED - group * FILTERS : FILTERS;
#pragma unroll
  for (int j = 0; j < TN; j += 4) {
    const int n = n0 + tn + j, channel = group * FILTERS + n;
    if (n >= limit) continue;
    float2 end[4];
    int total[4];
#pragma unroll
    for (int q = 0; q < 4; q++) {
      bool real = n + q < FILTERS;
      end[q] = real ? ends[channel + q] : make_float2(0.0f, 0.0f);
      total[q] = X_ZERO != 0 && real ? X_ZERO * totals[channel + q] : 0;
    }
#if POOLED
    Y largest[4];
#endif
#pragma unroll
    for (int i = 0; i < TM; i++) {
      int m = m0 + tm + i;
      if (m >= M_TOTAL) continue;
      Pack<R, 4> add = {};
#if FILTERS % 4 == 0 || GROUPS == 1
      if (RESIDUAL) add = load_pack<R, 4>(res + (u64)m * LDR + channel);
#else
#pragma unroll
      for (int q = 0; q < 4; q++)
        if (RESIDUAL && n + q < limit) add.v[q] = res[(u64)m * LDR + channel + q];
#endif
      Pack<Y, 4> out;
      float result[4];
#pragma unroll
      for (int q = 0; q < 4; q++) {
        float v = __fmaf_rn((float)(sums[i][j + q] - total[q]), end[q].x, end[q].y);
        if (RESIDUAL && !RESIDUAL_LAST) v = with_residual(v, add.v[q]);
        v = activate_exact<ACT>(v, ACT_A, ACT_B);
        if (RESIDUAL && RESIDUAL_LAST) v = with_residual(v, add.v[q]);
        result[q] = v;
        out.v[q] = stored(v);
#if POOLED
        if (i % 4 > 0) out.v[q] = larger(largest[q], out.v[q]);
        largest[q] = out.v[q];
#endif
      }
#if POOLED
      if (i % 4 < 3) continue;
      m /= 4;
#endif
#if Y_PLANES
      store_planes<FILTERS>(y, m, n, result);
#elif FILTERS % 4 == 0 || GROUPS == 1
      store_pack(y + (u64)m * LDY + channel, out);
#else
#pragma unroll
      for (int q = 0; q < 4; q++)
        if (n + q < limit) y[(u64)m * LDY + channel + q] = out.v[q];
#endif
    }
  }
}
