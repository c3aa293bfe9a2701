// The end of an f16 convolution: partial sums of the blocks that share K, bias, residual,
// activation, stores. Sums are as mma.sync and wgmma leave them: rows lane / 4 and + 8, columns
// lane % 4 * 2 and + 1 of each 16 x 8 piece.
//
// Each block of a cluster finishes some rows: the others send it their sums of these rows, by
// stores into its inbox (distributed shared memory) and a barrier, or, with BULK, by one bulk copy
// each, counted by an mbarrier (PTX ISA, "cp.async.bulk"). Without clusters the last block to
// arrive adds up what the others left in memory.

// Rows that this block finishes, and where its residual and its inbox lie in shared memory.
#define OWN_ROWS (CLUSTER ? BM / SPLIT : BM)
#define RESIDUAL_PITCH (BN + 8)
#define INBOX_PITCH (BN + 4)
#define PREFETCH_RESIDUAL (RESIDUAL && (SPLIT == 1 || CLUSTER))

// Starts copying the residual of the rows that this block finishes.
__device__ __forceinline__ void prefetch_residual(u32 base, const f16* res, int n0, int tid) {
#if PREFETCH_RESIDUAL
  constexpr int CHUNKS = BN / 8;
  const int first = CLUSTER ? (int)blockIdx.z * OWN_ROWS : 0;
#pragma unroll
  for (int i = tid; i < OWN_ROWS * CHUNKS; i += THREADS) {
    int r = i / CHUNKS, c = i % CHUNKS * 8, p = output_pixel(first + r);
    bool valid = p >= 0 && n0 + c < OC_STORED;
    copy16(base + RESIDUAL_AT + (r * RESIDUAL_PITCH + c) * 2, valid ? res + (u64)p * LDR + n0 + c : res, valid);
  }
#endif
}

__device__ __forceinline__ void cluster_arrive() {
#if CLUSTER
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if CLUSTER
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The barrier that counts the bytes of the inbox.
__device__ __forceinline__ u64* inbox_barrier() {
  __shared__ __align__(8) u64 arrived;
  return &arrived;
}
// Once, before the first wait for the cluster.
__device__ __forceinline__ void open_inbox(int tid) {
#if CLUSTER
#if BULK
  if (tid == 0) {
    u32 at = (u32)__cvta_generic_to_shared(inbox_barrier());
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(at) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"((SPLIT - 1) * OWN_ROWS * INBOX_PITCH * 4) : "memory");
  }
#endif
  cluster_arrive();  // waited for before a block sends to another
#endif
}

__device__ __forceinline__ float finished(float v, float add) {
#if RESIDUAL_LAST
  return activate<ACT>(v, ACT_A, ACT_B) + add;
#else
  return activate<ACT>(v + add, ACT_A, ACT_B);
#endif
}

// All copies have landed. `shared` and `base` are one address, generic and shared.
__device__ __forceinline__ void finish(float (&acc)[WM / 16][WN / 8][4], u8* shared, u32 base, const float* shared_bias,
                                       f16* y, const f16* res, float* __restrict__ partial, int* __restrict__ tickets) {
  const int tid = threadIdx.x, lane = tid & 31;
  const Place warp = place();
  const bool holds = SLICES == 1 || warp.slice == 0;  // the sums
  const int n0 = blockIdx.x * BN, row0 = warp.row * WM + (lane >> 2), col0 = warp.column * WN + (lane & 3) * 2;
#if CLUSTER
  cluster_wait();
#if !INBOX_APART
  // The inbox lies over the stages: no block sends before all have read theirs.
  cluster_arrive();
  cluster_wait();
#endif
#if BULK
  constexpr u32 PART = OWN_ROWS * INBOX_PITCH * 4;
  const u32 arrived = (u32)__cvta_generic_to_shared(inbox_barrier());
  __syncthreads();  // all warps have read the stages, which the sums now overwrite
  float* sums = (float*)shared;
  if (holds)
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < WN / 8; j++)
          *(float2*)(sums + (row0 + i * 16 + h * 8) * INBOX_PITCH + col0 + j * 8) = make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (tid < SPLIT && tid != (int)blockIdx.z) {
    u32 to, there, local = base + INBOX_AT + blockIdx.z * PART;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(local), "r"(tid));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(arrived), "r"(tid));
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "r"(base + tid * PART), "r"(PART), "r"(there) : "memory");
  }
  u32 done = 0;
  while (!done)
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(arrived) : "memory");
  cluster_arrive();
#else
  if (holds)
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = row0 + i * 16 + h * 8;
      u32 to, local = base + INBOX_AT + (((int)blockIdx.z * OWN_ROWS + row % OWN_ROWS) * INBOX_PITCH + col0) * 4;
      asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(local), "r"(row / OWN_ROWS));
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
        asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(to + j * 32), "f"(acc[i][j][h * 2]), "f"(acc[i][j][h * 2 + 1]) : "memory");
    }
  cluster_arrive();
  cluster_wait();
#endif
  const float* inbox = (const float*)(shared + INBOX_AT);
  const f16* residual = (const f16*)(shared + RESIDUAL_AT);
#pragma unroll
  for (int p = tid; p < OWN_ROWS * BN / 4; p += THREADS) {
    int r = p / (BN / 4), c = p % (BN / 4) * 4, n = n0 + c, pixel = output_pixel((int)blockIdx.z * OWN_ROWS + r);
    if (pixel < 0 || n >= OC_STORED) continue;
    float v[4] = {shared_bias[c], shared_bias[c + 1], shared_bias[c + 2], shared_bias[c + 3]};
#pragma unroll
    for (int z = 0; z < SPLIT; z++) {
#if BULK
      const float* from = z == (int)blockIdx.z ? sums : inbox;
#else
      const float* from = inbox;
#endif
      float4 part = *(const float4*)(from + (z * OWN_ROWS + r) * INBOX_PITCH + c);
      v[0] += part.x, v[1] += part.y, v[2] += part.z, v[3] += part.w;
    }
    float add[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (RESIDUAL) {
      uint2 t = *(const uint2*)(residual + r * RESIDUAL_PITCH + c);
      add[0] = low_f32(t.x), add[1] = high_f32(t.x), add[2] = low_f32(t.y), add[3] = high_f32(t.y);
    }
#pragma unroll
    for (int q = 0; q < 4; q++) v[q] = finished(v[q], add[q]);
    *(uint2*)(y + (u64)pixel * LDY + n) = make_uint2(pack_f16(v[0], v[1]), pack_f16(v[2], v[3]));
  }
#if BULK
  cluster_wait();  // nobody leaves while its sums are being copied
#endif
#else
#if SPLIT > 1
  __shared__ int is_last;
  const int tile = blockIdx.y * gridDim.x + blockIdx.x;
  float* mine = partial + (u64)(tile * SPLIT + blockIdx.z) * (BM * BN);
  if (holds)
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        __stcg((float2*)(mine + (row0 + i * 16 + h * 8) * BN + col0 + j * 8), make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]));
  __threadfence();
  __syncthreads();
  if (tid == 0) {
    is_last = atomicAdd(tickets + tile, 1) == SPLIT - 1;
    if (is_last) tickets[tile] = 0;  // ready for the next run
  }
  __syncthreads();
  if (!is_last || !holds) return;
  __threadfence();
  for (int z = 0; z < SPLIT; z++) {
    if (z == (int)blockIdx.z) continue;
    const float* other = partial + (u64)(tile * SPLIT + z) * (BM * BN);
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          float2 v = __ldcg((const float2*)(other + (row0 + i * 16 + h * 8) * BN + col0 + j * 8));
          acc[i][j][h * 2] += v.x, acc[i][j][h * 2 + 1] += v.y;
        }
  }
#else
  __syncthreads();  // bias and residual, copied by other threads
  if (!holds) return;
#endif
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = row0 + i * 16 + h * 8, pixel = output_pixel(row);
      if (pixel < 0) continue;
#pragma unroll
      for (int j = 0; j < WN / 8; j++) {
        int c = col0 + j * 8, n = n0 + c;
        if (n >= OC_STORED) continue;
        float p = acc[i][j][h * 2] + shared_bias[c], q = acc[i][j][h * 2 + 1] + shared_bias[c + 1];
        float add_p = 0.0f, add_q = 0.0f;
        if (RESIDUAL) {
          u32 r = PREFETCH_RESIDUAL ? *(const u32*)(shared + RESIDUAL_AT + (row * RESIDUAL_PITCH + c) * 2)
                                    : *(const u32*)(res + (u64)pixel * LDR + n);
          add_p = low_f32(r), add_q = high_f32(r);
        }
        p = finished(p, add_p), q = finished(q, add_q);
        *(u32*)(y + (u64)pixel * LDY + n) = pack_f16(p, q);
      }
    }
#endif
}
