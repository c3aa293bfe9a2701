// A block's tile of a matrix product: y [BM, BN] = a [BM, K] x b [K, BN], K in steps of BK
// through shared memory, sums in f32 in registers.
//
// MODE 0: FFMA on f32 tiles. Thread (tr, tc) of TR x TC has rows tr + i*TR and, four at a time,
// columns (tc + j*TC)*4; a is read four K at once, so that its rows stay K-contiguous.
// MODE 1: TF32 tensor cores (mma.sync m16n8k8). MODE 2: f16 tensor cores (mma.sync m16n8k16).
// In both WR x WC warps share the tile.
//
// With ASYNC the tiles arrive by cp.async, ST stages deep; without, through registers, two
// stages. With SPLIT > 1 blocks share K and the last one to finish adds up ("Stream-K", Osama
// et al. 2023, section on fixed-split with fix-up).
#if MODE == 2
typedef f16 S;
#else
typedef float S;
#endif

// A_BY_K: the a tile is [BK][BM] rather than [BM][BK]; B_BY_N: the b tile is [BN][BK] rather
// than [BK][BN]. Only tensor cores on f16 read those. Row pitches are free of bank conflicts.
#if A_BY_K
#define LDA (BM + 8)
#define A_TILE (BK * LDA)
#else
#define LDA (BK + 16 / (int)sizeof(S))
#define A_TILE (BM * LDA)
#endif
#if B_BY_N
#define LDB (BK + 8)
#define B_TILE (BN * LDB)
#else
#define LDB (BN + (MODE == 0 ? 4 : 8))
#define B_TILE (BK * LDB)
#endif
#define STAGE (A_TILE + B_TILE)

#if MODE == 0
#define THREADS (TR * TC)
#define TM (BM / TR)
#define TN (BN / TC)
#define ROWS TM
#define GROUPS_OF_COLUMNS (TN / 4)
#define TOGETHER 4
#else
#define THREADS (WR * WC * 32)
#define WM (BM / WR)
#define WN (BN / WC)
#define ROWS (WM / 8)
#define GROUPS_OF_COLUMNS (WN / 8)
#define TOGETHER 2
#endif
typedef float Sums[ROWS][GROUPS_OF_COLUMNS][TOGETHER];
static_assert(sizeof(Sums) % 16 == 0, "sums travel in fours");

// The row of the tile that sums[i] belongs to, and the first column of sums[i][j].
__device__ __forceinline__ int row_of(int i) {
#if MODE == 0
  return (int)threadIdx.x / TC + i * TR;
#else
  return (int)threadIdx.x / 32 / WC * WM + i / 2 * 16 + i % 2 * 8 + ((int)threadIdx.x & 31) / 4;
#endif
}
__device__ __forceinline__ int column_of(int j) {
#if MODE == 0
  return ((int)threadIdx.x % TC + j * TC) * 4;
#else
  return (int)threadIdx.x / 32 % WC * WN + j * 8 + (int)threadIdx.x % 4 * 2;
#endif
}

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

#if MODE == 1
__device__ __forceinline__ u32 to_tf32(float f) {
  u32 d;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(d) : "f"(f));
  return d;
}
#elif MODE == 2
__device__ __forceinline__ void load_matrix4(u32* d, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void load_matrix4_turned(u32* d, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void load_matrix2(u32* d, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(d[0]), "=r"(d[1]) : "r"(at) : "memory");
}
__device__ __forceinline__ void load_matrix2_turned(u32* d, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(d[0]), "=r"(d[1]) : "r"(at) : "memory");
}
#endif

// Adds one step's product.
__device__ __forceinline__ void multiply(Sums& acc, const S* a, const S* b) {
#if MODE == 0
  const int tr = threadIdx.x / TC, tc = threadIdx.x % TC;
#pragma unroll 4
  for (int k = 0; k < BK; k += 4) {
    float4 left[TM];
#pragma unroll
    for (int i = 0; i < TM; i++) left[i] = *(const float4*)(a + (tr + i * TR) * LDA + k);
#pragma unroll
    for (int q = 0; q < 4; q++) {
      float4 right[TN / 4];
#pragma unroll
      for (int j = 0; j < TN / 4; j++) right[j] = *(const float4*)(b + (k + q) * LDB + (tc + j * TC) * 4);
#pragma unroll
      for (int i = 0; i < TM; i++) {
        float l = q == 0 ? left[i].x : q == 1 ? left[i].y : q == 2 ? left[i].z : left[i].w;
#pragma unroll
        for (int j = 0; j < TN / 4; j++) {
          acc[i][j][0] = fmaf(l, right[j].x, acc[i][j][0]);
          acc[i][j][1] = fmaf(l, right[j].y, acc[i][j][1]);
          acc[i][j][2] = fmaf(l, right[j].z, acc[i][j][2]);
          acc[i][j][3] = fmaf(l, right[j].w, acc[i][j][3]);
        }
      }
    }
  }
#elif MODE == 1
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row0 = warp / WC * WM, col0 = warp % WC * WN;
#pragma unroll
  for (int k = 0; k < BK; k += 8) {
    u32 left[WM / 16][4], right[WN / 8][2];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
      const float* at = a + (row0 + i * 16 + lane / 4) * LDA + k + lane % 4;
      left[i][0] = to_tf32(at[0]), left[i][1] = to_tf32(at[8 * LDA]);
      left[i][2] = to_tf32(at[4]), left[i][3] = to_tf32(at[8 * LDA + 4]);
    }
#pragma unroll
    for (int j = 0; j < WN / 8; j++) {
      const float* at = b + (k + lane % 4) * LDB + col0 + j * 8 + lane / 4;
      right[j][0] = to_tf32(at[0]), right[j][1] = to_tf32(at[4 * LDB]);
    }
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(acc[2 * i][j][0]), "+f"(acc[2 * i][j][1]), "+f"(acc[2 * i + 1][j][0]), "+f"(acc[2 * i + 1][j][1])
                     : "r"(left[i][0]), "r"(left[i][1]), "r"(left[i][2]), "r"(left[i][3]), "r"(right[j][0]), "r"(right[j][1]));
  }
#else
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row0 = warp / WC * WM, col0 = warp % WC * WN;
  const u32 at_a = shared_address(a), at_b = shared_address(b);
#pragma unroll
  for (int k = 0; k < BK; k += 16) {
    u32 left[WM / 16][4], right[WN / 8][2];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
#if A_BY_K
      int r = k + (lane >> 4) * 8 + (lane & 7), c = row0 + i * 16 + ((lane >> 3) & 1) * 8;
      load_matrix4_turned(left[i], at_a + (r * LDA + c) * 2);
#else
      load_matrix4(left[i], at_a + ((row0 + i * 16 + (lane & 15)) * LDA + k + (lane >> 4) * 8) * 2);
#endif
    }
#pragma unroll
    for (int j = 0; j + 1 < WN / 8; j += 2) {
      u32 d[4];
#if B_BY_N
      int r = col0 + j * 8 + (lane >> 4) * 8 + (lane & 7), c = k + ((lane >> 3) & 1) * 8;
      load_matrix4(d, at_b + (r * LDB + c) * 2);
#else
      load_matrix4_turned(d, at_b + ((k + (lane & 15)) * LDB + col0 + j * 8 + (lane >> 4) * 8) * 2);
#endif
      right[j][0] = d[0], right[j][1] = d[1], right[j + 1][0] = d[2], right[j + 1][1] = d[3];
    }
#if WN / 8 % 2
#if B_BY_N
    load_matrix2(right[WN / 8 - 1], at_b + ((col0 + WN - 8 + (lane & 7)) * LDB + k + ((lane >> 3) & 1) * 8) * 2);
#else
    load_matrix2_turned(right[WN / 8 - 1], at_b + ((k + (lane & 15)) * LDB + col0 + WN - 8) * 2);
#endif
#endif
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(acc[2 * i][j][0]), "+f"(acc[2 * i][j][1]), "+f"(acc[2 * i + 1][j][0]), "+f"(acc[2 * i + 1][j][1])
                     : "r"(left[i][0]), "r"(left[i][1]), "r"(left[i][2]), "r"(left[i][3]), "r"(right[j][0]), "r"(right[j][1]));
  }
#endif
}

// N elements of T that are loaded at once; their address is a multiple of their size.
template <int BYTES> struct Word;
template <> struct Word<16> { typedef uint4 type; };
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<4> { typedef u32 type; };
template <> struct Word<2> { typedef u16 type; };
template <int N> union Piece {
  typename Word<N * sizeof(T)>::type word;
  T elements[N];
};

// Brings a piece to `to`, its elements `apart` elements from one another there: at once by
// cp.async, or into `held` now and to shared memory by `put`. What is not valid becomes zero.
template <int N>
__device__ __forceinline__ void fetch(S* to, const T* from, bool valid, Piece<N>& held) {
#if ASYNC
  static_assert(sizeof(S) == sizeof(T), "cp.async does not convert");
  int bytes = valid ? N * (int)sizeof(T) : 0;
  if (N * sizeof(T) == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes), "n"(N * sizeof(T) < 16 ? N * sizeof(T) : 8) : "memory");
#else
#pragma unroll
  for (int q = 0; q < N; q++) held.elements[q] = (T)0;
  if (valid) held.word = *(const typename Word<N * sizeof(T)>::type*)from;
#endif
}
__device__ __forceinline__ S converted(T v) {
#if T_F16 && MODE != 2
  return to_f32(v);
#else
  return v;
#endif
}
template <int N>
__device__ __forceinline__ void put(S* to, int apart, const Piece<N>& held) {
#if !ASYNC
  if (apart == 1 && sizeof(S) == sizeof(T)) {
    *(typename Word<N * sizeof(T)>::type*)to = held.word;
  } else if (apart == 1 && N % 4 == 0) {
#pragma unroll
    for (int q = 0; q < N; q += 4)
      *(float4*)(to + q) = make_float4(converted(held.elements[q]), converted(held.elements[q + 1]), converted(held.elements[q + 2]), converted(held.elements[q + 3]));
  } else {
#pragma unroll
    for (int q = 0; q < N; q++) to[q * apart] = converted(held.elements[q]);
  }
#endif
}

// Runs the steps [begin, end). `Left` and `Right` bring the tiles: start(to, step, end) and
// finish(to). Operands that are constants may travel before the kernels in front are through.
template <class Left, class Right>
__device__ __forceinline__ void run_steps(Sums& acc, S* memory, int begin, int end, Left& left, Right& right) {
#if ASYNC
  if (RIGHT_CONSTANT)
#pragma unroll
    for (int s = 0; s < ST - 1; s++) right.start(memory + s * STAGE + A_TILE, begin + s, end);
  release_dependents();
  wait_for_producers();
#pragma unroll
  for (int s = 0; s < ST - 1; s++) {
    if (!RIGHT_CONSTANT) right.start(memory + s * STAGE + A_TILE, begin + s, end);
    left.start(memory + s * STAGE, begin + s, end);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  int stage = 0;
  for (int step = begin; step < end; step++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(ST - 2) : "memory");
    __syncthreads();
    S* next = memory + (stage == 0 ? ST - 1 : stage - 1) * STAGE;
    left.start(next, step + ST - 1, end);
    right.start(next + A_TILE, step + ST - 1, end);
    asm volatile("cp.async.commit_group;" ::: "memory");
    multiply(acc, memory + stage * STAGE, memory + stage * STAGE + A_TILE);
    stage = stage == ST - 1 ? 0 : stage + 1;
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
#else
  if (RIGHT_CONSTANT) right.start(memory + A_TILE, begin, end);
  release_dependents();
  wait_for_producers();
  if (!RIGHT_CONSTANT) right.start(memory + A_TILE, begin, end);
  left.start(memory, begin, end);
  left.finish(memory), right.finish(memory + A_TILE);
  __syncthreads();
  int stage = 0;
  for (int step = begin; step < end; step++) {
    S* next = memory + (stage ^ 1) * STAGE;
    left.start(next, step + 1, end), right.start(next + A_TILE, step + 1, end);
    multiply(acc, memory + stage * STAGE, memory + stage * STAGE + A_TILE);
    left.finish(next), right.finish(next + A_TILE);
    __syncthreads();
    stage ^= 1;
  }
#endif
}

// Adds up the blocks that share a tile; true in the one that goes on with the sum.
__device__ __forceinline__ bool add_up(Sums& acc, int tile, int part, float* partial, int* tickets) {
#if SPLIT > 1
  constexpr int FOURS = sizeof(Sums) / 16;
  __shared__ int is_last;
  float* sums = &acc[0][0][0];
  float* mine = partial + ((u64)tile * SPLIT + part) * (FOURS * THREADS * 4) + threadIdx.x * 4;
#pragma unroll
  for (int i = 0; i < FOURS; i++)
    __stcg((float4*)(mine + i * THREADS * 4), make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]));
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(tickets + tile, 1) == SPLIT - 1;
    if (is_last) tickets[tile] = 0;  // ready for the next run
  }
  __syncthreads();
  if (!is_last) return false;
  __threadfence();
  // All parts in their order, this block's own too: the sum does not depend on who is last.
#pragma unroll
  for (int i = 0; i < FOURS * 4; i++) sums[i] = 0.0f;
  for (int z = 0; z < SPLIT; z++) {
    const float* other = partial + ((u64)tile * SPLIT + z) * (FOURS * THREADS * 4) + threadIdx.x * 4;
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
      float4 v = __ldcg((const float4*)(other + i * THREADS * 4));
      sums[4 * i] += v.x, sums[4 * i + 1] += v.y, sums[4 * i + 2] += v.z, sums[4 * i + 3] += v.w;
    }
  }
#endif
  return true;
}

// TOGETHER elements of T as floats, and back.
__device__ __forceinline__ void store_together(T* p, const float* d) {
#if T_F16 && TOGETHER == 4
  *(uint2*)p = make_uint2(pack_f16(d[0], d[1]), pack_f16(d[2], d[3]));
#elif T_F16
  *(u32*)p = pack_f16(d[0], d[1]);
#elif TOGETHER == 4
  *(float4*)p = make_float4(d[0], d[1], d[2], d[3]);
#else
  *(float2*)p = make_float2(d[0], d[1]);
#endif
}
__device__ __forceinline__ float load_one(const T* p) {
#if T_F16
  return to_f32(*p);
#else
  return *p;
#endif
}
__device__ __forceinline__ void store_one(T* p, float v) {
#if T_F16
  *p = to_f16(v);
#else
  *p = v;
#endif
}
