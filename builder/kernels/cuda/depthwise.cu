// Depthwise convolution, NHWC: each thread makes 8 channels of a column of COLS output pixels.
//
// x [BATCH, IH, IW, LDX], w [KH*KW, C] (tap-major), ends [C]: bias, y [BATCH, OH, OW, LDY], res
// like y with LDR. T is f16 or float, sums are f32; or T is integers from X_ZERO on, w i8, sums are
// s32 and an end is a multiplier and a bias. Results are stored as Y_KIND says, the residual is as
// R_KIND says.
//
// These layers are short: what counts is that nothing waits twice. Filter taps are on their way
// before the wait for the layer in front, and all input pixels of a thread before the first tap or
// pixel is used, as far as registers go. Of integers four taps of a channel are multiplied at a
// time (dp4a), bytes being transposed for it; padding then counts as X_ZERO, and X_ZERO times the
// taps' sum is taken away again.
typedef Numbers<Y_KIND>::Type Y;
typedef Numbers<R_KIND>::Type R;
#if T_KIND >= 4
typedef i8 W;
typedef float2 End;
#else
typedef T W;
typedef float End;
#endif
#define CHUNKS (C_STORED / 8)
#define COLUMN_BLOCKS ((OW + COLS - 1) / COLS)
#define TOTAL (BATCH * OH * COLUMN_BLOCKS * CHUNKS)
#define SPAN ((COLS - 1) * SW + (KW - 1) * DW + 1)
#define GROUPS ((KW + 3) / 4)

// 8 channels of a pixel, or of a tap.
#if T_KIND >= 4
typedef uint2 Eight;
#else
typedef Pack<T, 8> Eight;
#endif
struct Taps {  // a row
  Eight v[KW];
};

// In registers, in words: taps, sums, and the input pixels of a row.
constexpr int TAP_WORDS = KH * (int)sizeof(Taps) / 4, SUM_WORDS = COLS * 8, ROW_WORDS = SPAN * (int)sizeof(Eight) / 4;
constexpr bool EARLY = TAP_WORDS + SUM_WORDS <= 128;
constexpr bool WHOLE = KH * ROW_WORDS + (EARLY ? TAP_WORDS : TAP_WORDS / KH) + SUM_WORDS <= 168;
constexpr int ROWS = WHOLE ? KH : 1;

#if T_KIND >= 4
// Byte k of a, b, c and, unless it is of no use, d in word k.
__device__ __forceinline__ void transposed(u32* to, bool three, u32 a, u32 b, u32 c, u32 d) {
  u32 low = __byte_perm(a, b, 0x5140), high = __byte_perm(a, b, 0x7362);
  if (three) {
    to[0] = __byte_perm(low, c, 0x4410), to[1] = __byte_perm(low, c, 0x5532);
    to[2] = __byte_perm(high, c, 0x6610), to[3] = __byte_perm(high, c, 0x7732);
    return;
  }
  u32 low2 = __byte_perm(c, d, 0x5140), high2 = __byte_perm(c, d, 0x7362);
  to[0] = __byte_perm(low, low2, 0x5410), to[1] = __byte_perm(low, low2, 0x7632);
  to[2] = __byte_perm(high, high2, 0x5410), to[3] = __byte_perm(high, high2, 0x7632);
}
__device__ __forceinline__ u32 word(Eight e, int half) { return half ? e.y : e.x; }
#endif

// A row of taps; `p` is at its first one's channel.
__device__ __forceinline__ void load_taps(Taps& t, const W* p) {
#pragma unroll
  for (int s = 0; s < KW; s++) t.v[s] = early((const Eight*)(p + s * C_STORED));
}
struct __align__(16) Ends {
  End v[8];
};
// The inputs of output channels c to c + 7, from `p` on; what counts as 0 outside.
__device__ __forceinline__ Eight load_inputs(const T* p, int c, bool inside) {
#if T_KIND >= 4
  constexpr u32 ZEROS = (u32)(u8)X_ZERO * 0x01010101u;
  Eight d = make_uint2(ZEROS, ZEROS);
#if MULTIPLIER == 1
  if (inside) d = *(const uint2*)p;
#else
  if (inside) {
    u32 b[8];
#pragma unroll
    for (int q = 0; q < 8; q++) b[q] = (u8)p[(c + q) / MULTIPLIER - c / MULTIPLIER];
    d = make_uint2(b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24, b[4] | b[5] << 8 | b[6] << 16 | b[7] << 24);
  }
#endif
#else
  Eight d = {};
#if MULTIPLIER == 1
  if (inside) d = load_pack<T, 8>(p);
#else
#pragma unroll
  for (int q = 0; q < 8; q++)
    if (inside) d.v[q] = p[(c + q) / MULTIPLIER - c / MULTIPLIER];
#endif
#endif
  return d;
}
// Adds a row of taps times a row of inputs to the sums.
__device__ __forceinline__ void add_row(A (&acc)[COLS][8], const Taps& taps, const Eight (&in)[SPAN]) {
#if T_KIND >= 4
#pragma unroll
  for (int g = 0; g < GROUPS; g++) {
    u32 w[8];
    Eight tap[4];
#pragma unroll
    for (int j = 0; j < 4; j++) tap[j] = g * 4 + j < KW ? taps.v[min(g * 4 + j, KW - 1)] : uint2{};
#pragma unroll
    for (int half = 0; half < 2; half++)
      transposed(w + half * 4, false, word(tap[0], half), word(tap[1], half), word(tap[2], half), word(tap[3], half));
    int away[8] = {};
    if (X_ZERO)
#pragma unroll
      for (int q = 0; q < 8; q++) away[q] = dot4<5>(0x01010101, w[q], away[q]);
#pragma unroll
    for (int o = 0; o < COLS; o++) {
      // Where there is no tap any pixel will do: its weight is 0.
      Eight a = in[o * SW + g * 4 * DW];
      Eight b = in[o * SW + min(g * 4 + 1, KW - 1) * DW];
      Eight c = in[o * SW + min(g * 4 + 2, KW - 1) * DW];
      Eight d = in[o * SW + min(g * 4 + 3, KW - 1) * DW];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 x[4];
        transposed(x, KW <= g * 4 + 3, word(a, half), word(b, half), word(c, half), word(d, half));
#pragma unroll
        for (int q = 0; q < 4; q++) {
          int& sum = acc[o][half * 4 + q];
          sum = dot4<T_KIND>(x[q], w[half * 4 + q], sum) - X_ZERO * away[half * 4 + q];
        }
      }
    }
  }
#else
#pragma unroll
  for (int o = 0; o < COLS; o++)
#pragma unroll
    for (int s = 0; s < KW; s++)
#pragma unroll
      for (int q = 0; q < 8; q++) acc[o][q] += number(in[o * SW + s * DW].v[q]) * number(taps.v[s].v[q]);
#endif
}
// A sum through its end, the residual `r` (an integer's distance from its zero) and the activation.
__device__ __forceinline__ float finished(A sum, End end, float r) {
#if T_KIND >= 4
  float v = __fmaf_rn((float)sum, end.x, end.y);
#define ACTIVATED(v) activate_exact<ACT>(v, ACT_A, ACT_B)
#else
  float v = sum;  // which began with its end
#define ACTIVATED(v) activate<ACT>(v, ACT_A, ACT_B)
#endif
  if (RESIDUAL && !RESIDUAL_LAST) v = IS_INTEGER(R_KIND) ? __fmaf_rn(r, R_SCALE, v) : __fadd_rn(v, r);
  v = ACTIVATED(v);
  if (RESIDUAL && RESIDUAL_LAST) v = IS_INTEGER(R_KIND) ? __fmaf_rn(r, R_SCALE, v) : __fadd_rn(v, r);
  return v;
}

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const T* x, const W* __restrict__ w, const End* __restrict__ ends, Y* y, const R* res) {
  release_dependents();
  int i = blockIdx.x * THREADS + threadIdx.x;
  bool mine = i < TOTAL;
  if (!mine) i = 0;  // reads along, so that nothing branches
  int chunk = i % CHUNKS, rest = i / CHUNKS, block = rest % COLUMN_BLOCKS, oh = rest / COLUMN_BLOCKS % OH, n = rest / COLUMN_BLOCKS / OH;
  int c = chunk * 8, ow0 = block * COLS;
  A acc[COLS][8];
  Taps taps[EARLY ? KH : 1];
  const Ends end = early((const Ends*)(ends + c));
#pragma unroll
  for (int r = 0; r < (EARLY ? KH : 1); r++) load_taps(taps[r], w + r * KW * C_STORED + c);
  if (!EARLY)
#pragma unroll 1
    for (int tap = 0; tap < KH * KW; tap++) asm volatile("prefetch.global.L2 [%0];" ::"l"(w + tap * C_STORED + c));
#pragma unroll
  for (int o = 0; o < COLS; o++)
#pragma unroll
#if T_KIND >= 4
    for (int q = 0; q < 8; q++) acc[o][q] = 0;
#else
    for (int q = 0; q < 8; q++) acc[o][q] = end.v[q];
#endif
  wait_for_producers();
#pragma unroll
  for (int r0 = 0; r0 < KH; r0 += ROWS) {
    Eight in[ROWS][SPAN];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      int ih = oh * SH - PT + (r0 + r) * DH;
#pragma unroll
      for (int v = 0; v < SPAN; v++) {
        int iw = ow0 * SW - PL + v;
        bool inside = ih >= 0 && ih < IH && iw >= 0 && iw < IW;
        in[r][v] = load_inputs(x + (u64)((n * IH + ih) * IW + iw) * LDX + c / MULTIPLIER, c, inside);
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      if (!EARLY) load_taps(taps[0], w + (r0 + r) * KW * C_STORED + c);
      add_row(acc, taps[EARLY ? r0 + r : 0], in[r]);
    }
  }
  if (!mine) return;
#pragma unroll
  for (int o = 0; o < COLS; o++) {
    int ow = ow0 + o;
    if (ow >= OW) break;
    u64 pixel = (u64)(n * OH + oh) * OW + ow;
    float add[8], v[8];
    if (RESIDUAL) load_numbers<R_KIND>(add, res + pixel * LDR + c, R_ZERO);
#pragma unroll
    for (int q = 0; q < 8; q++) v[q] = finished(acc[o][q], end.v[q], RESIDUAL ? add[q] : 0.0f);
    store_numbers<Y_KIND>(y + pixel * LDY + c, v, Y_INVERSE, Y_ZERO);
  }
}
