// A strided copy between any two layouts: relayout, transpose, slice, broadcast, concat part,
// and change of element type.
//
// The output is walked as a box of RANK axes with extents D[], element strides SX[] in x (whose
// first element is X_OFFSET behind the address) and SY[] in y, all compile-time. X_KIND and
// Y_KIND: 0 f32, 1 f16, 2 i64, 3 i32, 4 u8/bool, 5 i8. With TILE the axes P (fastest in x) and
// RANK-1 (fastest in y) go through shared memory, so that both sides are read and written in
// rows. With VEC a thread moves that many elements that follow one another in y. Beyond VALID
// elements of VALID_AXIS zeros are written (channel padding).
#if X_KIND == 0
typedef float X;
#elif X_KIND == 1
typedef f16 X;
#elif X_KIND == 2
typedef long long X;
#elif X_KIND == 3
typedef int X;
#elif X_KIND == 4
typedef u8 X;
#else
typedef signed char X;
#endif
#if Y_KIND == 0
typedef float Y;
#elif Y_KIND == 1
typedef f16 Y;
#elif Y_KIND == 2
typedef long long Y;
#elif Y_KIND == 3
typedef int Y;
#elif Y_KIND == 4
typedef u8 Y;
#else
typedef signed char Y;
#endif

__device__ __forceinline__ Y converted(X v) {
#if X_KIND == Y_KIND
  return v;
#elif X_KIND == 1 && Y_KIND == 0
  return to_f32(v);
#elif X_KIND == 0 && Y_KIND == 1
  return to_f16(v);
#elif X_KIND == 1
  return (Y)to_f32(v);
#elif Y_KIND == 1
  return to_f16((float)v);
#else
  return (Y)v;
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, Y* y) {
  constexpr int D[] = DIMS;
  constexpr long long SX[] = X_STRIDES, SY[] = Y_STRIDES;
  release_dependents();
  wait_for_producers();
#if TILE
  __shared__ X tile[32][33];
  constexpr int Q = RANK - 1, TP = (D[P] + 31) / 32, TQ = (D[Q] + 31) / 32;
  int b = blockIdx.x, tp = b % TP, tq = b / TP % TQ, rest = b / TP / TQ;
  long long ox = X_OFFSET, oy = 0;
  bool inside = true;
#pragma unroll
  for (int i = RANK - 2; i >= 0; i--) {
    if (i == P) continue;
    int k = rest % D[i];
    rest /= D[i];
    if (i == VALID_AXIS && k >= VALID) inside = false;
    ox += k * SX[i], oy += k * SY[i];
  }
  int lx = threadIdx.x % 32, ly = threadIdx.x / 32;
#pragma unroll
  for (int r = ly; r < 32; r += THREADS / 32) {
    int p = tp * 32 + lx, q = tq * 32 + r;
    bool valid = !(VALID_AXIS == P && p >= VALID) && !(VALID_AXIS == Q && q >= VALID) && inside;
    if (p < D[P] && q < D[Q]) tile[r][lx] = valid ? x[ox + p * SX[P] + q * SX[Q]] : (X)0;
  }
  __syncthreads();
#pragma unroll
  for (int r = ly; r < 32; r += THREADS / 32) {
    int p = tp * 32 + r, q = tq * 32 + lx;
    if (p < D[P] && q < D[Q]) y[oy + p * SY[P] + q * SY[Q]] = converted(tile[lx][r]);
  }
#elif VEC
  constexpr int Q = RANK - 1;
  u32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= TOTAL / VEC) return;
  int k0 = (int)(i % (D[Q] / VEC)) * VEC;
  i /= D[Q] / VEC;
  long long ox = X_OFFSET + k0 * SX[Q], oy = k0;
  bool inside = true;
#pragma unroll
  for (int a = RANK - 2; a >= 0; a--) {
    int k = (int)(i % (u32)D[a]);
    i /= (u32)D[a];
    if (a == VALID_AXIS && k >= VALID) inside = false;
    ox += k * SX[a], oy += k * SY[a];
  }
  struct __align__(sizeof(X) * VEC < 16 ? sizeof(X) * VEC : 16) Xs { X v[VEC]; } from;
  struct __align__(sizeof(Y) * VEC < 16 ? sizeof(Y) * VEC : 16) Ys { Y v[VEC]; } to;
  if (SX[Q] == 1 && VALID_AXIS != Q && inside && (u64)(x + ox) % __alignof__(Xs) == 0) {
    from = *(const Xs*)(x + ox);
  } else {
#pragma unroll
    for (int e = 0; e < VEC; e++) from.v[e] = inside && !(VALID_AXIS == Q && k0 + e >= VALID) ? x[ox + e * SX[Q]] : (X)0;
  }
#pragma unroll
  for (int e = 0; e < VEC; e++) to.v[e] = converted(from.v[e]);
  if ((u64)(y + oy) % __alignof__(Ys) == 0) {
    *(Ys*)(y + oy) = to;
  } else {
#pragma unroll
    for (int e = 0; e < VEC; e++) y[oy + e] = to.v[e];
  }
#else
  long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (i >= TOTAL) return;
  long long ox = X_OFFSET, oy = 0;
  bool inside = true;
#pragma unroll
  for (int a = RANK - 1; a >= 0; a--) {
    int k = (int)(i % D[a]);
    i /= D[a];
    if (a == VALID_AXIS && k >= VALID) inside = false;
    ox += k * SX[a], oy += k * SY[a];
  }
  y[oy] = inside ? converted(x[ox]) : (Y)0;
#endif
}
