// Fully connected layer at batch 1 to 4: y [BATCH, O] = act(x [BATCH, K] * w [O, K]^T + bias).
//
// Bound by reading w once: each warp takes ROWS outputs, its lanes stride over K in 16-byte
// pieces with UNROLL of them in flight; sums in f32, reduced by shuffles. With SPLIT warps per
// row group K is shared inside a block. T is f16 or float, or integers: then w is i8, sums are s32
// by dp4a, and an end is a multiplier and a bias rather than a bias. Outputs as Y_KIND says.
typedef Numbers<Y_KIND>::Type Y;
#if T_KIND >= 4
typedef i8 W;
typedef float2 End;
#else
typedef T W;
typedef float End;
#endif
#define THREADS (WARPS * 32)
#define PIECE (16 / (int)sizeof(T))
#define PIECES (K_STORED / PIECE)

// The products of two pieces, added up.
__device__ __forceinline__ A dot(uint4 v, uint4 q) {
#if T_KIND >= 4
  return dot4<T_KIND>(v.w, q.w, dot4<T_KIND>(v.z, q.z, dot4<T_KIND>(v.y, q.y, dot4<T_KIND>(v.x, q.x, 0))));
#elif T_F16
  return low_f32(v.x) * low_f32(q.x) + high_f32(v.x) * high_f32(q.x) + low_f32(v.y) * low_f32(q.y) + high_f32(v.y) * high_f32(q.y)
       + low_f32(v.z) * low_f32(q.z) + high_f32(v.z) * high_f32(q.z) + low_f32(v.w) * low_f32(q.w) + high_f32(v.w) * high_f32(q.w);
#else
  return __uint_as_float(v.x) * __uint_as_float(q.x) + __uint_as_float(v.y) * __uint_as_float(q.y)
       + __uint_as_float(v.z) * __uint_as_float(q.z) + __uint_as_float(v.w) * __uint_as_float(q.w);
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

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const T* x, const W* __restrict__ w, const End* __restrict__ ends, Y* y) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int group = warp / SPLIT, part = warp % SPLIT;
  const int o0 = (blockIdx.x * (WARPS / SPLIT) + group) * ROWS;
  __shared__ A sums[WARPS][ROWS * BATCH];
  A acc[ROWS][BATCH];
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int b = 0; b < BATCH; b++) acc[r][b] = 0;
  uint4 weights[UNROLL][ROWS];
  auto fetch = [&](int p0) {
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      int p = p0 + u * 32 * SPLIT;
#pragma unroll
      for (int r = 0; r < ROWS; r++)
        weights[u][r] = p < PIECES && o0 + r < O ? __ldcs((const uint4*)(w + (u64)(o0 + r) * K_STORED + p * PIECE)) : make_uint4(0, 0, 0, 0);
    }
  };
  release_dependents();
  int p0 = part * 32 + lane;
  fetch(p0);  // weights do not wait for the layer before
  const bool stores = part == 0 && lane < ROWS * BATCH && o0 + lane / BATCH < O;
  End end = {};
  if (stores) end = early(ends + o0 + lane / BATCH);
  wait_for_producers();
  for (; p0 < PIECES; p0 += UNROLL * 32 * SPLIT) {
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      int p = p0 + u * 32 * SPLIT;
      if (p < PIECES) {
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
          uint4 v = *(const uint4*)(x + b * LDX + p * PIECE);
#pragma unroll
          for (int r = 0; r < ROWS; r++) {
            uint4 q = weights[u][r];
            acc[r][b] += dot(v, q);
          }
        }
      }
    }
    fetch(p0 + UNROLL * 32 * SPLIT);
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
#pragma unroll
      for (int d = 16; d > 0; d >>= 1) acc[r][b] += __shfl_xor_sync(0xffffffff, acc[r][b], d);
      if (lane == 0) sums[warp][r * BATCH + b] = acc[r][b];
    }
  if (SPLIT > 1) __syncthreads();
  else __syncwarp();
  if (stores) {
#if T_KIND >= 4
    int sum = 0;
#pragma unroll
    for (int s = 0; s < SPLIT; s++) sum += sums[warp + s][lane];
    float v = activate_exact<ACT>(__fmaf_rn((float)sum, end.x, end.y), ACT_A, ACT_B);
#else
    float v = end;
#pragma unroll
    for (int s = 0; s < SPLIT; s++) v += sums[warp + s][lane];
    v = activate<ACT>(v, ACT_A, ACT_B);
#endif
    y[(u64)(lane % BATCH) * LDY + o0 + lane / BATCH] = stored(v);
  }
}
