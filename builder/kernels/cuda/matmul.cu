// Matrix products of strided operands over tile.cuh, several at once:
// y[b] [M_TOTAL, N_TOTAL] = act(ALPHA * a[b] [.., K_TOTAL] x b[b] [K_TOTAL, ..] + BETA * c).
//
// Each operand has element strides of its own (32 bits reach inside one product): A_M and A_K, B_K and B_N, C_M and C_N, and per
// batch axis A_BATCH[], B_BATCH[] (0 broadcasts); y is dense with rows LDY apart. A piece of
// A_VEC elements lies along the axis of stride 1 (A_ALONG_M: the rows), likewise B_VEC.
#define M_TILES ((M_TOTAL + BM - 1) / BM)
#define N_TILES ((N_TOTAL + BN - 1) / BN)
#define K_STEPS ((K_TOTAL + BK - 1) / BK)
#define STEPS_PER_SPLIT ((K_STEPS + SPLIT - 1) / SPLIT)

struct Left {
#if A_ALONG_M
  static constexpr int CHUNKS = BM / A_VEC, PIECES = BK * CHUNKS;
#else
  static constexpr int CHUNKS = BK / A_VEC, PIECES = BM * CHUNKS;
#endif
  static constexpr int EACH = (PIECES + THREADS - 1) / THREADS;
  const T* a;
  int m0;
  Piece<A_VEC> held[EACH];

  __device__ __forceinline__ bool mine(int i) const { return PIECES % THREADS == 0 || i < PIECES; }
  // The first row and depth of a piece.
  __device__ __forceinline__ static int row(int i) { return A_ALONG_M ? i % CHUNKS * A_VEC : i / CHUNKS; }
  __device__ __forceinline__ static int depth(int i) { return A_ALONG_M ? i / CHUNKS : i % CHUNKS * A_VEC; }
  __device__ __forceinline__ static S* place(S* to, int i) {
    return A_BY_K ? to + depth(i) * LDA + row(i) : to + row(i) * LDA + depth(i);
  }
  __device__ __forceinline__ void start(S* to, int step, int end) {
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      int i = (int)threadIdx.x + u * THREADS, m = m0 + row(i), k = step * BK + depth(i);
      bool valid = step < end && m < M_TOTAL && k < K_TOTAL;
      if (mine(i)) fetch<A_VEC>(place(to, i), a + (valid ? m * A_M + k * A_K : 0), valid, held[u]);
    }
  }
  __device__ __forceinline__ void finish(S* to) {
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      int i = (int)threadIdx.x + u * THREADS;
      if (mine(i)) put<A_VEC>(place(to, i), A_ALONG_M && !A_BY_K ? LDA : 1, held[u]);
    }
  }
};

struct Right {
#if B_ALONG_K
  static constexpr int CHUNKS = BK / B_VEC, PIECES = BN * CHUNKS;
#else
  static constexpr int CHUNKS = BN / B_VEC, PIECES = BK * CHUNKS;
#endif
  static constexpr int EACH = (PIECES + THREADS - 1) / THREADS;
  const T* b;
  int n0;
  Piece<B_VEC> held[EACH];

  __device__ __forceinline__ bool mine(int i) const { return PIECES % THREADS == 0 || i < PIECES; }
  __device__ __forceinline__ static int column(int i) { return B_ALONG_K ? i / CHUNKS : i % CHUNKS * B_VEC; }
  __device__ __forceinline__ static int depth(int i) { return B_ALONG_K ? i % CHUNKS * B_VEC : i / CHUNKS; }
  __device__ __forceinline__ static S* place(S* to, int i) {
    return B_BY_N ? to + column(i) * LDB + depth(i) : to + depth(i) * LDB + column(i);
  }
  __device__ __forceinline__ void start(S* to, int step, int end) {
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      int i = (int)threadIdx.x + u * THREADS, n = n0 + column(i), k = step * BK + depth(i);
      bool valid = step < end && n < N_TOTAL && k < K_TOTAL;
      if (mine(i)) fetch<B_VEC>(place(to, i), b + (valid ? k * B_K + n * B_N : 0), valid, held[u]);
    }
  }
  __device__ __forceinline__ void finish(S* to) {
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      int i = (int)threadIdx.x + u * THREADS;
      if (mine(i)) put<B_VEC>(place(to, i), B_ALONG_K && !B_BY_N ? LDB : 1, held[u]);
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const T* a, const T* b, const T* c, T* y, float* partial, int* tickets) {
  extern __shared__ __align__(16) u8 shared[];
  constexpr int DIMS[] = BATCH_DIMS;
  constexpr long long A_STEPS[] = A_BATCH, B_STEPS[] = B_BATCH;
  int block = blockIdx.x;
  const int nt = block % N_TILES, mt = block / N_TILES % M_TILES;
  block /= N_TILES * M_TILES;
  const int part = block % SPLIT, product = block / SPLIT;
  const int tile = (product * M_TILES + mt) * N_TILES + nt, m0 = mt * BM, n0 = nt * BN;
  long long at_a = 0, at_b = 0;
  int rest = product;
#pragma unroll
  for (int i = BATCH_RANK - 1; i >= 0; i--) {
    int at = rest % DIMS[i];
    rest /= DIMS[i];
    at_a += at * A_STEPS[i], at_b += at * B_STEPS[i];
  }
  const int begin = part * STEPS_PER_SPLIT, end = SPLIT > 1 ? min(K_STEPS, begin + STEPS_PER_SPLIT) : K_STEPS;
  Left left;
  left.a = a + at_a, left.m0 = m0;
  Right right;
  right.b = b + at_b, right.n0 = n0;

  Sums acc;
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < GROUPS_OF_COLUMNS; j++)
#pragma unroll
      for (int q = 0; q < TOGETHER; q++) acc[i][j][q] = 0.0f;
  run_steps(acc, (S*)shared, begin, end, left, right);
  if (!add_up(acc, tile, part, partial, tickets)) return;

  T* out = y + (u64)product * M_TOTAL * LDY;
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    int m = m0 + row_of(i);
    if (m >= M_TOTAL) continue;
#pragma unroll
    for (int j = 0; j < GROUPS_OF_COLUMNS; j++) {
      int n = n0 + column_of(j);
      float v[TOGETHER];
#pragma unroll
      for (int q = 0; q < TOGETHER; q++) {
        v[q] = ALPHA * acc[i][j][q];
        if (HAS_C && n + q < N_TOTAL) v[q] += BETA * load_one(c + m * C_M + (n + q) * C_N);
        v[q] = activate<ACT>(v[q], ACT_A, ACT_B);
      }
#if N_TOTAL % TOGETHER == 0 && LDY % TOGETHER == 0
      if (n < N_TOTAL) store_together(out + (u64)m * LDY + n, v);
#else
#pragma unroll
      for (int q = 0; q < TOGETHER; q++)
        if (n + q < N_TOTAL) store_one(out + (u64)m * LDY + n + q, v[q]);
#endif
    }
  }
}
